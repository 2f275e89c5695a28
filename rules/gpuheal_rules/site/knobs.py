"""Everything that a site's file can set, with its default, unit and meaning; `page` is rules/KNOBS.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpuheal_rules.catalogue.model import SEVERITIES, Catalogue, Threshold
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.options import LONGEST_INTERVAL, PROFILES, Options
from gpuheal_rules.site.limits import NEEDED

_PAGE = """\
<!-- Made by `gpuheal rules build` from the catalogue and gpuheal_rules/site/knobs.py; edit those, not this. -->
# Knobs

What `gpuheal rules build --site FILE` reads from a site's file. Every knob is optional and changes what its last column
says, and nothing else: a test sets each of them and compares all rules. `site.example.yaml` shows the file.
"""
ALERTS, SWITCHES = "Alerts", "Off switches"
_ALERTS = """\
## Alerts and off switches

`alerts.NAME.for` (0s to 7d), `alerts.NAME.keep_firing_for` (0s to 1d, 0s without a file) and `alerts.NAME.severity`
(critical, warning or info) change exactly that of the one alert. `disabled: [NAME]` leaves out an alert and its
runbook; evidence and state stay. `disabled: [FAULT]` leaves out the whole kind: its alerts, its evidence, what is
recorded for it alone, its part in the state of GPUs, its policies and its runbooks.
"""
_OWN = """\
## Own faults

`faults` names a folder with fault kinds of your own (README, "A site adapts without a fork").
"""
_INTERVALS = f"1s to {format_duration(LONGEST_INTERVAL)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One thing a site can set: its path in the file, what it is without the file, and what it changes."""

    path: str
    default: str
    unit: str
    meaning: str
    changes: str


def knobs(catalogue: Catalogue, options: Options) -> tuple[Knob, ...]:
    """Return every knob, section by section."""
    return tuple(knob for section in sections(catalogue, options).values() for knob in section)


def sections(catalogue: Catalogue, options: Options) -> Mapping[str, Sequence[Knob]]:
    """Return the knobs by the title of their section."""
    return {
        "The site": tuple(_settings(options)),
        "Jobs": tuple(_jobs(options)),
        "Thresholds": tuple(_threshold(item) for item in catalogue.thresholds.values()),
        "How long a fault lasts after its last event": tuple(_holds(catalogue)),
        ALERTS: tuple(_alerts(catalogue)),
        SWITCHES: tuple(_switches(catalogue)),
    }


def page(catalogue: Catalogue, options: Options) -> str:
    """Return the list of all knobs as a page; alerts, whose knobs are alike, have one row each."""
    lines = [_PAGE]
    for title, found in sections(catalogue, options).items():
        if title in (ALERTS, SWITCHES):
            continue
        lines.append(f"## {title}\n")
        lines += ["| knob | default | values | meaning | changes |", "|---|---|---|---|---|"]
        lines += [_row(knob.path, knob.default, knob.unit, knob.meaning, knob.changes) for knob in found]
        lines.append("")
    lines += [_ALERTS, "| alert | severity | for | fault | what it is |", "|---|---|---|---|---|"]
    for fault, alert in catalogue.alerts():
        cells = (alert.severity, format_duration(alert.wait), f"`{fault.slug}`", fault.title)
        lines.append(_row(alert.name, "", *cells).replace(" |  | ", " | ", 1))
    kept = ", ".join(f"`{slug}` ({why})" for slug, why in NEEDED.items())
    lines += ["", f"Not to be switched off: {kept}. The heartbeat's alert cannot be changed either.", ""]
    return "\n".join([*lines, _OWN])


