"""What attempts leave behind when they end: requests that have not happened are taken back, paused operands go on.

A pause of the responder stops neither: both only finish what a step of ours had begun.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gpuheal_responder.actions import REGISTRY
from gpuheal_responder.actions.action import Inquiry
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.life import contained
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import ActionSpec, Due, Step
from gpuheal_responder.core.undo import paused_of, resume
from gpuheal_responder.core.verdict import Done, Hold
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import Permanent, Transient
from gpuheal_responder.shell.round.observe import Ports
from gpuheal_responder.shell.round.work import Work

log = logging.getLogger(__name__)


async def withdraw_all(
    ports: Ports, case: Case, policy: Policy | None, node: Node | None, may_act: Callable[[], bool]
) -> None:
    """Take back every cure of the case that is not known to have happened: none must come after the case is over."""
    for attempt in case.attempts:
        if attempt.foreign or attempt.state is AttemptState.SUCCEEDED or not may_act():
            continue
        try:
            await _withdraw(ports, case, attempt, policy, node)
        except Permanent as problem:  # nobody can take it back, and a case that never ends would not either
            log.warning("%s of case %s could not be cancelled: %s", attempt.operation, case.node, problem)


async def conclude(ports: Ports, work: Work, may_act: Callable[[], bool]) -> None:
    """Take back the cures that this look gave up, and let go on what was paused for cures that have all ended.

    Errors are raised: the case is then neither stored nor moved on, and the next look does all this again.
    """
    if work.stored is not None and work.stored.unread:
        return
    await _withdraw_given_up(ports, work, may_act)
    await _resume(ports, work, may_act)


async def _resume(ports: Ports, work: Work, may_act: Callable[[], bool]) -> None:
    """Let operands go on at once, whatever became of the cure: proving the node well may need them."""
    node = work.world.node
    if node is None or node.record is None or not contained(work.case, node) or not paused_of(node.record):
        return
    if isinstance(work.verdict, Done) or any(_going_on(a, work) for a in work.case.attempts):
        return
    if not may_act():
        raise Transient(Reason.NOT_LEADER, "another replica is the leader now")
    fresh = await ports.cluster.node(node.name)
    if fresh is None or fresh.uid != node.uid or fresh.record is None or not contained(work.case, fresh):
        raise Transient(Reason.NODE_CHANGED, f"{node.name} changed while its operands were being resumed")
    marks = resume(fresh, fresh.record)
    if marks is not None:
        await ports.cluster.mark(fresh, marks)


def _going_on(attempt: Attempt, work: Work) -> bool:
    """Return whether a cure may be in progress: it is open, and not one that is held and that nobody ever got."""
    if not attempt.cure or not attempt.open:
        return False
    unheard = attempt.state is AttemptState.INTENT
    unheard = unheard and work.world.operations.get(attempt.operation) is OperationState.NOT_FOUND
    return not (unheard and isinstance(work.verdict, Hold))


async def _withdraw_given_up(ports: Ports, work: Work, may_act: Callable[[], bool]) -> None:
    """Take back the cures that this look gave up, before anybody hears of it.

    Neither the next cure nor the people who take over may be surprised by one that comes late.
    """
    before = {a.operation for a in work.origin.attempts if a.open}
    for attempt in work.case.attempts:
        if attempt.state is AttemptState.FAILED and attempt.operation in before:
            if not may_act():
                raise Transient(Reason.NOT_LEADER, "another replica is the leader now")
            await _withdraw(ports, work.case, attempt, work.policy, work.world.node)


async def _withdraw(ports: Ports, case: Case, attempt: Attempt, policy: Policy | None, node: Node | None) -> None:
    action = REGISTRY.get(attempt.action)
    if not attempt.cure or action is None or action.withdraw is None:
        return
    steps = {s.key: s for s in policy.steps} if policy is not None else {}
    due = Due(step=steps.get(attempt.step) or _default(attempt, action.spec), target=attempt.target)
    await action.withdraw(Inquiry(case=case, due=due, attempt=attempt, node=node, machines=ports.machines))


def _default(attempt: Attempt, spec: ActionSpec) -> Step:
    """Return the step of an attempt whose policy has it no more: as the site's defaults make it."""
    return Step(key=attempt.step, spec=spec, params=spec.params(), deadline=spec.deadline)
