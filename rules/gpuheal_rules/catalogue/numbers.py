"""Reads the numbers of the catalogue: thresholds, which are series, and those that stand in expressions themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from gpuheal_rules.catalogue.model import Number, Threshold
from gpuheal_rules.catalogue.reader import Reader, load_yaml

DATA = Path(__file__).parent / "data"
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_THRESHOLD_KEYS = ("value", "least", "most", "whole", "below", "unit", "reason", "source")
_BOUNDS = ("value", "least", "most")


def reader_of(path: Path) -> Reader:
    """Return the reader of a file of the catalogue, or of a site's folder."""
    # A file of a site needs its folder to be told from ours.
    return Reader(path.name if path.parent == DATA else str(path))


def read_thresholds(path: Path, shipped: Mapping[str, Threshold] | None = None) -> Mapping[str, Threshold]:
    """Return the thresholds of a file; they may name those that are `shipped`."""
    reader = reader_of(path)
    found: dict[str, Threshold] = {}
    for name, entry in reader.mapping(load_yaml(path), "").items():
        if not _NAME.fullmatch(name):
            raise reader.error(name, "threshold names are lower_snake_case")
        raw = reader.mapping(entry, name, _THRESHOLD_KEYS)
        found[name] = Threshold(
            name=name,
            value=reader.number(raw.get("value"), f"{name}.value"),
            least=reader.number(raw.get("least"), f"{name}.least"),
            most=reader.number(raw.get("most"), f"{name}.most"),
            whole=reader.flag(raw.get("whole"), f"{name}.whole"),
            below=raw.get("below", ""),
            unit=reader.text(raw.get("unit"), f"{name}.unit"),
            reason=reader.text(raw.get("reason"), f"{name}.reason"),
            source=reader.text(raw.get("source"), f"{name}.source"),
        )
    for name, item in found.items():
        if item.below and item.below not in {**found, **(shipped or {})}:
            raise reader.error(f"{name}.below", f"unknown threshold {item.below!r}")
        wrong = outside(item, item.value)
        if wrong:
            raise reader.error(f"{name}.value", wrong)
    return found


def read_numbers(path: Path) -> Mapping[str, Number]:
    """Return the numbers of a file that stand in expressions themselves."""
    reader = reader_of(path)
    found: dict[str, Number] = {}
    for name, entry in reader.mapping(load_yaml(path), "").items():
        raw = reader.mapping(entry, name, (*_THRESHOLD_KEYS, "changes"))
        duration = isinstance(raw.get("value"), str)
        value, least, most = (_quantity(reader, raw.get(key), f"{name}.{key}", duration) for key in _BOUNDS)
        found[name] = Number(
            name=name,
            value=value,
            least=least,
            most=most,
            whole=reader.flag(raw.get("whole"), f"{name}.whole"),
            below=raw.get("below", ""),
            unit=reader.text(raw.get("unit", "a duration" if duration else None), f"{name}.unit"),
            reason=reader.text(raw.get("reason"), f"{name}.reason"),
            source=reader.text(raw.get("source"), f"{name}.source"),
            changes=reader.texts(raw.get("changes"), f"{name}.changes"),
            duration=duration,
        )
    return found


def _quantity(reader: Reader, value: object, path: str, duration: bool) -> float:
    return reader.span(value, path).total_seconds() if duration else reader.number(value, path)


def outside(item: Threshold, value: float) -> str:
    """Return why a threshold cannot have this value, empty when it can."""
    if not item.least <= value <= item.most:
        return f"expected {item.unit} from {item.least:.12g} to {item.most:.12g}, got {value:.12g}"
    if item.whole and value != int(value):
        return f"expected a whole number of {item.unit}, got {value:.12g}"
    return ""
