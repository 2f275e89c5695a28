"""Have we done this too often, or too lately, on this machine?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from gpuheal_responder.core.duration import people_duration
from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.history import marks_of
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import Due
from gpuheal_responder.core.verdict import Refusal

GUARD = "history"


MOST_MARKS = 5
"""A node that was contained so often in a day comes and goes: it is given back by a person."""
DAY = timedelta(days=1)


def readable(q: Question) -> Iterator[Refusal]:
    """Yield a refusal while what the machine has been through cannot be read: nobody knows what was tried on it."""
    if q.world.history.unreadable:
        yield Refusal(
            guard=GUARD,
            reason=Reason.HISTORY_UNREADABLE,
            message=f"cannot read the machine's history: {q.world.history.unreadable}",
        )


def steady(q: Question) -> Iterator[Refusal]:
    """Yield a refusal to give a node back that was contained, and given back, too often in a day."""
    now = q.world.now
    marks = [m for m in marks_of(q.world.history, q.case) if now - m < DAY]
    if len(marks) >= MOST_MARKS:
        yield Refusal(
            guard=GUARD,
            reason=Reason.FLAPPING,
            message=f"contained {len(marks)} times in the last {people_duration(DAY)} (limit {MOST_MARKS}); "
            "the fault comes and goes",
        )


def attempts(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when the cure ran within the cooldown, or as often as the window allows, on the same target.

    Attempts of earlier cases of the machine count together with those of this one. Of a step that makes room for a
    cure the cure is asked about: nobody is evicted for a cure that would then be refused.
    """
    due = q.before or q.due
    latest = q.case.latest(due.step.key, due.target)
    if due.spec.phase is not Phase.CURE or (latest is not None and latest.open):
        return
    limits, now = q.policy.limits, q.world.now
    recent = [at for at in _ran(q, due) if now - at < limits.attempts_window]
    if len(recent) >= limits.attempts:
        times = "once" if len(recent) == 1 else f"{len(recent)} times"
        yield Refusal(
            guard=GUARD,
            reason=Reason.ATTEMPTS_SPENT,
            message=f"{due.action} ran {times} in the last {people_duration(limits.attempts_window)} "
            f"(limit {limits.attempts})",
        )
    elif recent and now - max(recent) < limits.cooldown:
        yield Refusal(
            guard=GUARD,
            reason=Reason.COOLDOWN,
            message=f"the last {due.action} ended less than {people_duration(limits.cooldown)} ago",
            retry_in=max(recent) + limits.cooldown - now,
        )


def _ran(q: Question, due: Due) -> list[datetime]:
    """Return when each earlier attempt at this cure on this target was last heard of, of whichever case."""
    ours = {
        a.operation: a.ended_at or a.started_at
        for a in q.case.attempts
        if (a.action, a.target) == (due.action, due.target) and not a.foreign
    }
    past = {
        p.operation: p.last_at
        for p in q.world.history.cures
        if (p.action, p.target) == (due.action, due.target) and p.operation not in ours
    }
    return [*ours.values(), *past.values()]
