"""Would this step take too many nodes of a failure domain, or mark too many in a short while?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.budget import MARK_WINDOW, POOL, RACK, ZONE, allowance, disrupted, disruption_limit
from gpuheal_responder.core.duration import people_duration
from gpuheal_responder.core.guards.permission import approval_command, has_approval
from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.verdict import Refusal

GUARD = "budget"
RETRY = timedelta(seconds=30)
REASONS = {POOL: Reason.POOL_BUDGET, RACK: Reason.RACK_BUDGET, ZONE: Reason.ZONE_BUDGET}


def marks(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when as many nodes of the pool have been marked lately as the mark budget allows."""
    for count in q.world.domains:
        limit = allowance(q.policy.limits.mark_percent, count.nodes)
        if count.dimension == POOL and count.marked_recently >= limit:
            nodes = "1 node" if count.marked_recently == 1 else f"{count.marked_recently} nodes"
            yield Refusal(
                guard=GUARD,
                reason=Reason.MARK_BUDGET,
                message=f"{nodes} in pool {count.value} tainted in the last "
                f"{people_duration(MARK_WINDOW)} (limit {limit})",
                blockers=(count.value,),
                retry_in=RETRY,
            )


def domains(q: Question) -> Iterator[Refusal]:
    """Yield a refusal per exhausted domain; what counts is all that is out, in a zone only what may be rebooting."""
    for count in q.world.domains:
        limit = disruption_limit(count, q.policy.limits)
        used = disrupted(count)
        verb = "is" if used == 1 else "are"
        what = "may be rebooting" if count.dimension == ZONE else f"{verb} out of service"
        if used + 1 > limit:
            yield Refusal(
                guard=GUARD,
                reason=REASONS.get(count.dimension, Reason.FABRIC_BUDGET),
                message=f"{used} of {count.nodes} nodes in {count.dimension} {count.value} {what} (limit {limit})",
                blockers=(f"{count.dimension}/{count.value}",),
                retry_in=RETRY,
            )


def last_of_pool(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when no other node of the pool can take work, unless a person approved on this evidence."""
    for count in q.world.domains:
        if count.dimension == POOL and count.schedulable < 1 and not has_approval(q):
            wanted = ev.digest(q.case, q.due.key, q.due.params, q.world)
            yield Refusal(
                guard=GUARD,
                reason=Reason.LAST_OF_POOL,
                message=f"no other node in pool {count.value} is schedulable; approve with: {approval_command(q)}",
                blockers=(count.value, wanted),
            )
