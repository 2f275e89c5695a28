"""The decision: a case, its policy and the world in, one verdict with its reason out. Nothing else is looked at."""

from __future__ import annotations

from datetime import timedelta

from gpuheal_responder.core import guards
from gpuheal_responder.core.case import Attempt, AttemptState, Case, Result
from gpuheal_responder.core.guards import history
from gpuheal_responder.core.guards.permission import APPROVALS
from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.life import absent, contained, provider_lost, taken_back
from gpuheal_responder.core.node import Unreadable
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.plan import Closer, Finished, Idle, Next, Refused, Spent, plan
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import Due, ProgressState, Repeat
from gpuheal_responder.core.undo import cordon_lost
from gpuheal_responder.core.verdict import Act, Done, Escalate, Hold, Inspect, Refusal, Verdict, Wait
from gpuheal_responder.core.world import World

LOOK_AGAIN = timedelta(seconds=30)
QUIET = timedelta(seconds=10)
"""A fault must be seen to be gone by two looks that are at least so far apart."""


def decide(case: Case, policy: Policy | None, world: World) -> Verdict:
    """Return what to do now about a case: act, look closer, wait, hold, escalate, or be done.

    Endings are looked for first, then the step that is due, then all guards are asked about it. Without a policy (it
    was renamed or removed) nothing is done, and people are told.
    """
    over = _over(case, policy, world)
    if over is not None:
        return over
    stuck = _stuck(case, policy, world)
    if stuck is not None or policy is None:
        return stuck or _missing(case)
    if case.escalated:
        return _waiting(case, world)
    stage = plan(case, policy, world)
    match stage:
        case Finished():
            return Done(result=Result.RESTORED, reason=Reason.RESTORED)
        case Spent():
            return Escalate(reason=stage.reason, message=stage.message)
        case Idle():
            return Wait(due=stage.due, until=world.now + LOOK_AGAIN, reason=stage.reason, message=stage.message)
        case Closer():
            return Inspect(due=stage.due, needs=stage.needs)
        case Refused():
            refusal = Refusal(
                guard="step", reason=stage.reason, message=stage.message, retry_in=stage.again_at - world.now
            )
            return Hold(due=stage.due, refusals=(refusal,))
        case Next():
            return _first(case, policy, world, stage)


def _first(case: Case, policy: Policy, world: World, stage: Next) -> Verdict:
    """Return the verdict on the step that is due; when it is held, on the first other GPU's that may go on."""
    verdict = _next(case, policy, world, stage)
    if isinstance(verdict, Hold):
        others = (_next(case, policy, world, other) for other in stage.others)
        return next((v for v in others if isinstance(v, Act | Inspect)), verdict)
    return verdict


def _waiting(case: Case, world: World) -> Escalate:
    """Return what an escalated case says: why it waits, and that a cordon lifted meanwhile has not ended it."""
    if world.node is not None and contained(case, world.node) and cordon_lost(world.node):
        message = (
            "someone uncordoned the node, but gpuheal's taint is still on it; "
            f"to return the node to service, run gpuheal revert {case.name}"
        )
        return Escalate(reason=Reason.UNCORDONED, message=message)
    return Escalate(reason=case.escalated, message="needs manual intervention; the node stays contained")


def _next(case: Case, policy: Policy, world: World, stage: Next) -> Verdict:
    due, progress = stage.due, stage.progress
    question = Question(case=case, policy=policy, due=due, world=world, before=stage.before)
    refusals, needs = guards.check(question)
    repeats = due.spec.effect and due.spec.repeat is Repeat.SAFE
    if progress.state is ProgressState.RUNNING and not repeats:
        return Wait(due=due, until=world.now + LOOK_AGAIN, reason=progress.reason, message=progress.detail)
    spent = next((r for r in refusals if r.reason in {Reason.ATTEMPTS_SPENT, Reason.FLAPPING}), None)
    if spent is not None:
        return Escalate(reason=spent.reason, message=spent.message)
    if due.spec.phase is Phase.EMPTY:
        needs |= due.spec.needs - world.seen
    if needs and all(r.reason in APPROVALS for r in refusals):
        return Inspect(due=due, needs=needs)  # nobody is asked for a yes to what need not be done
    if refusals:
        about_cure = stage.before is not None and all(r.guard == history.GUARD for r in refusals)
        return Hold(due=stage.before if about_cure else due, refusals=refusals)
    return Act(due=due, reason=progress.reason)


