"""Policies: what we would do about which fault on which nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.core.alert import Fault
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.step import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One node selector requirement, with Kubernetes' operators In, NotIn, Exists and DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether these node labels meet the requirement."""
        match self.operator:
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
            case "In":
                return labels.get(self.key) in self.values
            case _:
                return labels.get(self.key) not in self.values


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Budgets over failure domains; percentages round down, with a minimum of one node."""

    pool_percent: int = 10
    rack_percent: int = 10
    zone_percent: int = 5
    fabric_domain_nodes: int = 1
    mark_percent: int = 10
    attempts: int = 2
    attempts_window: timedelta = timedelta(hours=24)
    cooldown: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to do about some faults on some nodes."""

    name: str
    mode: Mode
    faults: tuple[str, ...]
    nodes: tuple[Requirement, ...]
    steps: tuple[Step, ...]
    limits: Limits = Limits()

    def matches(self, fault: Fault, node: Node) -> bool:
        """Return whether this policy answers for the fault on the node."""
        return fault.slug in self.faults and all(r.matches(node.labels) for r in self.nodes)

    def of(self, *phases: Phase) -> tuple[Step, ...]:
        """Return the steps of these phases, in order."""
        return tuple(s for s in self.steps if s.spec.phase in phases)


def digest(policy: Policy) -> str:
    """Return a short hash of all that the policy says; equal policies of equal meaning have equal digests."""
    steps = [(s.key, s.spec.name, repr(s.params), s.deadline) for s in policy.steps]
    said = (policy.name, policy.mode.value, policy.faults, policy.nodes, steps, policy.limits)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


def answering(policies: Sequence[Policy], faults: Sequence[Fault], node: Node) -> Mapping[str, tuple[Fault, ...]]:
    """Return which policy answers for which of the faults on this node: for each fault the first, in file order."""
    found: dict[str, list[Fault]] = {}
    for fault in faults:
        first = next((p.name for p in policies if p.matches(fault, node)), None)
        if first is not None:
            found.setdefault(first, []).append(fault)
    return {p.name: tuple(found[p.name]) for p in policies if p.name in found}
