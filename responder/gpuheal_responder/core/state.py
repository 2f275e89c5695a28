"""The state of a case in one word, the same for kubectl's column, the metric and `gpuheal cases`."""

from __future__ import annotations

from enum import StrEnum

from gpuheal_responder.core.case import Case
from gpuheal_responder.core.guards.permission import APPROVALS
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.verdict import Act, Done, Escalate, Hold, Inspect, Verdict, Wait


class CaseState(StrEnum):
    """What a case is doing, and whether somebody has to do something about it."""

    ACTING = "acting"
    WAITING = "waiting"
    HELD = "held"
    PENDING = "pending"
    OBSERVING = "observing"
    INCIDENT = "incident"
    ESCALATED = "escalated"
    CLOSING = "closing"


def state_of(case: Case, verdict: Verdict) -> CaseState:
    """Return the case's state.

    `pending` waits only for an approval, `observing` is a case that touched nothing, `incident` is part of one, which
    is told of once. A node that is contained while the mode only observes is held: somebody has to decide about it.
    """
    match verdict:
        case Act() | Inspect():
            return CaseState.ACTING
        case Wait():
            return CaseState.WAITING
        case Escalate():
            return CaseState.ESCALATED
        case Done():
            return CaseState.CLOSING
        case Hold():
            reasons = {r.reason for r in verdict.refusals}
            if Reason.MODE_OBSERVE in reasons and not case.attempts:
                return CaseState.OBSERVING
            if Reason.FLEET_INCIDENT in reasons:
                return CaseState.INCIDENT
            return CaseState.PENDING if reasons <= APPROVALS else CaseState.HELD
