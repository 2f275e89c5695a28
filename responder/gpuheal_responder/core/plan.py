"""Which step of a case comes next, and on which target.

Every faulty GPU has a track of its own: it climbs the policy's cures one by one, as they or their proofs fail. Tracks
are joined at the widest scope: when one has climbed to a cure of the node, that serves all. Containing, proving and
giving back are the node's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.life import MOST_REPEATS, contained, proof_since
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import WHOLE_NODE, Due, Empties, Progress, ProgressState, Scope, Step
from gpuheal_responder.core.world import Need, World

MOST_FAILURES = 3
"""After so many failures in a row of a step that marks a node or gives it back, people are told."""
RETRY, LAST_RETRY = timedelta(seconds=30), timedelta(minutes=10)
"""Pause after the first failure; it doubles with every further one, up to the last. Both kinds of step can be undone,
and a node that is not contained, or not given back, is worth trying for as long as it takes.
"""
MOST_DRAINS = 8
"""So often a node that fills again is emptied in one case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """The step that is due, and how far it is; `before` is the cure that it makes room for.

    `others` are due on other GPUs: they need not wait when this one is refused.
    """

    due: Due
    progress: Progress
    before: Due | None = None
    others: tuple[Next, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Closer:
    """The step's progress cannot be judged before these have been read."""

    due: Due
    needs: frozenset[Need]


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """No step is due until time passes, or until the fault goes away by other hands."""

    reason: str
    message: str
    due: Due


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The step was refused again and again; it is tried again at `again_at`, and people are told meanwhile."""

    reason: str
    message: str
    due: Due
    again_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The ladder is used up; people have to take a look. `blamed` names the GPUs of a failed proof."""

    reason: str
    message: str
    blamed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Every step is done."""


Stage = Next | Closer | Idle | Refused | Spent | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cured:
    """The track waits for its proof, counted from `since`."""

    since: datetime


def plan(case: Case, policy: Policy, world: World) -> Stage:
    """Return what is due: the first step, in policy order, that the world does not show as done.

    A cure counts as failed when it failed itself or when the proof after it did; then the next cure is due. When the
    fault is provably gone before any cure of ours, the cures are passed over.
    """
    back = next((s for s in policy.of(Phase.RETURN) if (a := case.latest(s.key)) is not None and a.open), None)
    if back is not None:
        stage = _prove(case, policy, world, since=None)
        if not isinstance(stage, Spent):
            return stage
    if contained(case, world.node) and _gone_by_itself(case, policy, world):
        stage = _prove(case, policy, world, since=_proof_before(case, policy))
        if not isinstance(stage, Spent):
            return stage
    for step in policy.of(Phase.CONTAIN):
        due = Due(step=step)
        progress = step.spec.progress(due, case, world)
        if progress.state is not ProgressState.DONE and not _contested(case, due):
            return _bounded(case, due, progress, world)
    return _cure(case, policy, world)


def _cure(case: Case, policy: Policy, world: World) -> Stage:
    rungs = [_rung(case, policy, world, target, refuted=None) for target in tracks(case)]
    if all(isinstance(rung, _Cured) for rung in rungs):
        stage = _prove(case, policy, world, since=max(r.since for r in rungs if isinstance(r, _Cured)))
        if not isinstance(stage, Spent):
            return stage
        rungs = [_rung(case, policy, world, target, refuted=stage) for target in tracks(case)]
        if all(isinstance(rung, _Cured) for rung in rungs):
            return stage  # the proof fails for something that no cure of this case is for
    spent = next((r for r in rungs if isinstance(r, Spent)), None)
    closer = next((r for r in rungs if isinstance(r, Closer)), None)
    if closer is not None:
        return closer
    if not policy.of(Phase.CURE):
        last = Due(step=policy.steps[-1])
        idle = Idle(
            reason=Reason.AWAITING_REPAIR,
            message="contained; the policy has no recovery step, so repair is manual",
            due=last,
        )
        return _empty(case, policy, world, None) or idle
    dues = [r for r in rungs if isinstance(r, Next)]
    running = [n for n in dues if n.progress.state is ProgressState.RUNNING]
    if spent is not None:
        return running[0] if running else spent
    chosen = _joined(dues, policy)
    if chosen is None:
        return Spent(reason=Reason.LADDER_EXHAUSTED, message="the policy has no recovery step left")
    if chosen.progress.state is not ProgressState.TODO:
        return chosen
    stage = _empty(case, policy, world, chosen.due) or chosen
    if not isinstance(stage, Next) or chosen.due.spec.scope is not Scope.GPU:
        return stage
    todo = [n for n in dues if n is not chosen and n.progress.state is ProgressState.TODO]
    others = [_empty(case, policy, world, n.due) or n for n in todo]
    return replace(stage, others=tuple(n for n in others if isinstance(n, Next)))


def tracks(case: Case) -> tuple[str, ...]:
    """Return the targets that have a ladder of their own: every faulty GPU, and the node if a fault is the node's."""
    return tuple(dict.fromkeys(f.target.gpu_uuid or WHOLE_NODE for f in case.faults)) or (WHOLE_NODE,)


def _joined(dues: Sequence[Next], policy: Policy) -> Next | None:
    """Return the one to do now: the highest of the widest scope; of equal ones, what can begin before what goes on."""
    order = {step.key: index for index, step in enumerate(policy.steps)}

    def place(found: Next) -> tuple[int, int, bool]:
        scope = found.due.spec.scope
        climbed = order[found.due.step.key] if scope is not Scope.GPU else 0
        return scope.rank, climbed, found.progress.state is ProgressState.TODO

    return max(dues, key=place, default=None)


def _rung(
    case: Case, policy: Policy, world: World, target: str, refuted: Spent | None
) -> Next | Closer | Spent | _Cured:
    """Return where one track stands; `refuted` is a proof that fails at this moment, though no attempt says so yet."""
    cures = policy.of(Phase.CURE)
    foreign = _foreign_end(case)
    failure = Spent(reason=Reason.LADDER_EXHAUSTED, message="the policy has no recovery step left")
    proven: datetime | None = foreign
    for step in cures[_served(case, cures, target) :]:
        due = Due(step=step, target=target if step.spec.scope is Scope.GPU else WHOLE_NODE)
        attempt = case.latest(step.key, due.target)
        if step.spec.scope is Scope.GPU and not target:
            continue
        if attempt is not None and attempt.open and step.spec.needs - world.seen:
            return Closer(due=due, needs=step.spec.needs - world.seen)
        progress = step.spec.progress(due, case, world)
        if progress.state is ProgressState.FAILED:
            failure = Spent(reason=progress.reason, message=progress.detail)
        elif progress.state is ProgressState.DONE:
            ended = _ended(case, due)
            proven = max(ended, proven) if proven is not None else ended
            failed = _failed_proof(case, policy, proven, target, refuted)
            if failed is None:
                return _Cured(since=proven)
            if not _climbs(failed):
                return failed
            failure, proven = failed, None
        else:
            if progress.state is ProgressState.TODO and proven is not None and attempt is None:
                failed = _failed_proof(case, policy, proven, target, refuted)
                if failed is None:
                    return _Cured(since=proven)
            return Next(due=due, progress=progress)
    if proven is not None and (failed := _failed_proof(case, policy, proven, target, refuted)) is None:
        return _Cured(since=proven)
    return failure


def _served(case: Case, cures: Sequence[Step], target: str) -> int:
    """Return the first rung of a track: a wider cure begun when its fault was there already has served it too."""
    since = min((f.since for f in case.faults if (f.target.gpu_uuid or WHOLE_NODE) == target), default=case.opened_at)
    first = 0
    for index, step in enumerate(cures):
        attempt = case.latest(step.key) if step.spec.scope is not Scope.GPU else None
        if attempt is not None and attempt.started_at >= since:
            first = index
    return first


def _failed_proof(case: Case, policy: Policy, since: datetime, target: str, refuted: Spent | None) -> Spent | None:
    keys = {s.key for s in policy.of(Phase.PROVE, Phase.WATCH)}
    known = set(tracks(case))
    for attempt in reversed(case.attempts):  # the newest counts: what one saw may be gone by the next
        failed = attempt.step in keys and attempt.state is AttemptState.FAILED and attempt.started_at >= since
        if failed and _about(attempt.blamed, target, known):
            return Spent(reason=attempt.reason, message=attempt.detail, blamed=attempt.blamed)
    return refuted if refuted is not None and _about(refuted.blamed, target, known) else None


def _climbs(failed: Spent) -> bool:
    """Return whether a failed proof asks for the next cure: silence says nothing of the node, and weak signs little."""
    return failed.reason not in {Reason.HEALTH_UNKNOWN, Reason.HEALTH_DOUBTFUL}


def _about(blamed: Sequence[str], target: str, known: set[str]) -> bool:
    """Return whether a failed proof is about this track: it blames the track's GPU, or the node.

    A GPU that has no track is the node's affair where the node has a fault, and else no reason for any cure.
    """
    return target in blamed or not blamed or (target == WHOLE_NODE and not known & set(blamed))


def _foreign_end(case: Case) -> datetime | None:
    return max((a.ended_at for a in case.attempts if a.foreign and a.ended_at is not None), default=None)


def _empty(case: Case, policy: Policy, world: World, cure: Due | None) -> Stage | None:
    """Return the emptying step that is due before the cure may begin, or None when its target is empty."""
    if cure is not None and cure.spec.empties is Empties.NONE:
        return None
    target = cure.target if cure is not None and cure.spec.empties is Empties.GPU else WHOLE_NODE
    for step in policy.of(Phase.EMPTY):
        due = Due(step=step, target=target)
        progress = step.spec.progress(due, case, world)
        if progress.state is ProgressState.FAILED:
            return Spent(reason=progress.reason, message=progress.detail)
        if progress.state is not ProgressState.DONE:
            done = [a for a in _tries(case, due) if not a.open]
            if progress.state is ProgressState.TODO and len(done) >= MOST_DRAINS:
                return Spent(reason=Reason.KEEPS_FILLING, message=f"drained {len(done)} times; {progress.detail}")
            return Next(due=due, progress=progress, before=cure)
    return None


def _ended(case: Case, due: Due) -> datetime:
    attempt = case.latest(due.step.key, due.target)
    return attempt.ended_at if attempt is not None and attempt.ended_at is not None else case.opened_at


def _tries(case: Case, due: Due) -> list[Attempt]:
    return [a for a in case.attempts if a.key == due.key]


def _contested(case: Case, due: Due) -> bool:
    """Return whether somebody else keeps taking away what this step publishes: it is not put back for ever."""
    return sum(1 for a in _tries(case, due) if a.state is AttemptState.SUCCEEDED) >= MOST_REPEATS


def _bounded(case: Case, due: Due, progress: Progress, world: World) -> Stage:
    """Return the step as due, unless it failed lately or too often in a row."""
    failed = list(_failed_in_a_row(case, due))
    if not failed or progress.state is ProgressState.RUNNING:
        return Next(due=due, progress=progress)
    last = failed[0]
    again_at = (last.ended_at or last.started_at) + min(LAST_RETRY, RETRY * 2 ** min(len(failed) - 1, 16))
    if world.now >= again_at:
        return Next(due=due, progress=progress)
    if len(failed) >= MOST_FAILURES:
        message = f"{due.key} failed {len(failed)} times in a row: {last.detail}"
        return Refused(reason=last.reason, message=message, due=due, again_at=again_at)
    return Idle(reason=Reason.RETRYING, message=f"{last.reason}: {last.detail}", due=due)


def _failed_in_a_row(case: Case, due: Due) -> Iterator[Attempt]:
    for attempt in reversed(_tries(case, due)):
        if attempt.state is not AttemptState.FAILED:
            return
        yield attempt


def _prove(case: Case, policy: Policy, world: World, since: datetime | None) -> Stage:
    """Return what is due to prove and give back; a fault seen since the last cure refutes an older proof."""
    first = policy.of(Phase.PROVE, Phase.WATCH)
    for step in first:
        due = Due(step=step)
        attempt = case.latest(step.key)
        if attempt is None or (since is not None and attempt.started_at < since):
            return Next(due=due, progress=Progress(state=ProgressState.TODO, reason=f"{step.action}-due"))
        progress = step.spec.progress(due, case, world)
        if progress.state is ProgressState.FAILED:
            return Spent(reason=progress.reason, message=progress.detail, blamed=progress.blamed)
        if progress.state is not ProgressState.DONE:
            return Next(due=due, progress=progress)
    again = ev.relapses(case, world, proof_since(case, first[0].key)) if first else ()
    if again:
        return Spent(reason=ev.again_for(again), message=ev.said(again), blamed=ev.gpus_of(again))
    for step in policy.of(Phase.RETURN):
        due = Due(step=step)
        progress = step.spec.progress(due, case, world)
        if progress.state is not ProgressState.DONE:
            return _bounded(case, due, progress, world)
    if not policy.of(Phase.RETURN):
        last = Due(step=policy.steps[-1])
        return Idle(
            reason=Reason.AWAITING_UNCORDON,
            message="verified healthy; the policy has no restore step, so uncordoning is manual",
            due=last,
        )
    return Finished()


def _gone_by_itself(case: Case, policy: Policy, world: World) -> bool:
    """Return whether the fault is over without a cure of ours: no alert any more, and a positive proof of health.

    A resolved alert alone is no proof: the exporter may have died. Once proving has begun it goes on; after it failed,
    a proof of later date is needed. That may come while the next cure has to wait, which is needed no more then.
    """
    prove = policy.of(Phase.PROVE)
    since = _proof_before(case, policy)
    cured = any(
        a.cure
        and not a.foreign
        and a.state is not AttemptState.FAILED
        and (since is None or (a.ended_at or since) >= since)
        for a in case.attempts
    )
    if not prove or world.faults or world.node is None or cured:
        return False
    attempt = case.latest(prove[0].key)
    if attempt is not None and (since is None or attempt.started_at >= since):
        return True
    if world.peers_answering < 1 or any(ev.witnesses_of(f, world.evidence) for f in case.faults):
        return False
    return not ev.unproven(case, world, since=since or case.opened_at, evaluations=2)


def _proof_before(case: Case, policy: Policy) -> datetime | None:
    """Return when a proof or a cure last failed or others last rebooted the node: a proof of before is of no use."""
    keys = {s.key for s in policy.of(Phase.PROVE, Phase.WATCH)}
    failed = (a.ended_at for a in case.attempts if (a.step in keys or a.cure) and a.state is AttemptState.FAILED)
    ends = [end for end in (*failed, _foreign_end(case)) if end is not None]
    return max(ends, default=None)
