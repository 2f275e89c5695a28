"""Reads a site's file into a catalogue and options: everything that is wrong with it is said at once.

site = read_site(Path("site.yaml"))
build_groups(site.catalogue, site.options)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from gpuheal_rules.catalogue.document import load_document
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.catalogue.model import SEVERITIES, Alert, Catalogue, Fault, Number
from gpuheal_rules.catalogue.numbers import outside
from gpuheal_rules.catalogue.texts import told
from gpuheal_rules.errors import ConfigErrors
from gpuheal_rules.options import INTERVALS, PROFILES, Options, wrong, wrong_pattern
from gpuheal_rules.site import limits
from gpuheal_rules.site.form import Form, said
from gpuheal_rules.site.own import with_own

TEXTS = ("namespace", "runbook_base", "dashboard_base", "cluster_label")
SECTIONS = ("label_profile", "jobs", "thresholds", "alerts", "holds", "disabled", "faults")
KEYS = (*TEXTS, *INTERVALS, *SECTIONS)
ALERT_KEYS = ("for", "keep_firing_for", "severity")
LONGEST_WAIT = timedelta(days=7)
LONGEST_KEEP = timedelta(days=1)
LONGEST_HOLD = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a site's rules are built from, and what it should know of its settings although they are possible."""

    catalogue: Catalogue
    options: Options
    warnings: tuple[str, ...] = ()


def read_site(path: Path) -> Site:
    """Return what the file makes of catalogue and options; raise ConfigErrors with all that is wrong with it."""
    form = Form(str(path))
    top = form.mapping(load_document(path), "", KEYS)
    options = _options(form, top)
    shipped = load_catalogue()
    catalogue = _own(form, path.parent, top, shipped)
    catalogue = _thresholds(form, top.get("thresholds"), catalogue)
    catalogue = _holds(form, top.get("holds"), catalogue)
    off = _disabled(form, top.get("disabled"), catalogue)
    catalogue = _alerts(form, top.get("alerts"), catalogue, off)
    limits.order(form, catalogue)
    limits.waits(form, catalogue)
    form.end()
    catalogue = told(without(catalogue, off))
    return Site(catalogue=catalogue, options=options, warnings=tuple(limits.warnings(shipped, catalogue)))


def without(catalogue: Catalogue, off: frozenset[str]) -> Catalogue:
    """Return the catalogue with these fault kinds and alerts switched off."""
    faults: dict[str, Fault] = {}
    retired: dict[str, Fault] = {}
    silenced: set[str] = set()
    for slug, fault in catalogue.faults.items():
        silenced |= {alert.name for alert in fault.alerts if slug in off or alert.name in off}
        if slug in off:
            retired[slug] = fault
        else:
            faults[slug] = replace(fault, alerts=tuple(a for a in fault.alerts if a.name not in off))
    return replace(catalogue, faults=faults, retired=retired, silenced=frozenset(silenced))


def _options(form: Form, top: Mapping[str, Any]) -> Options:
    changed: dict[str, Any] = {}
    for name in INTERVALS:
        if name in top:
            changed[name] = form.span(top[name], name, timedelta(0), LONGEST_WAIT)
    for name in TEXTS:
        if name in top and not (name in ("dashboard_base", "cluster_label") and top[name] == ""):
            text = form.text(top[name], name)
            changed[name] = text.rstrip("/") if text is not None else None
    for name in [name for name, value in changed.items() if value is not None]:
        problem = _wrong(name, changed[name])
        if problem:
            form.wrong(name, problem)
            del changed[name]
    if "label_profile" in top:
        profile = form.choice(top["label_profile"], "label_profile", PROFILES)
        changed["labels"] = PROFILES.get(profile or "")
    jobs = dict(Options().jobs)
    for source, value in form.mapping(top.get("jobs"), "jobs", tuple(jobs), "source").items():
        pattern = form.text(value, f"jobs.{source}")
        problem = wrong_pattern(pattern) if pattern is not None else ""
        if problem:
            form.wrong(f"jobs.{source}", problem)
        elif pattern is not None:
            jobs[source] = pattern
    return replace(Options(), jobs=jobs, **{name: value for name, value in changed.items() if value is not None})


def _wrong(name: str, value: object) -> str:
    try:
        return wrong(name, value)
    except ValueError as problem:  # an address that is none
        return str(problem)


