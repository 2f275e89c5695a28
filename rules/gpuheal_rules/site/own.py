"""A site's own fault kinds: a folder with files in the catalogue's form, read beside the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from gpuheal_rules.catalogue.document import load_document
from gpuheal_rules.catalogue.load import read_faults, read_signals
from gpuheal_rules.catalogue.model import Catalogue, Fault, Signal
from gpuheal_rules.catalogue.numbers import read_thresholds
from gpuheal_rules.catalogue.texts import WAIT, words
from gpuheal_rules.errors import ConfigError, ConfigErrors
from gpuheal_rules.groups.alerts import EXPRESSIONS
from gpuheal_rules.groups.special import SPECIALS
from gpuheal_rules.policies import CLIMBS, cures, steps
from gpuheal_rules.site.form import Form, nearest

FILES = ("faults.yaml", "signals.yaml", "thresholds.yaml")
MOST_FAULTS = 200
"""Own kinds a folder may hold, several times what the catalogue has."""
LONGEST_NAME = 63
SUITES = frozenset({"shared", "state", "quiet"})
"""Families whose names are those of test files about all faults."""

T = TypeVar("T")


def with_own(catalogue: Catalogue, folder: Path) -> Catalogue:
    """Return the catalogue with the folder's kinds, signals and thresholds in it.

    Raises ConfigErrors with everything that is wrong with its files; nothing of the catalogue is replaced.
    """
    problems = _strangers(folder)
    thresholds = _part(folder / "thresholds.yaml", lambda file: read_thresholds(file, catalogue.thresholds), problems)
    signals = _part(folder / "signals.yaml", read_signals, problems)
    for name, own, shipped in (
        ("thresholds.yaml", thresholds, {**catalogue.thresholds, **catalogue.numbers}),
        ("signals.yaml", signals, catalogue.signals),
    ):
        problems += _shadows(folder / name, own, shipped)
    problems += _sources(folder / "signals.yaml", signals)
    known = replace(
        catalogue,
        thresholds={**thresholds, **catalogue.thresholds},
        signals={**signals, **catalogue.signals},
    )
    if problems:
        raise ConfigErrors(problems)

    def faults_of(file: Path) -> Mapping[str, Fault]:
        return read_faults(file, known.labels, known.thresholds, known.signals, {})

    faults = _part(folder / "faults.yaml", faults_of, problems, needed=True)
    problems += _unusable(folder / "faults.yaml", faults, catalogue)
    if problems:
        raise ConfigErrors(problems)
    return replace(known, faults={**catalogue.faults, **faults}, own=tuple(faults))


def _strangers(folder: Path) -> list[ConfigError]:
    try:
        present = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as problem:
        return [ConfigError(str(folder), "", f"cannot be read: {problem.strerror}")]
    found = []
    for name in present:
        if name not in FILES:
            near = nearest(name, FILES)
            hint = f"did you mean {near}?" if near else f"known: {', '.join(FILES)}"
            found.append(ConfigError(str(folder / name), "", "is not a catalogue file", hint))
    return found


def _part(
    file: Path, read: Callable[[Path], Mapping[str, T]], problems: list[ConfigError], needed: bool = False
) -> Mapping[str, T]:
    """Return what a file holds; a file that is not there holds nothing, unless it is needed."""
    if not needed and not file.exists():
        return {}
    try:
        if load_document(file) is None:
            raise ConfigError(str(file), "", "is empty")
        return read(file)
    except ConfigErrors as several:
        problems += several.problems
    except ConfigError as problem:
        problems.append(problem)
    return {}


def _shadows(file: Path, own: Iterable[str], shipped: Collection[str]) -> list[ConfigError]:
    hint = "use another name; to change a shipped entry, use the site file"
    return [ConfigError(str(file), name, "already exists", hint) for name in own if name in shipped]


def _sources(file: Path, own: Mapping[str, Signal]) -> list[ConfigError]:
    """Return what is wrong with whose series the folder's signals read: ours, dcgm-exporter's, or anybody else's."""
    form = Form(str(file))
    for name, signal in own.items():
        prefix = {"exporter": "gpuheal_", "dcgm": "DCGM_", "prometheus": ""}.get(signal.source)
        if prefix is None:
            form.wrong(f"{name}.source", f"expected exporter, dcgm or prometheus, got {signal.source!r}")
        elif not all(metric.startswith(prefix) for metric in signal.metrics):
            form.wrong(f"{name}.metrics", f"the source {signal.source} has metrics {prefix}…", "use source prometheus")
        elif prefix == "" and any(metric.startswith(("gpuheal_", "DCGM_")) for metric in signal.metrics):
            form.wrong(f"{name}.metrics", "gpuheal_* and DCGM_* have sources of their own")
    return form.problems


def _unusable(file: Path, own: Mapping[str, Fault], catalogue: Catalogue) -> list[ConfigError]:
    form = Form(str(file))
    form.problems += _shadows(file, own, catalogue.faults)
    shipped = {alert.name for _fault, alert in catalogue.alerts()}
    ways = {(cures(f), tuple(steps(f, climbs) for climbs in CLIMBS)) for f in catalogue.faults.values() if f.acted_on}
    if len(own) > MOST_FAULTS:
        form.wrong("", f"has {len(own)} fault kinds, more than {MOST_FAULTS}")
    for slug, fault in own.items():
        for index, alert in enumerate(fault.alerts):
            where = f"{slug}.alerts[{index}]"
            if alert.name in shipped:
                form.wrong(f"{where}.name", f"alert {alert.name} already exists", "use another name")
            if alert.expr and alert.expr not in EXPRESSIONS:
                form.unknown(f"{where}.expr", "expression", alert.expr, EXPRESSIONS)
            for word in words(alert):
                if word != WAIT and word not in catalogue.numbers:
                    form.unknown(f"{where}.description", "number", word, (WAIT, *catalogue.numbers))
            if not alert.expr and not fault.evidence:
                form.wrong(f"{slug}.evidence", "a fault without evidence raises no alert")
        for index, evidence in enumerate(fault.evidence):
            if evidence.special and evidence.special not in SPECIALS:
                form.unknown(f"{slug}.evidence[{index}].special", "expression", evidence.special, SPECIALS)
        if fault.acted_on and (cures(fault), tuple(steps(fault, climbs) for climbs in CLIMBS)) not in ways:
            form.wrong(f"{slug}.ladder", "no generated policy has these steps", "use the ladder of an existing fault")
        if len(slug) > LONGEST_NAME:
            form.wrong(slug, f"is longer than {LONGEST_NAME} characters")
        if fault.condition != catalogue.labels.own_conditions[0]:
            form.wrong(f"{slug}.condition", f"own faults must use {catalogue.labels.own_conditions[0]}")
        if fault.family in SUITES:
            form.wrong(f"{slug}.family", f"{fault.family} is the name of a file of cases", "use another name")
    return form.problems
