"""Loads data/*.yaml into `model.Catalogue`; a mistake is a ConfigError naming the file and the path inside it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuheal_rules.catalogue import model
from gpuheal_rules.catalogue.model import (
    Alert,
    Catalogue,
    Counter,
    Evidence,
    Fault,
    ForeignCondition,
    Labels,
    Runbook,
    Signal,
    Threshold,
)
from gpuheal_rules.catalogue.numbers import DATA, read_numbers, read_thresholds, reader_of
from gpuheal_rules.catalogue.reader import Reader, load_yaml
from gpuheal_rules.catalogue.texts import WAIT, told, words
from gpuheal_rules.errors import ConfigError

CATALOG = DATA
_SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_ALERT = re.compile(r"(GPU|NVLink)[A-Za-z0-9]+")
_EVIDENCE_KEYS = ("name", "class", "strength", "signal", "op", "value", "threshold", "leave", "growth", "special",
    "guarded", "timed", "overruled")  # fmt: skip
_FAULT_KEYS = (
    "title", "family", "scope", "state", "hardware", "witness", "downgrade", "upgrade", "hold", "condition",
    "evidence", "alerts", "ladder", "runbook",
    "sources",
)  # fmt: skip
GROWTH_WINDOWS = ("1h", "24h")


@functools.cache
def load_catalogue(directory: Path = CATALOG) -> Catalogue:
    """Return the catalogue in `directory`, read once; raise ConfigError on the first mistake."""
    labels = _labels(directory / "labels.yaml")
    thresholds = read_thresholds(directory / "thresholds.yaml")
    signals = read_signals(directory / "signals.yaml")
    conditions = _conditions(directory / "conditions.yaml", labels)
    table = _xids(directory / "xids.yaml")
    codes = {code: row["fault"] for code, row in table.items()}
    faults = read_faults(directory / "faults.yaml", labels, thresholds, signals, codes)
    found = Catalogue(
        labels=labels,
        thresholds=thresholds,
        numbers=read_numbers(directory / "numbers.yaml"),
        signals=signals,
        conditions=conditions,
        faults=faults,
        known_xids=tuple(sorted(codes)),
        quiet_xids=frozenset(
            code for code, row in table.items() if row["fault"] == "none" and row["severity"] == "info"
        ),
        weak_numbers=frozenset(code for code, row in table.items() if row.get("number") == "weak"),
        recoveries=_recoveries(directory / "xids.yaml"),
        xid_texts={code: row["summary"] for code, row in table.items()},
    )
    for fault, alert in found.alerts():
        for word in words(alert):
            if word != WAIT and word not in found.numbers:
                raise ConfigError(
                    "faults.yaml", f"{fault.slug}.alerts", f"{alert.name} names an unknown number {word!r}"
                )
    return told(found)


def _labels(path: Path) -> Labels:
    reader = Reader(path.name)
    keys = ("alert", "annotations", "topology", "forbidden", "own_conditions")
    raw = reader.mapping(load_yaml(path), "", keys)
    return Labels(**{key: reader.texts(raw.get(key), key) for key in keys})


def read_signals(path: Path) -> Mapping[str, Signal]:
    """Return the signals of a file."""
    reader = reader_of(path)
    found: dict[str, Signal] = {}
    for name, entry in reader.mapping(load_yaml(path), "").items():
        if not _NAME.fullmatch(name):
            raise reader.error(name, "signal names are lower_snake_case")
        raw = reader.mapping(entry, name, ("source", "scope", "metrics", "match", "unit", "meaning", "counters"))
        metrics = reader.texts(raw.get("metrics"), f"{name}.metrics")
        if not metrics:
            raise reader.error(f"{name}.metrics", "at least one metric name")
        for index, metric in enumerate(metrics):
            if not _METRIC.fullmatch(metric):
                raise reader.error(f"{name}.metrics[{index}]", f"{metric!r} is not a metric name")
        found[name] = Signal(
            name=name,
            source=reader.choice(raw.get("source"), f"{name}.source", model.SOURCES),
            scope=reader.choice(raw.get("scope", "gpu"), f"{name}.scope", ("gpu", "node", "fleet")),
            metrics=metrics,
            match=raw.get("match", ""),
            unit=reader.text(raw.get("unit"), f"{name}.unit"),
            meaning=reader.text(raw.get("meaning"), f"{name}.meaning"),
            counters=_counters(reader, raw.get("counters"), f"{name}.counters"),
        )
    return found


def _counters(reader: Reader, value: object, path: str) -> tuple[Counter, ...]:
    found = []
    for index, entry in enumerate(reader.items(value, path)):
        where = f"{path}[{index}]"
        raw = reader.mapping(entry, where, ("field", "type", "help"))
        text = reader.text(raw.get("help"), f"{where}.help")
        if "," in text:
            raise reader.error(f"{where}.help", "a comma would end the CSV column")
        kind = reader.choice(raw.get("type"), f"{where}.type", ("gauge", "counter", "label"))
        found.append(Counter(field=reader.text(raw.get("field"), f"{where}.field"), type=kind, help=text))
    return tuple(found)


def _conditions(path: Path, labels: Labels) -> tuple[ForeignCondition, ...]:
    reader = Reader(path.name)
    top = reader.mapping(load_yaml(path), "", ("conditions",))
    found = []
    for index, entry in enumerate(reader.items(top.get("conditions"), "conditions")):
        where = f"conditions[{index}]"
        raw = reader.mapping(entry, where, ("type", "status", "writer", "source"))
        kind = reader.text(raw.get("type"), f"{where}.type")
        if any(re.fullmatch(kind, own) for own in labels.own_conditions):
            raise reader.error(f"{where}.type", f"{kind!r} matches a condition gpuheal writes itself")
        found.append(
            ForeignCondition(
                type=kind,
                status=reader.choice(raw.get("status"), f"{where}.status", ("true", "false")),
                writer=reader.text(raw.get("writer"), f"{where}.writer"),
                source=reader.text(raw.get("source"), f"{where}.source"),
            )
        )
    return tuple(found)


def read_faults(
    path: Path,
    labels: Labels,
    thresholds: Mapping[str, Threshold],
    signals: Mapping[str, Signal],
    codes: Mapping[int, str],
) -> Mapping[str, Fault]:
    """Return the fault kinds of a file, each with its `codes`."""
    reader = reader_of(path)
    found: dict[str, Fault] = {}
    alerts: set[str] = set()
    for slug, entry in reader.mapping(load_yaml(path), "").items():
        if not _SLUG.fullmatch(slug):
            raise reader.error(slug, "fault names are lowercase words separated by dashes")
        fault = _fault(reader, slug, entry, labels, thresholds, signals)
        for index, alert in enumerate(fault.alerts):
            if alert.name in alerts:
                raise reader.error(f"{slug}.alerts[{index}].name", f"{alert.name} belongs to two faults")
            alerts.add(alert.name)
        own = tuple(sorted(code for code, of in codes.items() if of == slug and code != model.VERDICT))
        found[slug] = _named(replace(fault, xids=own))
    for slug, fault in found.items():
        for key, other in (("downgrade", fault.downgrade), ("upgrade", fault.upgrade)):
            if other and other not in found:
                raise reader.error(f"{slug}.{key}", f"unknown fault {other!r}")
    for code, slug in codes.items():
        if slug != "none" and slug not in found:
            raise ConfigError("xids.yaml", f"code {code}", f"unknown fault {slug!r}", "see faults.yaml")
    return found


def _named(fault: Fault) -> Fault:
    """Return the fault with its codes in place of `{codes}`, so that no text names a code that is not its own."""
    *most, last = [str(code) for code in fault.xids] or ["?"]
    codes = f"Xid {', '.join(most)} or {last}" if most else f"Xid {last}"
    return replace(
        fault,
        alerts=tuple(replace(a, template=a.template.replace("{codes}", codes)) for a in fault.alerts),
        runbook=replace(fault.runbook, meaning=fault.runbook.meaning.replace("{codes}", codes)),
    )


def _fault(
    reader: Reader,
    slug: str,
    entry: object,
    labels: Labels,
    thresholds: Mapping[str, Threshold],
    signals: Mapping[str, Signal],
) -> Fault:
    raw = reader.mapping(entry, slug, _FAULT_KEYS)
    evidence = tuple(
        _evidence(reader, item, f"{slug}.evidence[{i}]", thresholds, signals)
        for i, item in enumerate(reader.items(raw.get("evidence"), f"{slug}.evidence"))
    )
    keys = [(e.witness, e.name) for e in evidence]
    if len(set(keys)) != len(keys):
        raise reader.error(f"{slug}.evidence", "two entries with the same class and name")
    alerts = tuple(
        _alert(reader, item, f"{slug}.alerts[{i}]")
        for i, item in enumerate(reader.items(raw.get("alerts"), f"{slug}.alerts"))
    )
    if not alerts:
        raise reader.error(f"{slug}.alerts", "a fault needs at least one alert")
    return Fault(
        slug=slug,
        title=reader.text(raw.get("title"), f"{slug}.title"),
        family=_family(reader, raw.get("family"), f"{slug}.family"),
        scope=reader.choice(raw.get("scope"), f"{slug}.scope", model.SCOPES),
        state=reader.choice(raw.get("state", "none"), f"{slug}.state", model.STATES),
        hardware=reader.flag(raw.get("hardware"), f"{slug}.hardware"),
        witness=reader.choice(raw.get("witness", "kernel"), f"{slug}.witness", model.CLASSES),
        downgrade=raw.get("downgrade", ""),
        upgrade=raw.get("upgrade", ""),
        hold=None if raw.get("hold") is None else reader.span(raw["hold"], f"{slug}.hold"),
        condition=reader.choice(
            raw.get("condition", labels.own_conditions[0]), f"{slug}.condition", labels.own_conditions
        ),
        xids=(),
        evidence=evidence,
        alerts=alerts,
        ladder=_ladder(reader, raw.get("ladder"), f"{slug}.ladder"),
        runbook=_runbook(reader, raw.get("runbook"), f"{slug}.runbook"),
        sources=reader.texts(raw.get("sources"), f"{slug}.sources"),
    )


def _ladder(reader: Reader, value: object, path: str) -> tuple[str, ...]:
    ladder = reader.texts(value, path)
    if not ladder:
        raise reader.error(path, "at least one rung", "[none] is a ladder too")
    for index, rung in enumerate(ladder):
        reader.choice(rung, f"{path}[{index}]", model.RUNGS)
        if index and model.RUNGS.index(rung) <= model.RUNGS.index(ladder[index - 1]):
            hint = "from mild to strong, each once"
            raise reader.error(f"{path}[{index}]", f"{rung} after {ladder[index - 1]}", hint)
    if ladder[0] == "taint" and ladder[1:2] != ("cordon",):
        raise reader.error(path, "a ladder that begins with taint goes on with cordon", "the action taint does both")
    return ladder


def _family(reader: Reader, value: object, path: str) -> str:
    family = reader.text(value, path)
    if not _SLUG.fullmatch(family):
        raise reader.error(path, "family names are lowercase words separated by dashes")
    return family


def _xids(path: Path) -> Mapping[int, Mapping[str, Any]]:
    reader = Reader(path.name)
    found: dict[int, Mapping[str, Any]] = {}
    for index, entry in enumerate(reader.items(reader.mapping(load_yaml(path), "").get("xids"), "xids")):
        raw = reader.mapping(entry, f"xids[{index}]")
        code = raw.get("code")
        if isinstance(code, bool) or not isinstance(code, int) or not 1 <= code <= 999:
            raise reader.error(f"xids[{index}].code", f"expected an Xid number, got {code!r}")
        if code in found:
            raise reader.error(f"xids[{index}].code", f"duplicate Xid {code}")
        where = f"xids[{index}]"
        reader.text(raw.get("fault"), f"{where}.fault")
        reader.text(raw.get("summary"), f"{where}.summary")
        reader.choice(raw.get("severity"), f"{where}.severity", model.SEVERITIES)
        if "number" in raw:
            reader.choice(raw["number"], f"{where}.number", ("weak",))
        found[code] = raw
    return found


def _recoveries(path: Path) -> frozenset[int]:
    reader = Reader(path.name)
    rows = reader.items(reader.mapping(load_yaml(path), "").get("recovery_actions"), "recovery_actions")
    return frozenset(row["value"] for row in rows if row["action"] in ("gpu_reset", "reboot", "isolate_device"))


def _evidence(
    reader: Reader, entry: object, path: str, thresholds: Mapping[str, Threshold], signals: Mapping[str, Signal]
) -> Evidence:
    raw = reader.mapping(entry, path, _EVIDENCE_KEYS)
    special, signal = raw.get("special", ""), raw.get("signal", "")
    if bool(special) == bool(signal):
        raise reader.error(path, "exactly one of signal and special is needed")
    if signal and signal not in signals:
        raise reader.error(f"{path}.signal", f"unknown signal {signal!r}", "see signals.yaml")
    value = None if raw.get("value") is None else reader.number(raw["value"], f"{path}.value")
    if signal and (value is None) == ("threshold" not in raw):
        raise reader.error(path, "exactly one of value and threshold is needed")
    for key in ("threshold", "leave"):
        if key in raw and raw[key] not in thresholds:
            raise reader.error(f"{path}.{key}", f"unknown threshold {raw[key]!r}", "see thresholds.yaml")
    if raw.get("growth") and raw["growth"] not in GROWTH_WINDOWS:
        raise reader.error(f"{path}.growth", f"expected one of {', '.join(GROWTH_WINDOWS)}, got {raw['growth']!r}")
    return Evidence(
        name=reader.text(raw.get("name", signal or special), f"{path}.name"),
        witness=reader.choice(raw.get("class"), f"{path}.class", model.CLASSES),
        strength=reader.choice(raw.get("strength", "strong"), f"{path}.strength", model.STRENGTHS),
        signal=signal,
        op=reader.choice(raw.get("op", ">"), f"{path}.op", model.OPERATORS),
        value=value,
        threshold=raw.get("threshold", ""),
        leave=raw.get("leave", ""),
        growth=raw.get("growth", ""),
        special=special,
        guarded=reader.flag(raw.get("guarded"), f"{path}.guarded"),
        timed=reader.flag(raw.get("timed"), f"{path}.timed"),
        overruled=reader.choice(raw.get("overruled", ""), f"{path}.overruled", ("", *signals)),
    )


def _alert(reader: Reader, entry: object, path: str) -> Alert:
    raw = reader.mapping(entry, path, ("name", "severity", "for", "summary", "description", "expr"))
    name = reader.text(raw.get("name"), f"{path}.name")
    if not _ALERT.fullmatch(name):
        raise reader.error(f"{path}.name", f"{name!r} is not CamelCase beginning with GPU or NVLink")
    return Alert(
        name=name,
        severity=reader.choice(raw.get("severity"), f"{path}.severity", model.SEVERITIES),
        wait=reader.span(raw.get("for", "0s"), f"{path}.for"),
        summary=reader.text(raw.get("summary"), f"{path}.summary"),
        description=(description := reader.text(raw.get("description"), f"{path}.description")),
        template=description,
        expr=raw.get("expr", ""),
    )


def _runbook(reader: Reader, value: object, path: str) -> Runbook:
    raw = reader.mapping(value, path, ("meaning", "impact", "gpuheal", "person"))
    person = reader.texts(raw.get("person"), f"{path}.person")
    if not person:
        raise reader.error(f"{path}.person", "expected at least one step for an operator")
    return Runbook(
        meaning=reader.text(raw.get("meaning"), f"{path}.meaning"),
        impact=reader.text(raw.get("impact"), f"{path}.impact"),
        gpuheal=reader.text(raw.get("gpuheal"), f"{path}.gpuheal"),
        person=person,
    )