def _own(form: Form, folder: Path, top: Mapping[str, Any], catalogue: Catalogue) -> Catalogue:
    """Return the catalogue with the kinds of the folder that `faults` names, relative to the site's file."""
    if "faults" not in top:
        return catalogue
    named = form.text(top["faults"], "faults")
    if named is None:
        return catalogue
    where = folder / named
    if "\0" in named or not where.is_dir():
        form.wrong("faults", f"{said(named)} is no folder beside this file")
        return catalogue
    try:
        return with_own(catalogue, where)
    except ConfigErrors as several:
        form.problems += several.problems
        return catalogue


def _thresholds(form: Form, value: object, catalogue: Catalogue) -> Catalogue:
    thresholds, numbers = dict(catalogue.thresholds), dict(catalogue.numbers)
    for name, entry in form.mapping(value, "thresholds", (*thresholds, *numbers), "threshold").items():
        where, item = f"thresholds.{name}", numbers.get(name) or thresholds[name]
        if isinstance(item, Number) and item.duration:
            span = form.span(entry, where, timedelta(seconds=item.least), timedelta(seconds=item.most))
            number = None if span is None else span.total_seconds()
        else:
            number = form.number(entry, where, item.unit)
        if number is None:
            continue
        problem = outside(item, number)
        if problem:
            form.wrong(where, problem)
        elif isinstance(item, Number):
            numbers[name] = replace(item, value=number)
        else:
            thresholds[name] = replace(item, value=number)
    return replace(catalogue, thresholds=thresholds, numbers=numbers)


def _holds(form: Form, value: object, catalogue: Catalogue) -> Catalogue:
    faults = dict(catalogue.faults)
    for slug, entry in form.mapping(value, "holds", tuple(faults), "fault").items():
        where = f"holds.{slug}"
        if faults[slug].hold is None:
            ends = "it ends with its evidence, a boot, a reset or a settlement"
            form.wrong(where, "this fault does not end by time", ends)
            continue
        hold = form.span(entry, where, timedelta(minutes=5), LONGEST_HOLD)
        if hold is not None:
            faults[slug] = replace(faults[slug], hold=hold)
    return replace(catalogue, faults=faults)


def _disabled(form: Form, value: object, catalogue: Catalogue) -> frozenset[str]:
    """Return the fault kinds and alerts that are switched off."""
    owners = {alert.name: fault.slug for fault, alert in catalogue.alerts()}
    found = set()
    for index, name in enumerate(form.texts(value, "disabled")):
        where = f"disabled[{index}]"
        slug = owners.get(name, name)
        if name not in owners and name not in catalogue.faults:
            form.unknown(where, "fault or alert", name, (*catalogue.faults, *owners))
        elif slug in limits.NEEDED:
            form.wrong(where, f"{name} cannot be switched off", limits.NEEDED[slug])
        else:
            found.add(name)
    return frozenset(found)


def _alerts(form: Form, value: object, catalogue: Catalogue, off: frozenset[str]) -> Catalogue:
    owners = {alert.name: fault for fault, alert in catalogue.alerts()}
    changed: dict[str, Alert] = {}
    known = {alert.name: alert for _fault, alert in catalogue.alerts()}
    for name, entry in form.mapping(value, "alerts", known, "alert").items():
        where = f"alerts.{name}"
        if owners[name].slug == "watchdog":
            form.wrong(where, "cannot be changed", limits.NEEDED["watchdog"])
        elif name in off or owners[name].slug in off:
            form.wrong(where, "is changed here and switched off under `disabled`")
        else:
            changed[name] = _alert(form, entry, where, known[name])
    faults = {
        slug: replace(fault, alerts=tuple(changed.get(alert.name, alert) for alert in fault.alerts))
        for slug, fault in catalogue.faults.items()
    }
    return replace(catalogue, faults=faults)


def _alert(form: Form, entry: object, where: str, alert: Alert) -> Alert:
    raw = form.mapping(entry, where, ALERT_KEYS)
    wait = keep = severity = None
    if "for" in raw:
        wait = form.span(raw["for"], f"{where}.for", timedelta(0), LONGEST_WAIT)
    if "keep_firing_for" in raw:
        keep = form.span(raw["keep_firing_for"], f"{where}.keep_firing_for", timedelta(0), LONGEST_KEEP)
    if "severity" in raw:
        severity = form.choice(raw["severity"], f"{where}.severity", SEVERITIES)
    return replace(
        alert,
        wait=alert.wait if wait is None else wait,
        keep=alert.keep if keep is None else keep,
        severity=severity or alert.severity,
    )
