"""The decision: a case, its policy and the world in, one verdict with its reason out. Nothing else is looked at."""

from __future__ import annotations

from datetime import timedelta

from gpuheal_responder.core import guards
from gpuheal_responder.core.case import Case, Result
from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.plan import Finished, Idle, Next, Spent, plan
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.step import ProgressState
from gpuheal_responder.core.undo import intact
from gpuheal_responder.core.verdict import Act, Done, Escalate, Hold, Verdict, Wait
from gpuheal_responder.core.world import World

LOOK_AGAIN = timedelta(seconds=30)


def decide(case: Case, policy: Policy, world: World) -> Verdict:
    """Return what to do now about a case: act, wait, hold, escalate, or be done.

    Endings are looked for first, then the step that is due, then all guards are asked about it.
    """
    over = _over(case, world)
    if over is not None:
        return over
    if case.escalated:
        return Escalate(reason=case.escalated, message="waiting for people; the node stays contained")
    stage = plan(case, policy, world)
    match stage:
        case Finished():
            return Done(result=Result.RESTORED, reason="restored")
        case Spent():
            return Escalate(reason=stage.reason, message=stage.message)
        case Idle():
            return Wait(step=stage.step, until=world.now + LOOK_AGAIN, reason=stage.reason, message=stage.message)
        case Next():
            return _next(case, policy, world, stage)


def _next(case: Case, policy: Policy, world: World, stage: Next) -> Verdict:
    step, progress = stage.step, stage.progress
    refusals = guards.check(Question(case=case, policy=policy, step=step, world=world))
    repeats = step.spec.effect and not step.spec.once
    if progress.state is ProgressState.RUNNING and not repeats:
        return Wait(step=step, until=world.now + LOOK_AGAIN, reason=progress.reason, message=progress.detail)
    spent = next((r for r in refusals if r.reason == "attempts-spent"), None)
    if spent is not None:
        return Escalate(reason=spent.reason, message=spent.message)
    if refusals:
        return Hold(step=step, refusals=refusals)
    return Act(step=step, reason=progress.reason)


def _over(case: Case, world: World) -> Done | None:
    node = world.node
    if node is None:
        return Done(result=Result.GONE, reason="node-gone", message=f"{case.node} does not exist any more")
    if case.system_uuid and node.system_uuid and node.system_uuid != case.system_uuid:
        return Done(result=Result.GONE, reason="machine-replaced", message="another machine has this name now")
    if case.node_uid and node.uid != case.node_uid:
        return Done(result=Result.GONE, reason="node-recreated", message="the Node object was made anew")
    contained = any(a.action in {"taint", "cordon"} and not a.open for a in case.attempts)
    if node.undo is not None and node.undo.case == case.name and not intact(node):
        return Done(result=Result.TAKEN_OVER, reason="taken-over", message="a person lifted our taint or cordon")
    if contained and node.undo is None:
        if any(a.action == "restore" for a in case.attempts):
            return Done(result=Result.RESTORED, reason="restored")
        return Done(result=Result.REVERTED, reason="reverted", message="our marks were taken off the node")
    if not contained and node.undo is None and not world.faults and world.peers_answering:
        return Done(result=Result.CLEARED, reason="cleared", message="the alert went away before anything was done")
    return None
