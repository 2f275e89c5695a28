"""Looking, in bulk: one list per source for all nodes, then the World of one node cut out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from gpuheal_responder.core.alert import Fault, Peer, Severity
from gpuheal_responder.core.budget import DEFAULT_KEYS, MARK_WINDOW, Ledger, Standing, domains_of
from gpuheal_responder.core.case import Case, Result
from gpuheal_responder.core.faults import Intake, fold
from gpuheal_responder.core.life import disrupting, started
from gpuheal_responder.core.node import Node, Pod
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.sighting import Evidence
from gpuheal_responder.core.step import Phase
from gpuheal_responder.core.world import Controls, NodeLock, OperationState, PastAttempt, World
from gpuheal_responder.errors import ObserveError
from gpuheal_responder.ports import (
    Alerts,
    Clock,
    Cluster,
    ControlSource,
    EvidenceSource,
    Machines,
    Remediations,
    Stored,
)

T = TypeVar("T")

HISTORY = timedelta(hours=24)
TAKEN = frozenset({Result.TAKEN_OVER, Result.REVERTED})
SETTLING = frozenset({Result.RESTORED}) | TAKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything outside, as the engine holds it."""

    cluster: Cluster
    remediations: Remediations
    machines: Machines
    alerts: Alerts
    evidence: EvidenceSource
    controls: ControlSource
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at everything; `problems` names the sources that could not be read."""

    now: datetime
    nodes: Mapping[str, Node]
    open: Mapping[str, Stored]
    closed: Sequence[Stored]
    past: Mapping[str, Sequence[Case]]
    peers: tuple[Peer, ...]
    intake: Intake
    evidence: Mapping[str, Evidence] | None
    controls: Controls
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What is read for one contained node only."""

    pods: tuple[Pod, ...] | None = None
    lock: NodeLock | None = None
    operation: OperationState | None = None


async def observe(ports: Ports, *, cluster: str, known_faults: Collection[str]) -> Look:
    """Return one look; raise ObserveError when nodes, cases or controls cannot be read: nothing can be decided then.

    Alertmanager or Prometheus out of reach is part of the look: decisions see no peers or no evidence.
    """
    nodes, stored, controls, peers = await asyncio.gather(
        ports.cluster.nodes(), ports.remediations.list(), ports.controls.controls(), ports.alerts.peers()
    )
    still_open = {s.case.node: s for s in stored if s.case.closed_at is None}
    closed = [s for s in stored if s.case.closed_at is not None]
    past: dict[str, list[Case]] = {}
    for ended in closed:
        past.setdefault(ended.case.node, []).append(ended.case)
    intake = await asyncio.to_thread(  # thousands of alerts may fire at once
        fold, peers, cluster=cluster, known_faults=known_faults, known_nodes=nodes
    )
    problems = [f"alertmanager {p.name}: {p.problem}" for p in peers if not p.answered]
    interest = {name for name, node in nodes.items() if node.undo is not None} | intake.faults.keys()
    evidence: Mapping[str, Evidence] | None = None
    try:
        evidence = await ports.evidence.read(interest)
    except ObserveError as problem:
        problems.append(str(problem))
    return Look(
        now=ports.clock.now(),
        nodes=nodes,
        open=still_open,
        closed=closed,
        past=past,
        peers=peers,
        intake=intake,
        evidence=evidence,
        controls=controls,
        problems=tuple(problems),
    )


async def details(ports: Ports, case: Case, policy: Policy, node: Node) -> Details:
    """Return pods, lock and the state of an open cure for one contained node; what could not be read stays None."""
    operation: OperationState | None = None
    for step in policy.of(Phase.CURE):
        attempt = case.latest(step.key)
        if attempt is not None and attempt.open:
            operation = await _or_none(ports.machines.lookup(node, attempt.operation, step.params.provider))
            if operation is not OperationState.NOT_FOUND:
                return Details(operation=operation)
    pods, lock = await asyncio.gather(
        _or_none(ports.cluster.pods_on(node.name)), _or_none(ports.cluster.lock_of(node.name))
    )
    return Details(pods=pods, lock=lock, operation=operation)


async def _or_none(reading: Awaitable[T]) -> T | None:
    try:
        return await reading
    except ObserveError:
        return None