def _stuck(case: Case, policy: Policy | None, world: World) -> Hold | None:
    """Return a hold for what no step can be named: marks that cannot be read, a step or provider that was lost."""
    node = world.node
    if node is not None and isinstance(node.undo, Unreadable):
        return _hold(Reason.UNDO_UNREADABLE, f"the undo record of {node.name} cannot be read: {node.undo.problem}")
    if policy is None:
        return None
    steps = {s.key: s for s in policy.steps}
    lost = next((a for a in case.attempts if a.open and a.step and a.step not in steps), None)
    if lost is not None:
        return _hold(Reason.STEP_MISSING, f"step {lost.key} is in progress, but policy {policy.name} no longer has it")
    for attempt in case.attempts:
        if attempt.open and attempt.step:
            found = _unasked(Due(step=steps[attempt.step], target=attempt.target), attempt, world)
            if found is not None:
                return found
    return None


def _unasked(due: Due, attempt: Attempt, world: World) -> Hold | None:
    """Return a hold when an operation is in progress whose provider cannot be asked what became of it."""
    problem = provider_lost(due, attempt, world)
    if not problem:
        return None
    return _hold(Reason.UNKNOWN_PROVIDER, f"step {attempt.key} is in progress, but {problem}")


def _missing(case: Case) -> Hold:
    return _hold(Reason.POLICY_MISSING, f"policy {case.policy} no longer exists; no action is taken")


def _hold(reason: Reason, message: str) -> Hold:
    return Hold(due=None, refusals=(Refusal(guard="case", reason=reason, message=message),))


def _over(case: Case, policy: Policy | None, world: World) -> Verdict | None:
    if absent(case, world):
        return _absent(case, policy, world)
    node = world.node
    assert node is not None
    if isinstance(node.undo, Unreadable):
        return None
    if taken_back(case, node):
        return Done(
            result=Result.TAKEN_OVER, reason=Reason.TAKEN_OVER, message="someone removed gpuheal's taint or the cordon"
        )
    marked = any(a.phase is Phase.CONTAIN and a.state is AttemptState.SUCCEEDED for a in case.attempts)
    if marked and node.undo is None:
        if _giving_back(case):
            return Done(result=Result.RESTORED, reason=Reason.RESTORED)
        return Done(
            result=Result.REVERTED, reason=Reason.REVERTED, message="gpuheal's changes to the node were reverted"
        )
    quiet = case.quiet_since is not None and world.now - case.quiet_since >= QUIET
    if not marked and not contained(case, node) and quiet:
        return Done(
            result=Result.CLEARED, reason=Reason.CLEARED, message="the fault cleared before any action was taken"
        )
    return None


def _giving_back(case: Case) -> bool:
    """Return whether marks that are gone may have been taken off by our own restore, whose answer we never got.

    One that was refused, or that anything of ours came after, is not what took them off: a person did.
    """
    ours = [a for a in case.attempts if not a.foreign]
    if not ours or case.escalated:
        return False
    return ours[-1].phase is Phase.RETURN and ours[-1].state is not AttemptState.FAILED


def _absent(case: Case, policy: Policy | None, world: World) -> Verdict:
    """Return what becomes of a case whose machine is not there: gone, unless an operation of ours survives the node."""
    survivor = _survivor(case, policy)
    if survivor is not None:
        due, attempt = survivor
        unasked = _unasked(due, attempt, world) if attempt.open else None
        if unasked is not None:
            return unasked
        if attempt.open and due.spec.needs - world.seen:
            return Inspect(due=due, needs=due.spec.needs - world.seen)
        progress = due.spec.progress(due, case, world)
        if attempt.open and progress.state is ProgressState.RUNNING:
            return Wait(due=due, until=world.now + LOOK_AGAIN, reason=progress.reason, message=progress.detail)
        if progress.state is ProgressState.FAILED and world.node is None:
            return Escalate(reason=progress.reason, message=progress.detail)
    node = world.node
    if node is None:
        return Done(result=Result.GONE, reason=Reason.NODE_GONE, message=f"node {case.node} no longer exists")
    if case.system_uuid and node.system_uuid and node.system_uuid != case.system_uuid:
        return Done(
            result=Result.GONE, reason=Reason.MACHINE_REPLACED, message="a different machine now has this node name"
        )
    return Done(result=Result.GONE, reason=Reason.NODE_RECREATED, message="the Node object was deleted and recreated")


def _survivor(case: Case, policy: Policy | None) -> tuple[Due, Attempt] | None:
    """Return the newest cure of ours if it is one that goes on without the node."""
    steps = {s.key: s for s in policy.steps} if policy is not None else {}
    cures = [a for a in case.attempts if a.cure and not a.foreign]
    if not cures or cures[-1].step not in steps:
        return None
    step = steps[cures[-1].step]
    return (Due(step=step, target=cures[-1].target), cures[-1]) if step.spec.survives_node else None
