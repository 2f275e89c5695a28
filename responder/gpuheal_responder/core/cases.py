"""The life of a case: how it opens, how looking at the world moves its attempts on, and which step comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.model import Attempt, AttemptState, Case, Fault, Node, UndoRecord
from gpuheal_responder.core.policy import Phase, Policy, Progress, ProgressState, Step
from gpuheal_responder.core.world import OperationState, World


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


def open_case(
    *, name: str, node: Node, faults: Sequence[Fault], policy: Policy, gpus: Sequence[str], now: datetime
) -> Case:
    """Return a new case for the faults of a node; `gpus` are the GPUs known to sit in it."""
    return Case(
        name=name,
        node=node.name,
        opened_at=now,
        policy=policy.name,
        faults=tuple(faults),
        node_uid=node.uid,
        system_uuid=node.system_uuid,
        gpus=tuple(sorted(gpus)),
    )


def case_from_undo(node_name: str, record: UndoRecord) -> Case:
    """Return the case that a node's undo record tells of, for when its Remediation was never written."""
    return Case(
        name=record.case,
        node=node_name,
        opened_at=record.at,
        policy=record.policy,
        node_uid=record.node_uid,
        system_uuid=record.system_uuid,
        gpus=record.gpus,
    )


def begin(case: Case, step: Step, world: World) -> tuple[Case, Attempt]:
    """Return the case with an open attempt at `step`: the one whose outcome is unknown, else a new one.

    Taking up the unknown attempt keeps its operation id, so a provider that got the call recognises it.
    """
    latest = case.latest(step.key)
    if latest is not None and latest.open:
        return case, latest
    number = 1 + sum(1 for a in case.attempts if a.step == step.key)
    attempt = Attempt(
        step=step.key,
        action=step.action,
        operation=f"{case.name}-{step.key}-{number}",
        state=AttemptState.INTENT,
        started_at=world.now,
        boot_id=world.node.boot_id if world.node else "",
        cure=step.spec.phase is Phase.CURE,
    )
    return replace(case, attempts=(*case.attempts, attempt)), attempt


def update(case: Case, attempt: Attempt) -> Case:
    """Return the case with the attempt of the same operation replaced."""
    return replace(case, attempts=tuple(attempt if a.operation == attempt.operation else a for a in case.attempts))


def settle(case: Case, policy: Policy, world: World) -> Case:
    """Return the case with every open attempt moved on to what the world shows: running, succeeded or failed.

    The intent of a call that must not be repeated stays an intent until the other side says that it got the call.
    """
    for step in policy.steps:
        attempt = case.latest(step.key)
        if attempt is None and step.spec.phase is Phase.CONTAIN:
            case = _recognise(case, step, world)
        if attempt is None or not attempt.open:
            continue
        progress = step.spec.progress(step, case, world)
        match progress.state:
            case ProgressState.DONE | ProgressState.FAILED:
                done = progress.state is ProgressState.DONE
                ended = AttemptState.SUCCEEDED if done else AttemptState.FAILED
                attempt = replace(
                    attempt, state=ended, ended_at=world.now, reason=progress.reason, detail=progress.detail
                )
            case ProgressState.RUNNING:
                sure = not step.spec.once or world.operation is OperationState.ACCEPTED
                state = AttemptState.RUNNING if sure else attempt.state
                attempt = replace(attempt, state=state, reason=progress.reason, detail=progress.detail)
            case ProgressState.TODO:
                continue
        case = update(case, attempt)
    if world.faults and case.closed_at is None:
        case = replace(case, faults=_joined(case.faults, world.faults))
    if world.pods:
        case = replace(case, gangs=tuple(sorted({*case.gangs, *(p.gang for p in world.pods if p.gang)})))
    return case


def _recognise(case: Case, step: Step, world: World) -> Case:
    """Return the case with a mark of ours on the node counted as made: its answer was lost, or its maker died."""
    progress = step.spec.progress(step, case, world)
    undo = world.node.undo if world.node else None
    if progress.state is not ProgressState.DONE or undo is None or undo.case != case.name:
        return case
    case, attempt = begin(case, step, world)
    made = replace(
        attempt, state=AttemptState.SUCCEEDED, started_at=undo.at, ended_at=world.now, reason=progress.reason
    )
    return update(case, made)


def _joined(known: Sequence[Fault], seen: Sequence[Fault]) -> tuple[Fault, ...]:
    current = {(f.slug, f.target): replace(f, suppressions=()) for f in seen}
    kept = [current.pop((f.slug, f.target), f) for f in known]
    return (*kept, *current.values())


def last_cure_end(case: Case) -> datetime | None:
    """Return when the last cure ended, however it ended, or None before the first."""
    return max((a.ended_at for a in case.attempts if a.cure and a.ended_at), default=None)


def proof_since(case: Case, step: str) -> datetime:
    """Return the moment after which only evidence counts as proof: the last cure's end, else when proving began."""
    cured = last_cure_end(case)
    if cured is not None:
        return cured
    attempt = case.latest(step)
    return attempt.started_at if attempt is not None else case.opened_at


def started(case: Case) -> bool:
    """Return whether a disruptive step has begun: from then on the case is in flight."""
    return any(a.action == "drain" or a.cure for a in case.attempts)


def disrupting(case: Case) -> bool:
    """Return whether the case's node is between drain and proof, or whether it was rebooted is not known.

    An escalated case does nothing more: its node is out, but it does not reboot unless a cure was left open.
    """
    return started(case) and (not case.escalated or any(a.cure and a.open for a in case.attempts))


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
