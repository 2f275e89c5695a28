"""Reads trees of plain data strictly; every mistake names the file and the path inside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from gpuheal_rules.errors import ConfigError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+)(ms|s|m|h|d)")


def parse_duration(text: str) -> timedelta:
    """Return the span a Prometheus duration such as `1m30s` means; raise ValueError for anything else."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"expected a duration such as 15s, 5m or 1h30m, got {text!r}")
    return timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text)))


def format_duration(span: timedelta) -> str:
    """Return the shortest Prometheus duration that `parse_duration` reads back to `span`."""
    left = round(span.total_seconds() * 1000)
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


class Reader:
    """Takes values out of one parsed file; methods return the typed value or raise ConfigError."""

    def __init__(self, file: str) -> None:
        self.file = file

    def error(self, path: str, problem: str, hint: str = "") -> ConfigError:
        """Return the error for a mistake at `path` of this file."""
        return ConfigError(self.file, path, problem, hint)

    def mapping(self, value: object, path: str, known: Sequence[str] | None = None) -> Mapping[str, Any]:
        """Return `value` as a mapping with text keys, all of them in `known` unless that is None."""
        if not isinstance(value, dict):
            raise self.error(path, f"expected a mapping, got {type(value).__name__}")
        for key in value:
            where = f"{path}.{key}" if path else str(key)
            if not isinstance(key, str):
                raise self.error(where, f"expected a string as key, got {key!r}")
            if known is not None and key not in known:
                raise self.error(where, "unknown key", f"known: {', '.join(known)}")
        return value

    def items(self, value: object, path: str) -> Sequence[Any]:
        """Return `value` as a list; None means empty."""
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(path, f"expected a list, got {type(value).__name__}")
        return value

    def text(self, value: object, path: str) -> str:
        """Return `value` as a text that is not empty, without surrounding blanks."""
        if not isinstance(value, str) or not value.strip():
            raise self.error(path, "missing" if value is None else f"expected a string, got {value!r}")
        return value.strip()

    def texts(self, value: object, path: str) -> tuple[str, ...]:
        """Return `value` as a tuple of texts; None means empty."""
        return tuple(self.text(item, f"{path}[{i}]") for i, item in enumerate(self.items(value, path)))

    def choice(self, value: object, path: str, known: Sequence[str]) -> str:
        """Return `value` when it is one of `known`."""
        if value not in known:
            raise self.error(path, f"expected one of {', '.join(known)}, got {value!r}")
        return str(value)

    def number(self, value: object, path: str) -> float:
        """Return `value` as a float; booleans are not numbers."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(path, f"expected a number, got {value!r}")
        return float(value)

    def flag(self, value: object, path: str) -> bool:
        """Return `value` as a bool; None means False."""
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.error(path, f"expected true or false, got {value!r}")
        return value

    def span(self, value: object, path: str) -> timedelta:
        """Return `value` as a span of time."""
        try:
            return parse_duration(self.text(value, path))
        except ValueError as problem:
            raise self.error(path, str(problem)) from None


def load_yaml(path: Path) -> object:
    """Return the document of a YAML file; raise ConfigError when it is missing or not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506
    except OSError as problem:
        raise ConfigError(path.name, "", f"cannot be read: {problem.strerror}") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(path.name, where, f"not YAML: {getattr(problem, 'problem', problem)}") from None
