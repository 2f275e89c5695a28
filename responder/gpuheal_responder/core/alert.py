"""What Alertmanager says, and the fault that it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Severity(StrEnum):
    """Severity of an alert, in the words of its label."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a fault is on: a node, or one GPU of it."""

    node: str
    gpu_uuid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert as one Alertmanager peer reports it through its API."""

    fingerprint: str
    labels: Mapping[str, str]
    starts_at: datetime
    updated_at: datetime
    suppressed: bool = False
    silenced_by: tuple[str, ...] = ()
    inhibited_by: tuple[str, ...] = ()
    muted_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """What a silence demands of one label: that it equals (or matches, with `is_regex`) the value, or does not."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A silence in force, with the person to talk to; `core.silence` says what it matches."""

    id: str
    created_by: str
    comment: str
    matchers: tuple[Matcher, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One Alertmanager peer at one moment.

    `problem` says why it did not answer, or why it counts as settling although it did. `silences` are all that are in
    force on it, whether or not an alert they match fires.
    """

    name: str
    answered: bool
    problem: str = ""
    settling: bool = False
    alerts: tuple[Alert, ...] = ()
    silences: tuple[Silence, ...] = ()


class SuppressionKind(StrEnum):
    """Why Alertmanager keeps an alert from people."""

    SILENCE = "silence"
    INHIBITION = "inhibition"
    MUTE = "mute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """One suppression of a fault's alert: `by` names the silence's author and comment, or the inhibiting alerts."""

    kind: SuppressionKind
    by: str
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that at least one Alertmanager peer reports at this moment; silences are matched with its `labels`."""

    slug: str
    target: Target
    severity: Severity
    since: datetime
    alertname: str = ""
    xid: str | None = None
    suppressions: tuple[Suppression, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class Scope(StrEnum):
    """How far an alert that names no node reaches: one failure domain, or everything."""

    DOMAIN = "domain"
    FLEET = "fleet"


def named(faults: Iterable[Fault]) -> list[str]:
    """Return the faults as people name them, with their GPUs: `gpu-fell-off-bus on GPU-1b2c`."""
    return [f"{f.slug} on {f.target.gpu_uuid}" if f.target.gpu_uuid else f.slug for f in faults]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """An alert about no single node that at least one Alertmanager peer reports: of a rack, a fabric, the fleet.

    `labels` say what it is about (`core.faults.WHERE`); an incident of the whole fleet may have none.
    """

    slug: str
    scope: Scope
    severity: Severity
    since: datetime
    labels: Mapping[str, str]
    alertname: str = ""
    suppressions: tuple[Suppression, ...] = ()
