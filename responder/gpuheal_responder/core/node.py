"""The parts of a Kubernetes node and its pods that decisions read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


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
class Change:
    """One thing we changed, with what is needed to reverse it exactly; `kind` picks the reverse (see core.undo).

    `name` says what of that kind (a taint's key, a condition's type), `after` what we made of it, `before` what was
    there, None when nothing was.
    """

    kind: str
    name: str = ""
    after: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRecord:
    """What we found on a node and what we changed, kept in an annotation written by the same PATCH as the change.

    `found_cordoned` is True when somebody else had cordoned the node before us: that cordon is not ours to lift.
    """

    case: str
    owner: str
    at: datetime
    policy: str
    faults: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    found_cordoned: bool = False
    system_uuid: str = ""
    node_uid: str = ""
    boot_id: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """An undo record that this version cannot read: something of ours is on the node, and we do not know what."""

    problem: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The parts of a Kubernetes node that decisions read; everything else is dropped on arrival.

    `made_at` is when the Node object was made, `rebooted_at` when its boot ID was last seen to change, None while it
    has not since this process follows it.
    """

    name: str
    uid: str
    resource_version: str = ""
    made_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = True
    conditions: tuple[Condition, ...] = ()
    boot_id: str = ""
    rebooted_at: datetime | None = None
    system_uuid: str = ""
    provider_id: str = ""
    gpu_capacity: int = 0
    gpu_allocatable: int = 0
    undo: UndoRecord | Unreadable | None = None

    @property
    def record(self) -> UndoRecord | None:
        """The undo record if there is one that can be read."""
        return self.undo if isinstance(self.undo, UndoRecord) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod on the node of a case; `holds` are the UUIDs of its GPUs, None while nobody could tell which they are."""

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
    holds: tuple[str, ...] | None = None

    @property
    def ref(self) -> str:
        """`namespace/name`, the way people and kubectl name a pod."""
        return f"{self.namespace}/{self.name}"

    @property
    def evictable(self) -> bool:
        """True for pods that a drain removes: not of a DaemonSet, not a mirror pod, not finished."""
        return not self.mirror and self.owner_kind != "DaemonSet" and self.phase not in {"Succeeded", "Failed"}

    def uses(self, gpu: str) -> bool:
        """Return whether the pod may hold this GPU: one that has GPUs nobody can name counts as a holder of each."""
        return gpu in self.holds if self.holds is not None else self.gpus > 0
