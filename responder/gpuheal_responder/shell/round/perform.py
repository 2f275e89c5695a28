"""Performing one step: intent, effect, outcome. The only place that changes anything outside.

A reversible mark needs one write, for its undo record is its intent. Every other step writes its intent into the
Remediation first, by compare-and-swap, and its outcome afterwards; whoever dies in between leaves an open attempt that
the next look resolves against the world. A cure stands in the machine's history before it begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from gpuheal_responder.actions import REGISTRY
from gpuheal_responder.actions.action import Context, Outcome
from gpuheal_responder.actions.turns import Turns
from gpuheal_responder.core import life
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.decide import decide
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import Due
from gpuheal_responder.core.undo import pause
from gpuheal_responder.core.verdict import Act
from gpuheal_responder.core.world import Need, World
from gpuheal_responder.errors import ActionError, ObserveError, Permanent, Transient
from gpuheal_responder.ports import Clock, Stored
from gpuheal_responder.shell.round.observe import Ports

CONFLICT_TRIES = 3
LOCK_MARGIN = timedelta(minutes=10)
ERRORS = frozenset(
    {
        Reason.FORBIDDEN,
        Reason.NOT_FOUND,
        Reason.REJECTED,
        Reason.THROTTLED,
        Reason.API_UNAVAILABLE,
        Reason.TIMEOUT,
        Reason.CONFLICT,
        Reason.NODE_LOCKED,
    }
)
"""Outcomes of a step by which the other side refused it."""
FOR_GOOD = frozenset({Reason.FORBIDDEN, Reason.NOT_FOUND, Reason.REJECTED})
"""Of these, what will not pass by trying again soon."""
EXPECTED = frozenset(
    {
        Reason.MARKED,
        Reason.PUBLISHED,
        Reason.BEGUN,
        Reason.REBOOTING,
        Reason.PODS_LEAVING,
        Reason.EMPTY,
        Reason.RESTORED,
    }
)
"""Outcomes that are no news in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """The case after a step, its stored version if it has one, and what happened (a slug)."""

    case: Case
    stored: Stored | None
    outcome: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One step to perform, with all that its decision was made on; `record` is stored with the intent."""

    case: Case
    stored: Stored | None
    policy: Policy
    due: Due
    world: World
    record: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Performer:
    """Performs steps as `owner` while `may_act` says that this replica is the executor.

    `remember` puts what a case adds to its machine's history where it outlives the case.
    """

    ports: Ports
    owner: str
    may_act: Callable[[], bool]
    remember: Callable[[Case], Awaitable[None]]
    turns: Turns = field(default_factory=Turns)

    async def perform(self, order: Order) -> Performed:
        """Perform the step once; errors of the other side become an outcome, never an exception."""
        if not self.may_act():
            return Performed(case=order.case, stored=order.stored, outcome=Reason.NOT_LEADER)
        if order.due.spec.phase is Phase.CONTAIN:
            return await self._contain(order)
        if order.stored is None:
            return Performed(case=order.case, stored=None, outcome=Reason.NOT_STORED)
        return await self._intend(order, order.stored)

    async def _contain(self, order: Order) -> Performed:
        """Mark the node; after a conflict the fresh node is decided about anew, for a person may have been faster."""
        case, world = order.case, order.world
        opened, attempt = life.begin(case, order.due, world)
        for turn in range(CONFLICT_TRIES):
            outcome = await self._run(opened, order, attempt, world)
            if outcome.reason != Reason.CONFLICT or turn == CONFLICT_TRIES - 1:
                break
            fresh = await self._fresh(world)
            if fresh is None or not self.may_act():
                break
            world = fresh
            if not _same(decide(case, order.policy, world), order.due):
                return Performed(case=case, stored=order.stored, outcome=Reason.WORLD_CHANGED)
        if outcome.state not in {AttemptState.SUCCEEDED, AttemptState.FAILED}:
            return Performed(case=case, stored=order.stored, outcome=outcome.reason, detail=outcome.detail)
        ended = _ended(attempt, outcome, self.ports.clock)
        return Performed(case=life.update(opened, ended), stored=order.stored, outcome=outcome.reason)

    async def _fresh(self, world: World) -> World | None:
        if world.node is None:
            return None
        try:
            node = await self.ports.cluster.node(world.node.name)
        except ObserveError:
            return None
        same = node is not None and node.uid == world.node.uid
        return replace(world, node=node) if same else None

    async def _intend(self, order: Order, stored: Stored) -> Performed:
        fresh = await self._fresh(order.world)
        if fresh is None or fresh.node is None:
            return Performed(case=order.case, stored=stored, outcome=Reason.NODE_CHANGED)
        again = decide(order.case, order.policy, fresh)
        if not _same(again, order.due) or not life.contained(order.case, fresh.node):
            return Performed(case=order.case, stored=stored, outcome=Reason.WORLD_CHANGED)
        opened, attempt = life.begin(order.case, order.due, fresh)
        try:
            if order.due.spec.phase in {Phase.EMPTY, Phase.CURE}:
                await self.ports.cluster.lock(fresh.node, order.due.deadline + LOCK_MARGIN)
            if opened != stored.case:
                stored = await self.ports.remediations.save(Stored(case=opened, version=stored.version), order.record)
            if order.due.spec.phase is Phase.CURE:
                await self.remember(opened)
            fresh = replace(fresh, node=await self._paused(order.due, fresh.node))
        except ActionError as problem:
            kept = opened if stored.case == opened else order.case
            return Performed(case=kept, stored=stored, outcome=problem.reason, detail=str(problem))
        if order.due.spec.phase is Phase.CURE and not await self._still(order, fresh):
            return Performed(case=opened, stored=stored, outcome=Reason.WORLD_CHANGED)
        if not self.may_act():
            return Performed(case=opened, stored=stored, outcome=Reason.NOT_LEADER)
        outcome = await self._run(opened, order, attempt, fresh)
        done = life.update(opened, _ended(attempt, outcome, self.ports.clock))
        if done != opened:
            try:
                stored = await self.ports.remediations.save(Stored(case=done, version=stored.version), None)
            except ActionError as problem:
                return Performed(case=opened, stored=stored, outcome=problem.reason, detail=str(problem))
        return Performed(case=done, stored=stored, outcome=outcome.reason, detail=outcome.detail)

    async def _paused(self, due: Due, node: Node) -> Node:
        """Return the node with the operands paused that must stand still while the step is in progress.

        They go on when no cure of the case is open any more, or with all other marks (see shell.round.conclude).
        """
        marks = pause(node, node.record, due.spec.pauses) if node.record is not None else None
        if marks is None:
            return node
        if not self.may_act():
            raise Transient(Reason.NOT_LEADER, "another replica is the leader now")
        return await self.ports.cluster.mark(node, marks)

    async def _still(self, order: Order, world: World) -> bool:
        """Return whether the cure is due on what node, pods and controls are by now: storing its intent took a while.

        When it is not, its intent stands without an effect, which the provider will say at the next look.
        """
        again = await self._fresh(world)
        if again is None or again.node is None:
            return False
        try:
            pods = await self.ports.cluster.pods_on(again.node.name) if Need.PODS in world.seen else world.pods
            controls = await self.ports.controls.controls()
        except ObserveError:
            return False
        controls = replace(controls, gangs_in_flight=world.controls.gangs_in_flight)
        decided = decide(order.case, order.policy, replace(again, pods=pods, controls=controls))
        return _same(decided, order.due) and life.contained(order.case, again.node)

    async def _run(self, case: Case, order: Order, attempt: Attempt, world: World) -> Outcome:
        """Run the effect under its deadline; a transient failure leaves the attempt open, a permanent one ends it."""
        assert world.node is not None
        context = Context(
            case=case,
            policy=order.policy,
            due=order.due,
            attempt=attempt,
            node=world.node,
            world=world,
            cluster=self.ports.cluster,
            machines=self.ports.machines,
            turns=self.turns,
            owner=self.owner,
            now=self.ports.clock.now(),
            may_act=self.may_act,
        )
        try:
            async with asyncio.timeout(order.due.deadline.total_seconds()):
                return await REGISTRY[order.due.action].run(context)
        except Transient as problem:
            return Outcome(state=attempt.state, reason=problem.reason, detail=str(problem))
        except (TimeoutError, ObserveError) as problem:
            return Outcome(state=attempt.state, reason=Reason.TIMEOUT, detail=str(problem))
        except Permanent as problem:
            return Outcome(state=AttemptState.FAILED, reason=problem.reason, detail=str(problem))


def _same(verdict: object, due: Due) -> bool:
    return isinstance(verdict, Act) and verdict.due.key == due.key


def _ended(attempt: Attempt, outcome: Outcome, clock: Clock) -> Attempt:
    over = outcome.state in {AttemptState.SUCCEEDED, AttemptState.FAILED}
    if outcome.state is attempt.state and outcome.state is AttemptState.INTENT:
        return attempt
    return replace(
        attempt,
        state=outcome.state,
        ended_at=clock.now() if over else None,
        reason=outcome.reason,
        detail=outcome.detail,
    )
