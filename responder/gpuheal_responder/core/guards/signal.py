"""Is the fault there, unsuppressed, freshly witnessed, on this machine? Is the node proven well when it goes back?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.alert import Suppression, SuppressionKind
from gpuheal_responder.core.duration import people_duration
from gpuheal_responder.core.guards.question import Moment, Question
from gpuheal_responder.core.life import proof_since
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.sighting import Confidence
from gpuheal_responder.core.verdict import Refusal

GUARD = "signal"
AT_RETURN = 2
"""Rule evaluations that must call every GPU well at the moment a node is given back."""
_REASONS = {
    SuppressionKind.SILENCE: (Reason.ALERT_SILENCED, "silenced"),
    SuppressionKind.INHIBITION: (Reason.ALERT_INHIBITED, "inhibited"),
    SuppressionKind.MUTE: (Reason.ALERT_MUTED, "muted"),
}


def answered(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when no Alertmanager peer answers."""
    if q.world.peers_answering < 1:
        silent = ", ".join(q.world.peers_silent) or "none configured"
        yield Refusal(guard=GUARD, reason=Reason.NO_ALERTMANAGER, message=f"no Alertmanager peer answers ({silent})")


def active(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when no alert of the case is active any more."""
    if q.world.peers_answering >= 1 and not q.world.faults:
        yield Refusal(guard=GUARD, reason=Reason.NO_ACTIVE_ALERT, message="no alert of this case is active any more")


def unsuppressed(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when a peer inhibits or mutes an alert of the node."""
    found = [s for f in q.world.faults for s in f.suppressions if s.kind is not SuppressionKind.SILENCE]
    yield from _suppressions(found)


def unsilenced(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when a person's silence matches the case, whether or not an alert hangs on it at this moment."""
    found = [s for f in q.world.faults for s in f.suppressions if s.kind is SuppressionKind.SILENCE]
    yield from _suppressions([*found, *q.world.silences])


def _suppressions(found: Iterable[Suppression]) -> Iterator[Refusal]:
    found = tuple(found)
    for kind, (reason, word) in _REASONS.items():
        by = tuple(dict.fromkeys(s.by for s in found if s.kind is kind))
        if by:
            yield Refusal(guard=GUARD, reason=reason, message=f"{word} by {'; '.join(by)}", blockers=by)


def confident(q: Question) -> Iterator[Refusal]:
    """Yield refusals when evidence is missing, stale, or weaker than the step needs."""
    world = q.world
    if not world.faults:
        return
    if world.evidence is None:
        yield Refusal(guard=GUARD, reason=Reason.NO_EVIDENCE, message="Prometheus returned no evidence for this node")
        return
    witnesses = [w for f in world.faults for w in ev.witnesses_of(f, world.evidence)]
    if witnesses and min(w.sample_age for w in witnesses) > ev.FRESH:
        yield Refusal(
            guard=GUARD,
            reason=Reason.EVIDENCE_STALE,
            message=f"the newest evidence sample is older than {people_duration(ev.FRESH)}",
        )
    probable = q.moment is Moment.CONTAIN
    wanted, reason = (
        (Confidence.PROBABLE, Reason.NOT_PROBABLE) if probable else (Confidence.CONFIRMED, Reason.NOT_CONFIRMED)
    )
    reached = ev.strongest(world.faults, world.evidence)
    if reached.rank < wanted.rank:
        seen = sorted({w.witness_class.value for w in witnesses}) or ["no source"]
        yield Refusal(
            guard=GUARD,
            reason=reason,
            message=f"{q.due.action} needs {wanted.value} evidence; it is {reached.value} ({', '.join(seen)})",
            retry_in=timedelta(seconds=15),
        )


def unsettled(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when all evidence is older than the moment at which this machine was last given back.

    Or, for what disrupts, older than its Node object: another machine may have had the name then.
    """
    settled = q.world.history.settled_at
    last = ev.newest(q.world.faults, q.world.evidence)
    made = q.world.node.made_at if q.world.node is not None and q.moment is not Moment.CONTAIN else None
    if made is not None and last is not None and last <= made:
        yield Refusal(
            guard=GUARD,
            reason=Reason.EVIDENCE_OF_BEFORE,
            message=f"all evidence predates the Node object, which was created at {made.isoformat(timespec='seconds')}",
        )
    if settled is not None and last is not None and last <= settled:
        yield Refusal(
            guard=GUARD,
            reason=Reason.EVIDENCE_SETTLED,
            message=f"all evidence predates {settled.isoformat(timespec='seconds')}, "
            "when the node was last returned to service",
        )


def identified(q: Question) -> Iterator[Refusal]:
    """Yield a refusal per faulty GPU that fewer than two sources know to sit in this node."""
    identities = q.world.evidence.identities if q.world.evidence else ()
    for fault in q.world.faults:
        gpu = fault.target.gpu_uuid
        if gpu is None:
            continue
        sources = {i.source for i in identities if i.gpu_uuid == gpu}
        if len(sources) < 2:
            yield Refusal(
                guard=GUARD,
                reason=Reason.IDENTITY_UNPROVEN,
                message=f"{len(sources)} of 2 sources report {gpu} on {fault.target.node} "
                f"({', '.join(sorted(sources)) or 'none'})",
                blockers=(gpu,),
            )


def proven(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when the proof does not hold at this very moment: a hold may have made it hours old."""
    first = q.policy.of(Phase.PROVE, Phase.WATCH)
    if not first:
        return
    lacking = ev.unproven(q.case, q.world, since=proof_since(q.case, first[0].key), evaluations=AT_RETURN)
    if lacking:
        yield Refusal(
            guard=GUARD,
            reason=Reason.PROOF_MISSING,
            message="; ".join(lack.text for lack in lacking[:4]),
            retry_in=timedelta(seconds=15),
        )
