"""What a site may decide about the rendered rules; every window in an expression is computed from here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import re2

from gpuheal_rules.catalogue.reader import format_duration, parse_duration

LABEL_NAME = re.compile("[a-zA-Z][a-zA-Z0-9_]*")
OWN_LABELS = re.compile(
    "node|gpu_uuid|fault|scope|severity|namespace|rack|zone|fabric_domain|xid|job|instance|alertname|class|signal"
    "|strength|source|target_node|pod|device|port"
)
"""Labels that the rules give a meaning of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelProfile:
    """How dcgm-exporter's series are labelled at this site.

    `node` is the label that holds the node's name: the target label `node` (the default, attached by relabelling), or
    the exporter's own `Hostname` (releases up to 4.5.3-4.8.2) or `hostname` (later). `gpu` lists the spellings of the
    GPU's UUID beside gpu_uuid: GPU entities say UUID, with the old-namespace flag uuid, NVLink entities gpu_uuid
    (dcgm-exporter render_metrics.go). Each spelling is a relabelling of every GPU in every cycle.
    """

    name: str = "target"
    node: str = "node"
    gpu: tuple[str, ...] = ("UUID",)


PROFILES = {
    "target": LabelProfile(),
    "Hostname": LabelProfile(name="Hostname", node="Hostname"),
    "hostname": LabelProfile(name="hostname", node="hostname"),
    "old-namespace": LabelProfile(name="old-namespace", gpu=("uuid",)),
}

INTERVALS = ("scrape_interval", "interval", "slow_interval")
LONGEST_INTERVAL = timedelta(minutes=1)
"""Half of the age at which the responder takes a witness for none (core.evidence.FRESH there; a test compares)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Render options; the defaults make the committed files."""

    scrape_interval: timedelta = timedelta(seconds=15)
    """The longest scrape interval among the sources; every window holds at least four of them (Prometheus 3 leaves the
    left edge of a window out)."""

    interval: timedelta = timedelta(seconds=15)
    """Evaluation interval of the main group."""

    slow_interval: timedelta = timedelta(minutes=2)
    """Evaluation interval of the group of slow facts; well below the 5 min lookback, as other rules read them."""

    namespace: str = "gpuheal"
    """The static `namespace` label of every alert."""

    jobs: dict[str, str] = field(
        default_factory=lambda: {
            "exporter": ".*gpuheal-exporter.*",
            "dcgm": ".*dcgm-exporter.*",
            "ksm": ".*kube-state-metrics.*|ksm",
            "node": ".*node-exporter.*",
            "responder": ".*gpuheal-responder.*",
        }
    )
    """Regular expressions on the `job` label of the targets, by source."""

    runbook_base: str = "https://gpu.health/runbooks"
    """Where runbook pages are served; the alert's name is appended."""

    dashboard_base: str = ""
    """Base URL of the Grafana that has the dashboards; empty leaves `dashboard_url` out."""

    labels: LabelProfile = PROFILES["target"]

    cluster_label: str = ""
    """The label that tells clusters apart where one ruler evaluates the rules for several; empty = it has one."""

    def __post_init__(self) -> None:
        for name in (*INTERVALS, "namespace", "runbook_base", "dashboard_base", "cluster_label"):
            problem = wrong(name, getattr(self, name))
            if problem:
                raise ValueError(f"{name}: {problem}")
        for source, pattern in self.jobs.items():
            problem = wrong_pattern(pattern)
            if problem:
                raise ValueError(f"job {source}: {problem}")

    def job(self, source: str) -> str:
        """Return the source's pattern as it stands in a text of PromQL, where a backslash is written twice."""
        return self.jobs[source].replace("\\", "\\\\")

    def scrapes(self, count: int) -> str:
        """Return a window that holds `count` scrapes, at least four."""
        return format_duration(self.scrape_interval * max(count, 4))

    def scrape_seconds(self, count: int) -> str:
        """Return the same span as a number of seconds for comparisons with time()."""
        return f"{(self.scrape_interval * max(count, 4)).total_seconds():.12g}"

    def window(self, span: timedelta) -> str:
        """Return a window of `span`, widened to four scrapes when it would hold fewer."""
        return format_duration(max(span, self.scrape_interval * 4))


def wrong(name: str, value: Any) -> str:
    """Return why an option cannot have this value, empty when it can."""
    if name in INTERVALS:
        if not timedelta(seconds=1) <= value <= timedelta(minutes=4):
            return "must be from 1s to 4m, else series go stale between two samples"
        if name == "interval" and value > LONGEST_INTERVAL:
            return f"must be at most {format_duration(LONGEST_INTERVAL)}, else all evidence is stale to the responder"
    if name == "namespace" and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        return f"{value[:80]!r} is not the name of a namespace (lower-case letters, digits and dashes)"
    if name == "cluster_label" and value and (not LABEL_NAME.fullmatch(value) or OWN_LABELS.fullmatch(value)):
        return f"{value[:80]!r} is no label that could tell clusters apart"
    if name in ("runbook_base", "dashboard_base") and not (name == "dashboard_base" and not value):
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s|\{\{", value):
            return f"{value[:80]!r} is not an http or https address with a host"
    return ""


def wrong_pattern(pattern: str) -> str:
    """Return why a regular expression cannot be one for the label `job`, empty when it can."""
    if '"' in pattern or "\n" in pattern or not pattern:
        return f"{pattern[:80]!r} is empty or has a quote or a line break"
    quiet = re2.Options()
    quiet.log_errors = False
    try:
        empty = re2.compile(f"(?:{pattern})".encode(), quiet).fullmatch(b"")
    except re2.error:
        return f"{pattern[:80]!r} is not a regular expression that Prometheus reads (RE2)"
    return f"{pattern[:80]!r} matches targets without a job" if empty else ""


def from_arguments(given: Mapping[str, Any], base: Options | None = None) -> Options:
    """Return the options that command line arguments describe; None leaves what `base` says.

    Raises ValueError on a mistake.
    """
    base = base or Options()
    changed: dict[str, Any] = {}
    for name in ("interval", "slow_interval", "scrape_interval"):
        if given.get(name):
            try:
                changed[name] = parse_duration(given[name])
            except ValueError as problem:
                raise ValueError(f"--{name.replace('_', '-')}: {problem}") from None
    for name in ("namespace", "runbook_base", "dashboard_base", "cluster_label"):
        if given.get(name):
            changed[name] = given[name]
    if given.get("label_profile"):
        changed["labels"] = PROFILES[given["label_profile"]]
    jobs = dict(base.jobs)
    for entry in given.get("job") or []:
        source, found, pattern = entry.partition("=")
        if not found or source not in jobs:
            raise ValueError(f"--job: expected SOURCE=REGEX with SOURCE one of {', '.join(jobs)}, got {entry!r}")
        jobs[source] = pattern
    return replace(base, jobs=jobs, **changed)
