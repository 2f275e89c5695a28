"""The ports: what the responder needs of the outside, as protocols.

The shell implements them on real servers, the lab on a simulated fleet; one test suite runs against both.
Every method has its own deadline inside and raises ObserveError (reading), Transient or Permanent (changing).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from gpuheal_responder.core.alert import Peer
from gpuheal_responder.core.case import Approval, Case
from gpuheal_responder.core.faults import DeadLetter
from gpuheal_responder.core.history import History
from gpuheal_responder.core.node import Condition, Node, Pod
from gpuheal_responder.core.opening import Ignore
from gpuheal_responder.core.sighting import Evidence
from gpuheal_responder.core.undo import Marks
from gpuheal_responder.core.verdict import Verdict
from gpuheal_responder.core.world import Controls, GroupIncident, NodeLock, OperationState


class EvictionResult(StrEnum):
    """What the Eviction API said: gone or going, refused by a disruption budget, or not there any more."""

    ACCEPTED = "accepted"
    BLOCKED = "blocked"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """Answer to one eviction; `blocker` names the PodDisruptionBudget that refused, as the API server said it."""

    result: EvictionResult
    blocker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An Event on a node, in plain words; `warning` picks its type."""

    node: str
    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A case as it stands in the store; `version` is what the next write must name.

    `unread` names parts of it that this version cannot read, such as an attempt in a state it does not know: the case
    is not whole, so nothing may be done on its strength. Keys that are merely unknown are not among them.
    """

    case: Case
    version: str
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A stored object that is no case to this version; `node` is empty when even that cannot be told.

    Somebody handles that node, or did: whoever cannot read how must leave it alone.
    """

    name: str
    node: str
    problem: str


class Cluster(Protocol):
    """Nodes, pods and evictions."""

    async def nodes(self) -> Mapping[str, Node]:
        """Return all GPU nodes by name from a cache that follows the API server; ObserveError if it lags."""
        ...

    async def node(self, name: str) -> Node | None:
        """Return one node read from the API server itself (not a cache), or None."""
        ...

    async def pods_on(self, node: str) -> tuple[Pod, ...]:
        """Return the pods bound to a node, finished ones included."""
        ...

    async def mark(self, node: Node, marks: Marks) -> Node:
        """Make taints, cordon, labels and undo record as `marks` says, in one PATCH at node.resource_version.

        Return the node. A conflict is Transient; nothing was changed then.
        """
        ...

    async def set_conditions(self, node: Node, put: Sequence[Condition], remove: Sequence[str]) -> None:
        """Write these conditions of ours and remove those types; other conditions stay untouched."""
        ...

    async def evict(self, pod: Pod) -> Eviction:
        """Ask the Eviction API, with the pod's UID as precondition, to remove the pod."""
        ...

    async def publish(self, note: Note) -> bool:
        """Record an Event on the node and return True; the same Event again raises its count.

        Return False, never raise, when it could not be recorded: whoever tells tries again later.
        """
        ...

    async def lock_of(self, node: str) -> NodeLock | None:
        """Return who else holds the node's Lease in `medik8s-leases`, or None when free, expired or ours."""
        ...

    async def lock(self, node: Node, span: timedelta) -> None:
        """Take or renew the node's Lease; Transient when somebody else holds it."""
        ...

    async def unlock(self, node: str) -> None:
        """Give the node's Lease back if it is ours."""
        ...


class Remediations(Protocol):
    """The store of cases. A write that names an old version is Transient with reason `conflict` and changes nothing."""

    async def list(self) -> Sequence[Stored]:
        """Return all cases, open and closed."""
        ...

    async def unreadable(self) -> Sequence[Unreadable]:
        """Return the stored objects that are no cases to this version."""
        ...

    async def create(self, case: Case, decision: Mapping[str, object]) -> Stored:
        """Store a new case; Transient `conflict` if its name exists."""
        ...

    async def save(self, stored: Stored, decision: Mapping[str, object] | None) -> Stored:
        """Replace what we know and did if the stored version is still `stored.version`; append the decision if given.

        What the case was opened on (node, its UIDs, the time) and its approvals stay as they are stored.
        """
        ...

    async def approve(self, stored: Stored, approvals: Sequence[Approval], token: str = "") -> Stored:
        """Replace the approvals of a case if its stored version is still that, as the owner of `token` if given."""
        ...

    async def delete(self, name: str) -> None:
        """Remove a closed case; no error if it is gone, Transient `conflict` if it changed since it was last read."""
        ...


class Histories(Protocol):
    """What machines have been through, kept apart from cases: it outlives those that people delete."""

    async def all(self) -> Mapping[str, History]:
        """Return the history of every machine by its key; ObserveError when they cannot be read."""
        ...

    async def save(self, history: History) -> None:
        """Replace one machine's history; Transient `conflict` when somebody else changed it since it was read."""
        ...


class Machines(Protocol):
    """Whoever can reboot a machine. A provider is named as policies do, or as `providers` identifies it."""

    def providers(self) -> Mapping[str, str]:
        """Return who can be asked, by the name that policies use (empty: the site's default).

        What identifies one tells where it keeps its operations too: elsewhere it knows nothing of earlier ones.
        """
        ...

    async def reboot(self, node: Node, operation: str, provider: str) -> None:
        """Ask for a reboot under this operation id; asking again with the same id does nothing more."""
        ...

    async def lookup(self, node: Node | None, operation: str, provider: str) -> OperationState:
        """Return what became of an operation id; the node may not exist any more."""
        ...

    async def withdraw(self, node: Node | None, operation: str, provider: str) -> None:
        """Make sure that what has not happened yet under this id never will; no error if there is nothing to stop.

        Afterwards the id is as one that was never asked for, unless the provider can tell that it has acted.
        """
        ...


class Alerts(Protocol):
    """All Alertmanager peers."""

    async def peers(self) -> tuple[Peer, ...]:
        """Return what every configured peer says; a peer that does not answer is in the list, with its problem."""
        ...


class EvidenceSource(Protocol):
    """Prometheus."""

    async def read(self, nodes: Collection[str]) -> Mapping[str, Evidence]:
        """Return witnesses, identities and recent GPU states of these nodes; each of them is a key of the answer."""
        ...


class ControlSource(Protocol):
    """What people set at run time."""

    async def controls(self) -> Controls:
        """Return the pause, the mode cap and the freeze in force."""
        ...


class Recorder(Protocol):
    """Where the engine tells what it saw and did: metrics and audit lines. Never raises, never waits."""

    def decided(self, case: Case, verdict: Verdict) -> None:
        """Count a verdict that differs from the case's last one, and write its audit line."""
        ...

    def performed(self, action: str, outcome: str, seconds: float) -> None:
        """Count one performed step; `outcome` is an attempt state or the reason of an error."""
        ...

    def looked(self, problems: Sequence[str], dead: Sequence[DeadLetter]) -> None:
        """Record which sources could not be read (`alertmanager`, `prometheus`, …) and the dead letters."""
        ...

    def standing(self, open_cases: Sequence[tuple[Case, Verdict]], closed: Sequence[Case]) -> None:
        """Replace the gauges made from all cases: states, and until when each fault's evidence is settled."""
        ...

    def passed_over(
        self, ignored: Sequence[Ignore], unreadable: Sequence[str], incidents: Sequence[GroupIncident] = ()
    ) -> None:
        """Replace what is known of faults that open no case, of undo records that cannot be read, and of incidents."""
        ...

    def ticked(self, seconds: float, ok: bool) -> None:
        """Record one round of the engine."""
        ...


class Clock(Protocol):
    """Time, as an argument."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...