def _row(path: str, default: str, *cells: str) -> str:
    texts = (f"`{path}`", f"`{default}`" if default else "", *cells)
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _settings(options: Options) -> Iterator[Knob]:
    every = "interval of the group"
    yield Knob(
        path="namespace",
        default=options.namespace,
        unit="a namespace",
        meaning="where gpuheal runs",
        changes="label `namespace` of all alerts, namespace of the objects, matchers of the routes",
    )
    yield Knob(
        path="runbook_base",
        default=options.runbook_base,
        unit="an http or https address",
        meaning="where the runbook pages are served",
        changes="annotation `runbook_url` of all alerts",
    )
    yield Knob(
        path="dashboard_base",
        default=options.dashboard_base,
        unit="an http or https address, or empty",
        meaning="where the dashboards are served",
        changes="annotation `dashboard_url` of all alerts; empty leaves it out",
    )
    yield Knob(
        path="cluster_label",
        default=options.cluster_label,
        unit="a label",
        meaning="tells clusters apart where one ruler evaluates the rules for several",
        changes="aggregations and matches keep the label",
    )
    yield Knob(
        path="scrape_interval",
        default=format_duration(options.scrape_interval),
        unit="1s to 4m",
        meaning="longest scrape interval of the sources",
        changes="windows that hold a number of scrapes, and the grace of a lost GPU",
    )
    yield Knob(
        path="interval",
        default=format_duration(options.interval),
        unit=_INTERVALS,
        meaning="how often the main group is evaluated",
        changes=f"{every} `gpuheal`, and how many evaluations count as a start of Prometheus",
    )
    yield Knob(
        path="slow_interval",
        default=format_duration(options.slow_interval),
        unit="1s to 4m",
        meaning="how often slow facts are evaluated and memories saved",
        changes=f"{every} `gpuheal-slow`, and the windows of its memory",
    )
    yield Knob(
        path="label_profile",
        default=options.labels.name,
        unit=" or ".join(f"`{name}`" for name in PROFILES),
        meaning="where series of dcgm-exporter name node and GPU",
        changes="relabelling in rules that read `DCGM_*` or the targets of dcgm-exporter",
    )


def _jobs(options: Options) -> Iterator[Knob]:
    for source, pattern in options.jobs.items():
        yield Knob(
            path=f"jobs.{source}",
            default=pattern,
            unit="a regular expression (RE2)",
            meaning=f"label `job` of the targets of source {source}",
            changes=f"matchers on `job` in selectors of the source {source}",
        )


def _threshold(item: Threshold) -> Knob:
    whole = "whole number of " if item.whole else ""
    below = f", less than `{item.below}`" if item.below else ""
    return Knob(
        path=f"thresholds.{item.name}",
        default=f"{item.value:.12g}",
        unit=f"{whole}{item.unit}, {item.least:.12g} to {item.most:.12g}{below}",
        meaning=item.reason,
        changes=f'the number of `gpuheal:threshold{{name="{item.name}"}}`',
    )


def _holds(catalogue: Catalogue) -> Iterator[Knob]:
    for slug, fault in catalogue.faults.items():
        if fault.hold is not None:
            yield Knob(
                path=f"holds.{slug}",
                default=format_duration(fault.hold),
                unit="5m to 30d",
                meaning=f"how long after its last event the fault ends: {fault.title}",
                changes=f"the seconds in the evidence of `{slug}`",
            )


def _alerts(catalogue: Catalogue) -> Iterator[Knob]:
    for fault, alert in catalogue.alerts():
        if fault.slug == "watchdog":
            continue
        where = f"alerts.{alert.name}"
        yield Knob(
            path=f"{where}.for",
            default=format_duration(alert.wait),
            unit="0s to 7d",
            meaning="how long its reason has to last before it fires",
            changes=f"`for` of {alert.name}",
        )
        yield Knob(
            path=f"{where}.keep_firing_for",
            default=format_duration(alert.keep),
            unit="0s to 1d",
            meaning="how long it goes on firing after its reason has ended",
            changes=f"`keep_firing_for` of {alert.name}",
        )
        yield Knob(
            path=f"{where}.severity",
            default=alert.severity,
            unit=", ".join(SEVERITIES),
            meaning="whom it wakes",
            changes=f"label `severity` of {alert.name}",
        )


def _switches(catalogue: Catalogue) -> Iterator[Knob]:
    for slug, fault in catalogue.faults.items():
        if slug in NEEDED:
            continue
        names = ", ".join(alert.name for alert in fault.alerts)
        yield Knob(
            path=f"disabled: [{slug}]",
            default="",
            unit="",
            meaning=fault.title,
            changes=f"no rule, route, policy or runbook of it: {names}",
        )
        if len(fault.alerts) > 1 or fault.evidence or fault.xids:
            for alert in fault.alerts:
                yield Knob(
                    path=f"disabled: [{alert.name}]",
                    default="",
                    unit="",
                    meaning="this alert alone",
                    changes=f"{alert.name} and its runbook are gone; evidence and state stay",
                )
