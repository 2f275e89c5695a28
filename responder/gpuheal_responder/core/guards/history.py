"""Have we done this too often, or too lately, on this machine?"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.step import Phase
from gpuheal_responder.core.verdict import Refusal

GUARD = "history"


def check(q: Question) -> Iterator[Refusal]:
    """Yield refusals when the same cure ran within the cooldown, or as often as the window allows.

    Attempts of earlier cases of the same machine count together with those of this one.
    """
    if q.step.spec.phase is not Phase.CURE or q.continuing:
        return
    latest = q.case.latest(q.step.key)
    if latest is not None and latest.open:
        return
    limits, now = q.policy.limits, q.world.now
    ends = [a.ended_at for a in q.case.attempts if a.action == q.step.action and a.ended_at is not None]
    ends += [p.ended_at for p in q.world.history if p.action == q.step.action]
    recent = [end for end in ends if now - end < limits.attempts_window]
    if len(recent) >= limits.attempts:
        yield Refusal(
            guard=GUARD,
            reason="attempts-spent",
            message=f"{q.step.action} ran {len(recent)} times in {limits.attempts_window}, {limits.attempts} may be",
        )
    elif recent and now - max(recent) < limits.cooldown:
        yield Refusal(
            guard=GUARD,
            reason="cooldown",
            message=f"{q.step.action} ended less than {limits.cooldown} ago",
            retry_in=max(recent) + limits.cooldown - now,
        )
