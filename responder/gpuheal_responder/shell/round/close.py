"""Ending a case cleanly, and forgetting closed ones after a while."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from gpuheal_responder.actions.restore import undo
from gpuheal_responder.core.case import TAKEN, Case, Result
from gpuheal_responder.core.decide import decide
from gpuheal_responder.core.evidence import witnesses_of
from gpuheal_responder.core.life import last_cure_end, settled_until
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.sighting import WitnessClass
from gpuheal_responder.core.undo import TAINT_KEY, Marks
from gpuheal_responder.core.verdict import Done
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import Permanent, Transient
from gpuheal_responder.ports import Stored
from gpuheal_responder.shell.round.conclude import withdraw_all
from gpuheal_responder.shell.round.observe import Ports

log = logging.getLogger(__name__)
KEPT_PER_NODE = 20
KEPT_FOR = timedelta(days=30)
AT_ONCE = 50
UNHEARD = timedelta(minutes=1)
"""An Event takes a look to be written, and people a while to read it."""
MOMENT = timedelta(microseconds=1)


async def finish(
    ports: Ports, case: Case, policy: Policy | None, world: World, verdict: Done, may_act: Callable[[], bool]
) -> None:
    """Take what is left of the case's marks off the node, withdraw what was asked for, and give the Lease back.

    The node is read afresh, and the end decided again on it: a cache that lags must not end a case. Transient when the
    fresh node leads to another verdict, or when another replica leads.
    """
    if not may_act():
        raise Transient(Reason.NOT_LEADER, "another replica is the leader now")
    fresh = await ports.cluster.node(case.node)
    again = decide(case, policy, replace(world, node=fresh))
    if not isinstance(again, Done) or again.result is not verdict.result:
        raise Transient(Reason.NODE_CHANGED, f"{case.node} changed while its case was being closed")
    await withdraw_all(ports, case, policy, fresh, may_act)
    if fresh is not None and fresh.record is not None and fresh.record.case == case.name:
        await undo(ports.cluster, fresh, may_act=may_act)
    elif fresh is not None and _unrecorded(fresh, verdict) and may_act():
        kept = tuple(t for t in fresh.taints if t.key != TAINT_KEY)  # its record was removed by hand; the key is ours
        await ports.cluster.mark(fresh, Marks(taints=kept, unschedulable=None, undo=None))
    if not may_act():
        raise Transient(Reason.NOT_LEADER, "another replica is the leader now")
    try:
        await ports.cluster.unlock(case.node)
    except Permanent as problem:  # it runs out by itself; a case must not stay open for it
        log.warning("the Lease of node %s was not released: %s", case.node, problem)


def _unrecorded(node: Node, verdict: Done) -> bool:
    """Return whether a taint of ours is left because somebody took our record off by hand.

    After any other end a taint of our key is one that was there before us, which is not ours to take.
    """
    return verdict.result is Result.REVERTED and node.undo is None and any(t.key == TAINT_KEY for t in node.taints)


async def supersede(ports: Ports, twin: Stored, may_act: Callable[[], bool]) -> None:
    """Close an open case for which another one of its node stands; that one has the node's marks, if there are any."""
    if may_act() and not twin.unread:
        over = replace(twin.case, closed_at=ports.clock.now(), result=Result.SUPERSEDED)
        await ports.remediations.save(Stored(case=over, version=twin.version), None)
        log.warning("case %s was closed: another open case of node %s stands for it", twin.case.name, twin.case.node)


def closed(case: Case, before: Case, verdict: Done, world: World, now: datetime, looked_at: datetime | None) -> Case:
    """Return the case as ended; `before` is the case as the last look left it, `looked_at` when that was
    if this process has led since.

    A proof settles evidence until the moment from which on it saw no fault, a person who took the node back until our
    last look before that: not until it was noticed. What happened in between is news. Evidence is dated by Prometheus:
    a clock of ours that is ahead must not settle what has not been seen yet.
    """
    settled = settled_until(case)
    if verdict.result in TAKEN:
        known = [a.ended_at or a.started_at for a in before.attempts] + ([looked_at] if looked_at is not None else [])
        settled = _before_unheard(case, world, min(now, max(known, default=case.opened_at)))
    if world.evidence is not None:
        settled = min(settled, world.evidence.at)
    return replace(case, closed_at=now, settled_at=settled, result=verdict.result)


def _before_unheard(case: Case, world: World, settled: datetime) -> datetime:
    """Return until when a person's act settles evidence: not beyond a fault that they cannot have heard of.

    That is one that came after the node was contained, or came again after it was cured, and so shortly before our last
    look that nobody was told yet.
    """
    marks = [a.started_at for a in case.attempts if a.phase is Phase.CONTAIN]
    came = [f.since for f in case.faults if marks and f.since > min(marks)]
    cured = last_cure_end(case)
    lines = (w for f in case.faults for w in witnesses_of(f, world.evidence) if w.witness_class is WitnessClass.KERNEL)
    came += [line.last_seen_at for line in lines if cured is not None and line.last_seen_at > cured]
    return min([settled, *(at - MOMENT for at in came if at > settled - UNHEARD)])


def surplus(cases: Sequence[Stored], now: datetime) -> tuple[str, ...]:
    """Return names of closed cases to delete: beyond 20 per node or 30 days, at most 50 at once.

    What the machine has been through is kept apart from cases (see core.history). The newest case of a node stays.
    """
    by_node: dict[str, list[Case]] = {}
    for stored in cases:
        by_node.setdefault(stored.case.node, []).append(stored.case)
    names = []
    for found in by_node.values():
        found.sort(key=lambda c: c.closed_at or c.opened_at, reverse=True)
        for index, case in enumerate(found[1:], start=1):
            if index >= KEPT_PER_NODE or now - (case.closed_at or case.opened_at) > KEPT_FOR:
                names.append(case.name)
    return tuple(names[:AT_ONCE])
