"""Would this step take too many nodes of a failure domain, or mark too many in a short while?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from gpuheal_responder.core.budget import POOL, ZONE, allowance, disrupted, disruption_limit
from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.step import Phase
from gpuheal_responder.core.verdict import Refusal

GUARD = "budget"
RETRY = timedelta(seconds=30)


def check(q: Question) -> Iterator[Refusal]:
    """Yield a refusal per exhausted budget; recovery (verify, probation, restore) is never blocked.

    Containing a node counts against the mark budget of its pool. A disruptive step counts everything unavailable in
    each domain (in flight, unknown, marked by us, unhealthy), but in a zone only what may be rebooting. A pool's last
    schedulable node is never disrupted unasked.
    """
    if q.giving_back or q.in_flight:
        return
    if q.step.spec.phase is Phase.CONTAIN:
        yield from _marks(q)
    elif q.step.spec.disruptive:
        yield from _disruptions(q)


def _marks(q: Question) -> Iterator[Refusal]:
    for count in q.world.domains:
        limit = allowance(q.policy.limits.mark_percent, count.nodes)
        if count.dimension == POOL and count.marked_recently >= limit:
            yield Refusal(
                guard=GUARD,
                reason="mark-budget",
                message=f"{count.marked_recently} nodes of pool {count.value} were marked lately, {limit} may be",
                blockers=(count.value,),
                retry_in=RETRY,
            )


def _disruptions(q: Question) -> Iterator[Refusal]:
    for count in q.world.domains:
        limit = disruption_limit(count, q.policy.limits)
        where, used = f"{count.dimension} {count.value}", disrupted(count)
        what = "may be rebooting" if count.dimension == ZONE else "are out"
        if used + 1 > limit:
            yield Refusal(
                guard=GUARD,
                reason=f"{count.dimension}-budget",
                message=f"{used} of {count.nodes} nodes of {where} {what}, {limit} at once is allowed",
                blockers=(f"{count.dimension}/{count.value}",),
                retry_in=RETRY,
            )
        approved = any(a.step == q.step.key and a.expires_at > q.world.now for a in q.case.approvals)
        if count.dimension == POOL and count.schedulable < 1 and not approved:
            yield Refusal(
                guard=GUARD,
                reason="last-of-pool",
                message=f"no other node of pool {count.value} is schedulable; a person has to approve",
                blockers=(count.value,),
            )
