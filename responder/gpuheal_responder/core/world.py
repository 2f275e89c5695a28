"""The world: everything one decision may look at, observed at one moment for one node."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gpuheal_responder.core.alert import Fault
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.node import Node, Pod
from gpuheal_responder.core.sighting import Evidence


class OperationState(StrEnum):
    """What a machine provider knows of an operation we asked for."""

    NOT_FOUND = "not-found"
    ACCEPTED = "accepted"
    FAILED = "failed"
    UNKNOWABLE = "unknowable"


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
class PastAttempt:
    """An attempt of an earlier case on the same machine."""

    action: str
    ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLock:
    """Holder of the node's Lease that remediation tools share (namespace `medik8s-leases`)."""

    holder: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What people and the pipeline's state allow at this moment; `mode` caps every policy."""

    paused: str = ""
    mode: Mode = Mode.ENFORCE
    frozen: str = ""
    gangs_in_flight: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything one decision may look at, observed at `now` for one node."""

    now: datetime
    node: Node | None
    faults: tuple[Fault, ...] = ()
    peers_answering: int = 0
    peers_silent: tuple[str, ...] = ()
    evidence: Evidence | None = None
    pods: tuple[Pod, ...] | None = None
    operation: OperationState | None = None
    domains: tuple[DomainCount, ...] = ()
    history: tuple[PastAttempt, ...] = ()
    watermark: datetime | None = None
    lock: NodeLock | None = None
    controls: Controls = Controls()
