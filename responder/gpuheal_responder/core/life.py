"""The life of a case: how looking at the world moves its attempts on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from gpuheal_responder.core.alert import Fault
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.step import Phase, ProgressState, Step
from gpuheal_responder.core.world import OperationState, World


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
