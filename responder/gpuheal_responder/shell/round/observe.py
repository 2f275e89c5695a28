"""Looking, in bulk: one list per source for all nodes, then the World of one node cut out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from gpuheal_responder.actions import REGISTRY
from gpuheal_responder.actions.action import Inquiry
from gpuheal_responder.core.alert import Fault, Peer, Severity, Suppression, SuppressionKind
from gpuheal_responder.core.budget import DEFAULT_KEYS, MARK_WINDOW, Ledger, Standing, domains_of
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.faults import Intake, author, fold
from gpuheal_responder.core.fleet import Incidents
from gpuheal_responder.core.history import NOTHING, History, absorb, believable, machine_of, shared
from gpuheal_responder.core.life import disrupting, started
from gpuheal_responder.core.node import Node, Pod, Taint
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.sighting import Evidence
from gpuheal_responder.core.silence import silence_matches
from gpuheal_responder.core.step import Due
from gpuheal_responder.core.undo import TAINT_KEY
from gpuheal_responder.core.world import Controls, Need, NodeLock, OperationState, World
from gpuheal_responder.errors import ObserveError
from gpuheal_responder.ports import (
    Alerts,
    Clock,
    Cluster,
    ControlSource,
    EvidenceSource,
    Histories,
    Machines,
    Remediations,
    Stored,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything outside, as the engine holds it."""

    cluster: Cluster
    remediations: Remediations
    histories: Histories
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
    twins: Sequence[Stored]
    """Further open cases of nodes: a create that seemed to fail took effect, or somebody restored a copy."""
    closed: Sequence[Stored]
    past: Mapping[str, Sequence[Case]]
    unreadable: Mapping[str, str]
    """By node what of its stored case cannot be read: somebody handles that node, and we cannot tell how."""
    histories: Mapping[str, History]
    ambiguous: frozenset[str] = frozenset()
    """System UUIDs that several nodes have in common."""
    peers: tuple[Peer, ...]
    intake: Intake
    evidence: Mapping[str, Evidence] | None
    controls: Controls
    providers: Mapping[str, str]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What is read of one node only when a decision asks for it."""

    seen: frozenset[Need] = frozenset()
    pods: tuple[Pod, ...] | None = None
    lock: NodeLock | None = None
    operations: Mapping[str, OperationState] = field(default_factory=dict)


async def observe(ports: Ports, *, cluster: str, known_faults: Collection[str]) -> Look:
    """Return one look; raise ObserveError when nodes, cases or controls cannot be read: nothing can be decided then.

    Alertmanager or Prometheus out of reach is part of the look: decisions see no peers or no evidence.
    """
    nodes, stored, strange, histories, controls, peers = await asyncio.gather(
        ports.cluster.nodes(),
        ports.remediations.list(),
        ports.remediations.unreadable(),
        ports.histories.all(),
        ports.controls.controls(),
        ports.alerts.peers(),
    )
    still_open, twins = _one_per_node([s for s in stored if s.case.closed_at is None], nodes)
    closed = [s for s in stored if s.case.closed_at is not None]
    past: dict[str, list[Case]] = {}
    for ended in closed:
        past.setdefault(ended.case.node, []).append(ended.case)
    intake = await asyncio.to_thread(  # thousands of alerts may fire at once
        fold, peers, cluster=cluster, known_faults=known_faults, known_nodes=nodes
    )
    problems = [f"alertmanager {p.name}: {p.problem}" for p in peers if not p.answered]
    interest = {name for name, node in nodes.items() if node.undo is not None}
    interest |= intake.faults.keys() | (still_open.keys() & nodes.keys())
    evidence: Mapping[str, Evidence] | None = None
    try:
        evidence = await ports.evidence.read(interest)
    except ObserveError as problem:
        problems.append(str(problem))
    return Look(
        now=ports.clock.now(),
        nodes=nodes,
        open=still_open,
        twins=twins,
        closed=closed,
        past=past,
        unreadable={one.node: f"{one.name}: {one.problem}" for one in strange if one.node},
        histories=histories,
        ambiguous=shared(node.system_uuid for node in nodes.values() if node.system_uuid),
        peers=peers,
        intake=intake,
        evidence=evidence,
        controls=controls,
        providers=ports.machines.providers(),
        problems=tuple(problems),
    )


def _one_per_node(stored: Sequence[Stored], nodes: Mapping[str, Node]) -> tuple[Mapping[str, Stored], Sequence[Stored]]:
    """Return the open case of each node, that of its marks or else the oldest, and all others."""
    first: dict[str, Stored] = {}
    others = []
    for one in sorted(stored, key=lambda s: (not _holds_marks(s.case, nodes), s.case.opened_at, s.case.name)):
        if first.setdefault(one.case.node, one) is not one:
            others.append(one)
    return first, others


def _holds_marks(case: Case, nodes: Mapping[str, Node]) -> bool:
    node = nodes.get(case.node)
    return node is not None and node.record is not None and node.record.case == case.name


async def details(ports: Ports, case: Case, policy: Policy, node: Node | None, needs: Collection[Need]) -> Details:
    """Return what was asked for about one node; what could not be read stays None or is left out."""
    name = case.node
    found = Details(seen=frozenset(needs))
    if Need.OPERATIONS in needs:
        found = replace(found, operations=await _operations(ports, case, policy, node))
    pods, lock = await asyncio.gather(
        _or_none(ports.cluster.pods_on(name)) if Need.PODS in needs else _nothing(),
        _or_none(ports.cluster.lock_of(name)) if Need.LOCK in needs else _nothing(),
    )
    return replace(found, pods=pods, lock=lock)


async def _operations(ports: Ports, case: Case, policy: Policy, node: Node | None) -> Mapping[str, OperationState]:
    """Return what the other side knows of every open operation whose action can ask."""
    steps = {s.key: s for s in policy.steps}
    found: dict[str, OperationState] = {}
    for attempt in case.attempts:
        action = REGISTRY.get(attempt.action)
        if not attempt.open or attempt.step not in steps or action is None or action.look is None:
            continue
        due = Due(step=steps[attempt.step], target=attempt.target)
        asked = Inquiry(case=case, due=due, attempt=attempt, node=node, machines=ports.machines)
        state = await _or_none(action.look(asked))
        if state is not None:
            found[attempt.operation] = state
    return found


async def _nothing() -> None:
    return None


async def _or_none(reading: Awaitable[T]) -> T | None:
    try:
        return await reading
    except ObserveError:
        return None


def world_of(
    look: Look,
    node: str,
    policy: Policy | None,
    *,
    domains: Ledger,
    seen: Details,
    gangs: Sequence[str],
    incidents: Incidents,
) -> World:
    """Return everything a decision about this node may look at.

    Faults are those that the policy answers for: our own alerts about a case, and consequences of our reboot such as
    node-not-ready, are none of its business. Without a policy all faults of the node count.
    """
    found = look.nodes.get(node)
    faults = faults_for(look, node, policy)
    return World(
        now=look.now,
        node=found,
        faults=faults,
        peers_answering=sum(1 for p in look.peers if p.answered and not p.settling),
        peers_silent=tuple(f"{p.name}: {p.problem or 'settling'}" for p in look.peers if not p.answered or p.settling),
        silences=_silences(look, node, faults),
        evidence=None if look.evidence is None else look.evidence.get(node),
        seen=seen.seen,
        pods=seen.pods,
        operations=seen.operations,
        domains=domains.domains(node),
        incidents=incidents.of(node),
        history=history_of(look, node),
        providers=look.providers,
        lock=seen.lock,
        controls=replace(look.controls, gangs_in_flight=tuple(gangs)),
    )


def faults_for(look: Look, name: str, policy: Policy | None) -> tuple[Fault, ...]:
    """Return the faults of a node that this policy answers for."""
    node = look.nodes.get(name)
    found = look.intake.faults.get(name, ())
    return tuple(f for f in found if policy is None or node is None or policy.matches(f, node))


def _silences(look: Look, node: str, faults: Sequence[Fault]) -> tuple[Suppression, ...]:
    """Return people's silences that match what the open case of this node is about, alert or no alert."""
    stored = look.open.get(node)
    known = [*faults, *(stored.case.faults if stored is not None else ())]
    return tuple(
        Suppression(kind=SuppressionKind.SILENCE, by=author(silence), peer=peer.name)
        for peer in look.peers
        for silence in peer.silences
        if any(silence_matches(silence, fault.labels) for fault in known)
    )


