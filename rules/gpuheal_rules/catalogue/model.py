"""The catalogue as typed values: labels, thresholds, signals, foreign conditions and faults.

`load_catalogue` is the only way in. It refuses unknown keys, references to things that are not in the catalogue, and
names that break the alert contract, each with file and path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from gpuheal_rules.catalogue.reader import format_duration

SCOPES = ("gpu", "node", "fabric", "domain", "fleet")
SEVERITIES = ("critical", "warning", "info")
CLASSES = ("kernel", "nvml", "dcgm", "kubernetes", "driver")
SOURCES = ("exporter", "dcgm", "ksm", "node", "responder", "prometheus", "alertmanager")
STATES = ("none", "degraded", "suspect", "faulty")
STRENGTHS = ("strong", "weak")
VERDICT = 154
"""The Xid whose number says nothing: it tells a recovery action, which is read by itself."""
OPERATORS = (">", "<", ">=", "<=", "==", "!=")
TELLING = ("none", "alert", "diagnose")
"""Rungs that only tell people; a fault whose ladder begins with one can do without a policy."""
RUNGS = (*TELLING, "taint", "cordon", "restart_services", "drain", "gpu_reset", "reboot", "replace")
"""Rungs of a ladder, from mild to strong; the order in which one may name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The label contract: what an alert may carry, what it must never carry, and which topology labels exist."""

    alert: tuple[str, ...]
    annotations: tuple[str, ...]
    topology: tuple[str, ...]
    forbidden: tuple[str, ...]
    own_conditions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One number rules compare with; it becomes the constant series `gpuheal:threshold{name="..."}`.

    A site may set it to a value from `least` to `most`, to a whole number where it is `whole`, and to less than the
    threshold `below` where one is named.
    """

    name: str
    value: float
    unit: str
    reason: str
    source: str
    least: float
    most: float
    whole: bool = False
    below: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Threshold):
    """One number that stands in the expressions of a few rules; that of a duration is in seconds.

    `changes` names the rules: alerts by name, series with the labels that tell them.
    """

    changes: tuple[str, ...]
    duration: bool = False

    def __str__(self) -> str:
        return format_duration(timedelta(seconds=self.value)) if self.duration else f"{self.value:.12g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """One line of dcgm-exporter's counters CSV: field name as exporters up to 4.8 know it, type and help."""

    field: str
    type: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One thing that can be measured, under all names it has in the field; `counters` make dcgm-exporter export it."""

    name: str
    source: str
    scope: str
    metrics: tuple[str, ...]
    match: str
    unit: str
    meaning: str
    counters: tuple[Counter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One way a fault shows: a level (`signal op limit`), a growth of a counter, or a special expression by name.

    Exactly one of `value` and `threshold` is set for levels and growths. `leave` is the threshold or number below
    (above, for < and <=) which a level that holds lets go; None means the same limit. `guarded` evidence does not count
    on nodes that boot, are upgraded or are worked on by us. `timed` specials give the time of the sighting as value.
    A level does not count where the signal `overruled` has a reading: the device's own limit beats a fixed number.
    """

    name: str
    witness: str
    strength: str
    signal: str = ""
    op: str = ">"
    value: float | None = None
    threshold: str = ""
    leave: str = ""
    growth: str = ""
    special: str = ""
    guarded: bool = False
    timed: bool = False
    overruled: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert of a fault; `expr` names an expression, or is empty when the alert follows from the evidence.

    It fires after `wait`, and for `keep` after its reason has ended.
    """

    name: str
    severity: str
    wait: timedelta
    summary: str
    description: str
    template: str = ""
    """The description as the catalogue has it, before its numbers are filled in."""
    expr: str = ""
    keep: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runbook:
    """The prose of a fault's runbook page."""

    meaning: str
    impact: str
    gpuheal: str
    person: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault: the policy key, how it shows, what it does to the GPU's state, and what people are told.

    `hardware` faults count in the health score and may be confirmed by the driver's own verdict. `witness` is the class
    of its Xids. Xids that the exporter decoded as asking for nothing here count for the fault `downgrade` instead,
    those whose line asks for something for `upgrade`. `hold` ends the fault that long after its last Xid; None means
    that only a boot, a reset or a settlement ends it. `condition` is the node condition that tells of the fault.
    """

    slug: str
    title: str
    family: str
    scope: str
    state: str
    hardware: bool
    witness: str
    downgrade: str
    upgrade: str
    hold: timedelta | None
    condition: str
    xids: tuple[int, ...]
    evidence: tuple[Evidence, ...]
    alerts: tuple[Alert, ...]
    ladder: tuple[str, ...]
    runbook: Runbook
    sources: tuple[str, ...]

    @property
    def acted_on(self) -> bool:
        """Whether the ladder begins with an action, so that default policies take this fault."""
        return self.ladder[0] not in TELLING


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignCondition:
    """A node condition that somebody else writes; `status` is the value that means fault."""

    type: str
    status: str
    writer: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Everything the generator reads, by name and in file order."""

    labels: Labels
    thresholds: Mapping[str, Threshold]
    numbers: Mapping[str, Number]
    signals: Mapping[str, Signal]
    conditions: tuple[ForeignCondition, ...]
    faults: Mapping[str, Fault]
    known_xids: tuple[int, ...]
    quiet_xids: frozenset[int]
    """Codes that are nobody's business: severity info, and no fault."""
    weak_numbers: frozenset[int]
    """Codes that only their line can judge; the number alone is weak."""
    recoveries: frozenset[int]
    """Recovery actions that concern the GPU itself."""
    xid_texts: Mapping[int, str]
    """What each code means, in a sentence."""
    own: tuple[str, ...] = ()
    """Fault kinds that a site added."""
    retired: Mapping[str, Fault] = field(default_factory=dict)
    """Fault kinds that a site switched off: they raise nothing, and their codes are no news."""
    silenced: frozenset[str] = frozenset()
    """Alerts that a site switched off, alone or with their fault."""

    def number(self, name: str) -> str:
        """Return a number as an expression compares with it, durations in seconds."""
        return f"{self.numbers[name].value:.12g}"

    def window(self, name: str) -> str:
        """Return a duration as PromQL has it after `offset` and in brackets."""
        return str(self.numbers[name])

    def every_fault(self) -> tuple[Fault, ...]:
        """Return all fault kinds, those that are switched off last."""
        return (*self.faults.values(), *self.retired.values())

    def fault(self, slug: str) -> Fault:
        """Return a fault kind, also one that is switched off."""
        return self.faults.get(slug) or self.retired[slug]

    def expressions(self) -> frozenset[str]:
        """Return the names of the expressions that some alert still has."""
        return frozenset(alert.expr for _fault, alert in self.alerts())

    def live(self, slugs: Iterable[str]) -> tuple[str, ...]:
        """Return those of the fault kinds that are not switched off."""
        return tuple(slug for slug in slugs if slug in self.faults)

    def judged(self, witness: str) -> str:
        """Return, as a regular expression, the codes that are some fault's evidence or nobody's business."""
        of_faults = {code for fault in self.every_fault() for code in fault.xids}
        if witness == "dcgm":
            judged = (of_faults | self.quiet_xids) - self.weak_numbers
        else:
            judged = of_faults | self.quiet_xids | {VERDICT}
        return "|".join(str(code) for code in sorted(judged))

    def alerts(self) -> tuple[tuple[Fault, Alert], ...]:
        """Return every alert with its fault, in file order."""
        return tuple((fault, alert) for fault in self.faults.values() for alert in fault.alerts)
