"""The nouns of the responder, as frozen values.

`Alert` is what Alertmanager says, `Fault` what is broken, `Node`, `Pod` and `Witness` what was seen, `Case` our
handling of one node's faults. All that one decision may look at is in core.world.

A case belongs to a node, not to a GPU: cordon, drain and reboot act on nodes, so two faulty GPUs of one node are one
case with two faults, and one undo record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class Severity(StrEnum):
    """Severity of an alert, in the words of its label."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class WitnessClass(StrEnum):
    """Kinds of observers that fail independently of each other."""

    KERNEL = "kernel"
    NVML = "nvml"
    DCGM = "dcgm"
    KUBERNETES = "kubernetes"
    DRIVER = "driver"


class Confidence(StrEnum):
    """How sure the witnesses make us; ordered by `rank`."""

    NONE = "none"
    SUSPECT = "suspect"
    PROBABLE = "probable"
    CONFIRMED = "confirmed"

    @property
    def rank(self) -> int:
        """Position from 0 (none) to 3 (confirmed)."""
        return list(Confidence).index(self)


class Mode(StrEnum):
    """What a policy allows: look only; contain and ask before anything disruptive; act."""

    OBSERVE = "observe"
    PROPOSE = "propose"
    ENFORCE = "enforce"

    @property
    def rank(self) -> int:
        """Position from 0 (observe) to 2 (enforce)."""
        return list(Mode).index(self)


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
class Silence:
    """A silence, with the person to talk to."""

    id: str
    created_by: str
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One Alertmanager peer at one moment; `problem` says why it did not answer."""

    name: str
    answered: bool
    problem: str = ""
    settling: bool = False
    uptime: timedelta = timedelta(days=1)
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
    """A fault that at least one Alertmanager peer reports at this moment."""

    slug: str
    target: Target
    severity: Severity
    since: datetime
    alertname: str = ""
    xid: str | None = None
    suppressions: tuple[Suppression, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """One witness class that sees a fault.

    `last_seen_at` is when it was last positively seen (for a kernel event: the event's time), `sample_age` the age of
    the sample itself by Prometheus' own clock.
    """

    fault: str
    gpu_uuid: str | None
    witness_class: WitnessClass
    last_seen_at: datetime
    sample_age: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A source (`exporter`, `dcgm`) that knows this GPU to sit in this node."""

    gpu_uuid: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSample:
    """State of one GPU at one rule evaluation: 0 ok, 1 degraded, 2 suspect, 3 faulty, 4 lost, 5 unknown."""

    at: datetime
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHealth:
    """The recent states of one GPU, oldest first."""

    gpu_uuid: str
    samples: tuple[HealthSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What Prometheus knows of one node; `at` is Prometheus' own clock."""

    at: datetime
    booted_at: datetime | None = None
    witnesses: tuple[Witness, ...] = ()
    identities: tuple[Identity, ...] = ()
    health: tuple[GpuHealth, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Taint:
    """A node taint."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"
    time_added: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A node condition."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRecord:
    """What we found on a node and what we changed, kept in an annotation written by the same PATCH as the change."""

    case: str
    owner: str
    at: datetime
    policy: str
    faults: tuple[str, ...]
    taints: tuple[Taint, ...] = ()
    cordoned: bool = False
    conditions: tuple[str, ...] = ()
    conditions_before: tuple[Condition, ...] = ()
    system_uuid: str = ""
    node_uid: str = ""
    boot_id: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The parts of a Kubernetes node that decisions read; everything else is dropped on arrival."""

    name: str
    uid: str
    resource_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = True
    conditions: tuple[Condition, ...] = ()
    boot_id: str = ""
    system_uuid: str = ""
    provider_id: str = ""
    gpu_capacity: int = 0
    gpu_allocatable: int = 0
    undo: UndoRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod on the node of a case."""

    namespace: str
    name: str
    uid: str
    phase: str = "Running"
    owner_kind: str = ""
    owner_name: str = ""
    gang: str = ""
    gpus: int = 0
    terminating: bool = False
    mirror: bool = False
    protected: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """`namespace/name`, the way people and kubectl name a pod."""
        return f"{self.namespace}/{self.name}"

    @property
    def evictable(self) -> bool:
        """True for pods that a drain removes: not of a DaemonSet, not a mirror pod, not finished."""
        return not self.mirror and self.owner_kind != "DaemonSet" and self.phase not in {"Succeeded", "Failed"}


class AttemptState(StrEnum):
    """Life of one attempt at one step; `intent` seen by a later look means the outcome is unknown."""

    INTENT = "intent"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one step of a case, with what the node was when it began."""

    step: str
    action: str
    operation: str
    state: AttemptState
    started_at: datetime
    ended_at: datetime | None = None
    reason: str = ""
    detail: str = ""
    boot_id: str = ""
    cure: bool = False

    @property
    def open(self) -> bool:
        """True while the attempt has no end."""
        return self.state in {AttemptState.INTENT, AttemptState.RUNNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's yes to one step on one evidence, until it expires."""

    step: str
    evidence: str
    by: str
    expires_at: datetime


class Result(StrEnum):
    """How a case ended."""

    RESTORED = "restored"
    CLEARED = "cleared"
    GONE = "gone"
    TAKEN_OVER = "taken-over"
    REVERTED = "reverted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Our handling of one node's faults, from the first alert to the proof that the node is well."""

    name: str
    node: str
    opened_at: datetime
    policy: str
    faults: tuple[Fault, ...] = ()
    node_uid: str = ""
    system_uuid: str = ""
    gpus: tuple[str, ...] = ()
    gangs: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    approvals: tuple[Approval, ...] = ()
    escalated: str = ""
    closed_at: datetime | None = None
    result: Result | None = None

    def latest(self, step: str) -> Attempt | None:
        """Return the newest attempt at `step`, or None."""
        return next((a for a in reversed(self.attempts) if a.step == step), None)