def history_of(look: Look, node: str, system_uuid: str = "") -> History:
    """Return what is known of a machine of this node: what was kept apart, and what its cases tell.

    It is the machine with this system UUID, else the one that is this node now.
    """
    found = look.nodes.get(node)
    known = system_uuid or (found.system_uuid if found is not None else "")
    machine = machine_of("" if known in look.ambiguous else known, node)
    history = look.histories.get(machine, History(machine=machine))
    for case in look.past.get(node, ()):
        if machine_of("" if case.system_uuid in look.ambiguous else case.system_uuid, case.node) == machine:
            history = absorb(history, case, look.now)
    return believable(history, look.now)


def standing_of(
    node: Node,
    case: Case | None,
    faults: Sequence[Fault],
    now: datetime,
    keys: Mapping[str, Sequence[str]] = DEFAULT_KEYS,
    history: History = NOTHING,
) -> Standing:
    """Return how a node counts in budgets: out when in flight, escalated, cordoned by others or NotReady.

    It may be rebooting while our case disrupts it, and while its kubelet is not heard of, whoever's doing that is.

    A node that others had cordoned before we contained it is out as it was. A faulty node that is not contained yet
    waits behind all that are: were it out for them, two faults at once in a small pool would keep the first from being
    healed until the mark budget let the second be contained.
    """
    domains = domains_of(node.labels, keys)
    ours = node.undo is not None
    schedulable = node.ready and not node.unschedulable and not ours
    taints = frozenset(f"{t.key}={t.value}:{t.effect}" for t in node.taints if _keeps_off(t))
    marks = [*history.marks, *([node.record.at] if node.record is not None else [])]
    marked = any(abs(now - at) < MARK_WINDOW for at in marks)
    silent = not node.ready and not any(c.type == "Ready" and c.status == "False" for c in node.conditions)
    if case is not None and started(case):
        return Standing(
            node=node.name,
            domains=domains,
            unavailable=True,
            disrupting=silent or disrupting(case),
            marked_recently=marked,
            schedulable=schedulable,
            taints=taints,
        )
    if ours and case is not None and not case.escalated:
        out = node.record is not None and node.record.found_cordoned
        queued_at = node.record.at if node.record is not None else case.opened_at
        return Standing(
            node=node.name,
            domains=domains,
            unavailable=out,
            disrupting=silent,
            marked_recently=marked,
            schedulable=schedulable,
            taints=taints,
            queued_at=None if out else queued_at,
        )
    faulty = any(f.severity is Severity.CRITICAL for f in faults)
    return Standing(
        node=node.name,
        domains=domains,
        unavailable=not schedulable,
        disrupting=silent,
        marked_recently=marked,
        schedulable=schedulable and not faulty,
        taints=taints,
        queued_at=now if faulty and schedulable else None,
    )


def _keeps_off(taint: Taint) -> bool:
    """Return whether a taint keeps GPU pods off that do not tolerate it; all of them tolerate that of GPU nodes."""
    return taint.effect in {"NoSchedule", "NoExecute"} and taint.key not in {"nvidia.com/gpu", TAINT_KEY}


def absent_standing(case: Case) -> Standing:
    """Return how a node counts that does not exist while its case is open: it is out, and may be rebooting."""
    return Standing(
        node=case.node, domains=case.domains, unavailable=True, disrupting=disrupting(case), schedulable=False
    )
