"""Which step of a case comes next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.step import Phase, Progress, ProgressState, Step
from gpuheal_responder.core.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """The step that is due, and how far it is."""

    step: Step
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """No step is due until the fault goes away by other hands."""

    reason: str
    message: str
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The ladder is used up; people must look."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Every step is done."""


Stage = Next | Idle | Spent | Finished


def plan(case: Case, policy: Policy, world: World) -> Stage:
    """Return what is due: the first step, in policy order, that the world does not show as done.

    A cure counts as failed when it failed itself or when the proof after it did; then the next cure is due. When the
    fault is provably gone before any cure, the cures are passed over.
    """
    for step in policy.of(Phase.CONTAIN):
        progress = step.spec.progress(step, case, world)
        if progress.state is not ProgressState.DONE:
            return Next(step=step, progress=progress)
    cures = policy.of(Phase.CURE)
    tried = any(a.cure for a in case.attempts)
    if not tried and _gone_by_itself(case, policy, world):
        return _prove(case, policy, world, since=None)
    failure = Spent(reason="ladder-exhausted", message="no cure is left in the policy")
    for step in cures:
        progress = step.spec.progress(step, case, world)
        if progress.state is ProgressState.FAILED:
            failure = Spent(reason=progress.reason, message=progress.detail)
            continue
        if progress.state is ProgressState.TODO:
            return _empty(case, policy, world) or Next(step=step, progress=progress)
        if progress.state is not ProgressState.DONE:
            return Next(step=step, progress=progress)
        stage = _prove(case, policy, world, since=_ended(case, step))
        if not isinstance(stage, Spent):
            return stage
        failure = stage
    if cures:
        return failure
    idle = Idle(
        reason="awaiting-repair", message="contained; the policy leaves the cure to people", step=policy.steps[-1]
    )
    return _empty(case, policy, world) or idle


def _empty(case: Case, policy: Policy, world: World) -> Stage | None:
    """Return the emptying step that is due before a cure may begin, or None when the node is empty."""
    for step in policy.of(Phase.EMPTY):
        progress = step.spec.progress(step, case, world)
        if progress.state is ProgressState.FAILED:
            return Spent(reason=progress.reason, message=progress.detail)
        if progress.state is not ProgressState.DONE:
            return Next(step=step, progress=progress)
    return None


def _ended(case: Case, step: Step) -> datetime:
    attempt = case.latest(step.key)
    return attempt.ended_at if attempt is not None and attempt.ended_at is not None else case.opened_at


def _prove(case: Case, policy: Policy, world: World, since: datetime | None) -> Stage:
    for step in policy.of(Phase.PROVE, Phase.WATCH):
        attempt = case.latest(step.key)
        if attempt is None or (since is not None and attempt.started_at < since):
            return Next(step=step, progress=Progress(state=ProgressState.TODO, reason=f"{step.action}-due"))
        progress = step.spec.progress(step, case, world)
        if progress.state is ProgressState.FAILED:
            return Spent(reason=progress.reason, message=progress.detail)
        if progress.state is not ProgressState.DONE:
            return Next(step=step, progress=progress)
    for step in policy.of(Phase.RETURN):
        progress = step.spec.progress(step, case, world)
        if progress.state is not ProgressState.DONE:
            return Next(step=step, progress=progress)
    if not policy.of(Phase.RETURN):
        last = policy.steps[-1]
        return Idle(reason="awaiting-uncordon", message="proven; the policy leaves giving back to people", step=last)
    return Finished()


def _gone_by_itself(case: Case, policy: Policy, world: World) -> bool:
    """Return whether the fault is over without a cure of ours: no alert any more, and a positive proof of health.

    A resolved alert alone is no proof: the exporter may have died. Once proving has begun it goes on.
    """
    prove = policy.of(Phase.PROVE)
    if not prove or world.faults or world.node is None:
        return False
    attempt = case.latest(prove[0].key)
    if attempt is not None:
        return attempt.state is not AttemptState.FAILED
    if world.evidence is None or world.evidence.witnesses:
        return False
    return not ev.missing_proof(
        node=world.node, gpus=case.gpus, evidence=world.evidence, since=case.opened_at, evaluations=2
    )
