"""One node's part of a round, and the questions about it: is it urgent, is it news, must it be remembered?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuheal_responder.core.case import Case
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.verdict import Act, Done, Escalate, Hold, Inspect, Refusal, Verdict, Wait, due_of
from gpuheal_responder.core.world import World
from gpuheal_responder.ports import Stored
from gpuheal_responder.shell.record import decision
from gpuheal_responder.shell.round.agenda import Subject


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """One node's part of a round."""

    node: str
    origin: Case
    case: Case
    policy: Policy | None
    stored: Stored | None
    world: World
    verdict: Verdict
    judged: Case
    """The case that the verdict was made on."""

    def record(self) -> Mapping[str, object]:
        """Return the decision in the form that can be replayed."""
        return decision(self.world.now, self.verdict, self.world, self.judged, self.policy)


def contains(verdict: Verdict) -> bool:
    """Return whether the verdict is to put marks on a node, which never waits."""
    return isinstance(verdict, Act) and verdict.due.spec.phase is Phase.CONTAIN


def failed(subject: Subject, world: World, problem: Exception) -> Work:
    """Return the work on a case that could not be decided about: it is held, and people are told."""
    kind = type(problem).__name__
    refusal = Refusal(guard="case", reason=Reason.INTERNAL_ERROR, message=f"cannot decide about the case: {kind}")
    return Work(
        node=subject.node,
        origin=subject.case,
        case=subject.case,
        policy=subject.policy,
        stored=subject.stored,
        world=world,
        verdict=Hold(due=None, refusals=(refusal,)),
        judged=subject.case,
    )


def unread(subject: Subject) -> Hold | None:
    """Return a hold when parts of the stored case cannot be read: nothing is done on the strength of half a case."""
    if subject.stored is None or not subject.stored.unread:
        return None
    message = f"cannot read parts of the Remediation: {'; '.join(subject.stored.unread)}"
    return Hold(due=None, refusals=(Refusal(guard="case", reason=Reason.CASE_UNREADABLE, message=message),))


def to_remember(work: Work) -> bool:
    """Return whether the case tells something new that must outlive it: its first mark, an escalation, its end."""
    before = work.stored.case if work.stored is not None else None
    if before is None:
        return bool(work.case.attempts or work.case.escalated)
    ended = work.case.closed_at is not None and bool(work.case.attempts or work.case.escalated)
    marked = bool(work.case.attempts) and not before.attempts
    return ended or marked or work.case.escalated != before.escalated


def signature(verdict: Verdict) -> tuple[object, ...]:
    """Return what makes a verdict different from the last one told: kind, step, reasons and blockers, but no times."""
    due = due_of(verdict)
    key = due.key if due is not None else ""
    match verdict:
        case Act():
            return ("act", key, verdict.reason)
        case Inspect():
            return ("inspect", key, verdict.needs)
        case Wait():
            return ("wait", key, verdict.reason)
        case Hold():
            return ("hold", key, tuple((r.reason, r.blockers) for r in verdict.refusals))
        case Escalate():
            return ("escalate", verdict.reason)
        case Done():
            return ("done", verdict.result)
