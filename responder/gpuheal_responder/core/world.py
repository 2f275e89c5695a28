"""The world: everything one decision may look at, observed at one moment for one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gpuheal_responder.core.alert import Fault, Suppression
from gpuheal_responder.core.history import NOTHING, History
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.node import Node, Pod
from gpuheal_responder.core.sighting import Evidence


class OperationState(StrEnum):
    """What the other side knows of an operation we asked for."""

    NOT_FOUND = "not-found"
    ACCEPTED = "accepted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWABLE = "unknowable"


class Need(StrEnum):
    """What is read of one node only when a decision asks for it."""

    PODS = "pods"
    LOCK = "lock"
    OPERATIONS = "operations"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainCount:
    """How one failure domain of the node (pool, zone, rack, NVLink domain) stands, the node itself not counted in uses.

    `nodes` counts all GPU nodes of the pool in the domain; `unavailable` those in flight, unknown, tainted by us or
    unhealthy; `disrupting` those that may be rebooting: between drain and proof, of unknown outcome, or with a kubelet
    that is not heard of; `marked_recently` those we tainted within the mark window.
    """

    dimension: str
    value: str
    nodes: int
    unavailable: int = 0
    disrupting: int = 0
    marked_recently: int = 0
    schedulable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupIncident:
    """Something that befell many nodes at once, this one among them: not a fault of a node, so no ladder is climbed.

    `where` names the pool, rack, domain or version, `what` the fault or signal, `nodes` how many show it.
    """

    kind: str
    where: str
    what: str
    since: datetime
    nodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLock:
    """Holder of the node's Lease that remediation tools share (namespace `medik8s-leases`)."""

    holder: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What people and the pipeline's state allow at this moment; `mode` caps every policy.

    `released` names domains (`rack/r1`) whose incident a person has looked at: their nodes are healed again. It is
    about incidents that had begun at `released_at`; None where that is not known, and all are meant.
    """

    paused: str = ""
    mode: Mode = Mode.ENFORCE
    frozen: str = ""
    gangs_in_flight: tuple[str, ...] = ()
    released: tuple[str, ...] = ()
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything one decision may look at, observed at `now` for one node.

    `seen` says which needs have been read: a part that is None all the same could not be. `silences` are those of
    people that match the case, whether an alert hangs on them or not. `history` is what the machine has been through,
    `incidents` what it is part of. `providers` tells who can be asked under which name, the empty one being the site's
    default; None where that is not known.
    """

    now: datetime
    node: Node | None
    faults: tuple[Fault, ...] = ()
    peers_answering: int = 0
    peers_silent: tuple[str, ...] = ()
    silences: tuple[Suppression, ...] = ()
    evidence: Evidence | None = None
    seen: frozenset[Need] = frozenset()
    pods: tuple[Pod, ...] | None = None
    operations: Mapping[str, OperationState] = field(default_factory=dict)
    domains: tuple[DomainCount, ...] = ()
    incidents: tuple[GroupIncident, ...] = ()
    history: History = NOTHING
    providers: Mapping[str, str] | None = None
    lock: NodeLock | None = None
    controls: Controls = Controls()