def world_of(look: Look, node: str, policy: Policy, *, domains: Ledger, seen: Details, gangs: Sequence[str]) -> World:
    """Return everything a decision about this node may look at.

    Faults are those that the policy answers for: our own alerts about a case, and consequences of our reboot such as
    node-not-ready, are none of its business.
    """
    past = look.past.get(node, ())
    found = look.nodes.get(node)
    machine = found.system_uuid if found is not None else ""
    return World(
        now=look.now,
        node=found,
        faults=faults_for(look, node, policy),
        peers_answering=sum(1 for p in look.peers if p.answered and not p.settling),
        peers_silent=tuple(f"{p.name}: {p.problem or 'settling'}" for p in look.peers if not p.answered or p.settling),
        evidence=_evidence(look, node),
        pods=seen.pods,
        operation=seen.operation,
        domains=domains.domains(node),
        history=history_of(past, machine, look.now),
        watermark=watermark_of(past, machine),
        lock=seen.lock,
        controls=replace(look.controls, gangs_in_flight=tuple(gangs)),
    )


def faults_for(look: Look, name: str, policy: Policy) -> tuple[Fault, ...]:
    """Return the faults of a node that this policy answers for."""
    node = look.nodes.get(name)
    return tuple(f for f in look.intake.faults.get(name, ()) if node is None or policy.matches(f, node))


def _evidence(look: Look, node: str) -> Evidence | None:
    if look.evidence is None:
        return None
    return look.evidence.get(node)


def watermark_of(past: Sequence[Case], machine: str) -> datetime | None:
    """Return until when this machine's evidence is settled: when we or a person last gave it back."""
    ends = (c.closed_at for c in past if c.result in SETTLING and c.system_uuid in {"", machine})
    return max((end for end in ends if end is not None), default=None)


def taken_at(past: Sequence[Case], machine: str) -> datetime | None:
    """Return when a person last took this machine back from us, or None."""
    ends = (c.closed_at for c in past if c.result in TAKEN and c.system_uuid in {"", machine})
    return max((end for end in ends if end is not None), default=None)


def history_of(past: Sequence[Case], machine: str, now: datetime) -> tuple[PastAttempt, ...]:
    """Return the cures that earlier cases of this machine ended within the last day."""
    found = [
        PastAttempt(action=a.action, ended_at=a.ended_at)
        for c in past
        if c.system_uuid in {"", machine}
        for a in c.attempts
        if a.cure and a.ended_at is not None and now - a.ended_at < HISTORY
    ]
    return tuple(sorted(found, key=lambda p: p.ended_at))


def standing_of(
    node: Node,
    case: Case | None,
    faults: Sequence[Fault],
    now: datetime,
    keys: Mapping[str, Sequence[str]] = DEFAULT_KEYS,
) -> Standing:
    """Return how a node counts in budgets: out when in flight, escalated, cordoned by others or NotReady.

    It may be rebooting while our case disrupts it, and while its kubelet is not heard of, whoever's doing that is.

    A faulty node that is not contained yet waits behind all that are: were it out for them, two faults at once in a
    small pool would keep the first from being healed until the mark budget let the second be contained.
    """
    domains = domains_of(node.labels, keys)
    ours = node.undo is not None
    schedulable = node.ready and not node.unschedulable
    marked = node.undo is not None and now - node.undo.at < MARK_WINDOW
    silent = not node.ready and not any(c.type == "Ready" and c.status == "False" for c in node.conditions)
    if case is not None and started(case):
        return Standing(
            node=node.name,
            domains=domains,
            unavailable=True,
            disrupting=silent or disrupting(case),
            marked_recently=marked,
            schedulable=schedulable,
        )
    if ours and case is not None and not case.escalated:
        return Standing(
            node=node.name,
            domains=domains,
            disrupting=silent,
            marked_recently=marked,
            schedulable=schedulable,
            queued_at=node.undo.at if node.undo else None,
        )
    faulty = any(f.severity is Severity.CRITICAL for f in faults)
    return Standing(
        node=node.name,
        domains=domains,
        unavailable=ours or not schedulable,
        disrupting=silent,
        marked_recently=marked,
        schedulable=schedulable and not faulty,
        queued_at=now if faulty and schedulable and not ours else None,
    )
