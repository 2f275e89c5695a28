"""Is this the node's own fault, or part of something that befell many nodes at once?"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.verdict import Refusal

GUARD = "fleet"


def alone(q: Question) -> Iterator[Refusal]:
    """Yield a refusal per incident that the node is part of: rebooting its nodes one by one would not end it."""
    for incident in q.world.incidents:
        yield Refusal(
            guard=GUARD,
            reason=Reason.FLEET_INCIDENT,
            message=f"{incident.what} on {incident.nodes} nodes of {incident.where} since "
            f"{incident.since.isoformat(timespec='seconds')}: {incident.kind} incident, not a fault of this node alone",
            blockers=(incident.where,),
        )
