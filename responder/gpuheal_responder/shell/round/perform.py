"""Performing one step: intent, effect, outcome. The only place that changes anything outside.

A reversible mark needs one write, for its undo record is its intent. Every other step writes its intent into the
Remediation first, by compare-and-swap, and its outcome afterwards; whoever dies in between leaves an open attempt that
the next look resolves against the world.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from gpuheal_responder.actions import REGISTRY
from gpuheal_responder.actions.action import Context, Outcome
from gpuheal_responder.core import life
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.decide import decide
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.step import Phase, Step
from gpuheal_responder.core.undo import intact
from gpuheal_responder.core.verdict import Act
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import ActionError, ObserveError, Permanent, Transient
from gpuheal_responder.ports import Clock, Stored
from gpuheal_responder.shell.round.observe import Ports

CONFLICT_TRIES = 3
LOCK_MARGIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """The case after a step, its stored version if it has one, and what happened (a slug)."""

    case: Case
    stored: Stored | None
    outcome: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performer:
    """Performs steps as `owner` while `may_act` says that this replica is the executor."""

    ports: Ports
    owner: str
    may_act: Callable[[], bool]

    async def perform(
        self, case: Case, stored: Stored | None, policy: Policy, step: Step, world: World, record: Mapping[str, object]
    ) -> Performed:
        """Perform the step once; errors of the other side become an outcome, never an exception.

        `record` is the decision that led here; it is stored with the intent.
        """
        if not self.may_act():
            return Performed(case=case, stored=stored, outcome="not-leader")
        if step.spec.phase is Phase.CONTAIN:
            return await self._contain(case, stored, policy, step, world)
        if stored is None:
            return Performed(case=case, stored=None, outcome="not-stored")
        return await self._intend(case, stored, policy, step, world, record)

    async def _contain(self, case: Case, stored: Stored | None, policy: Policy, step: Step, world: World) -> Performed:
        opened, attempt = life.begin(case, step, world)
        for turn in range(CONFLICT_TRIES):
            outcome = await self._run(opened, policy, step, attempt, world)
            if outcome.reason != "conflict" or turn == CONFLICT_TRIES - 1:
                break
            fresh = await self._fresh(world)
            if fresh is None:
                break
            world = fresh
        if outcome.state is not AttemptState.SUCCEEDED:
            return Performed(case=case, stored=stored, outcome=outcome.reason, detail=outcome.detail)
        ended = _ended(attempt, outcome, self.ports.clock)
        return Performed(case=life.update(opened, ended), stored=stored, outcome=outcome.reason)

    async def _fresh(self, world: World) -> World | None:
        if world.node is None:
            return None
        try:
            node = await self.ports.cluster.node(world.node.name)
        except ObserveError:
            return None
        same = node is not None and node.uid == world.node.uid
        return replace(world, node=node) if same else None

    async def _intend(
        self, case: Case, stored: Stored, policy: Policy, step: Step, world: World, record: Mapping[str, object]
    ) -> Performed:
        fresh = await self._fresh(world)
        if fresh is None:
            return Performed(case=case, stored=stored, outcome="node-changed")
        again = decide(case, policy, fresh)
        if not isinstance(again, Act) or again.step.key != step.key or fresh.node is None or not intact(fresh.node):
            return Performed(case=case, stored=stored, outcome="world-changed")
        opened, attempt = life.begin(case, step, fresh)
        try:
            if step.spec.disruptive and step.spec.phase is not Phase.RETURN:
                await self.ports.cluster.lock(fresh.node, step.deadline + LOCK_MARGIN)
            if opened != stored.case:
                stored = await self.ports.remediations.save(Stored(case=opened, version=stored.version), record)
        except ActionError as problem:
            return Performed(case=case, stored=stored, outcome=problem.reason, detail=str(problem))
        if not self.may_act():
            return Performed(case=opened, stored=stored, outcome="not-leader")
        outcome = await self._run(opened, policy, step, attempt, fresh)
        ended = _ended(attempt, outcome, self.ports.clock)
        done = life.update(opened, ended)
        if done == opened:
            return Performed(case=done, stored=stored, outcome=outcome.reason, detail=outcome.detail)
        try:
            stored = await self.ports.remediations.save(Stored(case=done, version=stored.version), None)
        except ActionError as problem:
            return Performed(case=opened, stored=stored, outcome=problem.reason, detail=str(problem))
        return Performed(case=done, stored=stored, outcome=outcome.reason, detail=outcome.detail)

    async def _run(self, case: Case, policy: Policy, step: Step, attempt: Attempt, world: World) -> Outcome:
        """Run the effect under its deadline; a transient failure leaves the attempt open, a permanent one ends it."""
        assert world.node is not None
        context = Context(
            case=case,
            policy=policy,
            step=step,
            attempt=attempt,
            node=world.node,
            world=world,
            cluster=self.ports.cluster,
            machines=self.ports.machines,
            owner=self.owner,
            now=self.ports.clock.now(),
        )
        try:
            async with asyncio.timeout(step.deadline.total_seconds()):
                return await REGISTRY[step.action].run(context)
        except Transient as problem:
            return Outcome(state=attempt.state, reason=problem.reason, detail=str(problem))
        except (TimeoutError, ObserveError) as problem:
            return Outcome(state=attempt.state, reason="timeout", detail=str(problem))
        except Permanent as problem:
            return Outcome(state=AttemptState.FAILED, reason=problem.reason, detail=str(problem))


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
