"""Is the fault really there, unsuppressed, freshly witnessed, and on this machine?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.alert import Suppression, SuppressionKind
from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.sighting import Confidence
from gpuheal_responder.core.verdict import Refusal

GUARD = "signal"


def check(q: Question) -> Iterator[Refusal]:
    """Yield refusals of the start gate before the first disruptive step; in flight, only those of a person's silence.

    Before: at least one Alertmanager peer answers and none that answers suppresses a fault of the node; evidence is
    fresh and strong enough; the GPU is proven to sit in this node by a second source. In flight our own consequences
    (missing telemetry, vanished or inhibited alerts) neither block nor count.
    """
    if q.giving_back or q.continuing:
        return
    if q.world.peers_answering < 1:
        silent = ", ".join(q.world.peers_silent) or "none is configured"
        yield Refusal(guard=GUARD, reason="no-alertmanager", message=f"no Alertmanager peer answers ({silent})")
        return
    if q.in_flight:
        yield from _suppressions(q, only=SuppressionKind.SILENCE)
        return
    if not q.world.faults:
        yield Refusal(guard=GUARD, reason="no-active-alert", message="no alert of this case is active any more")
    yield from _suppressions(q, only=None)
    if q.world.faults:
        yield from _strength(q)
    if q.step.spec.disruptive:
        yield from _identity(q)


def _suppressions(q: Question, only: SuppressionKind | None) -> Iterator[Refusal]:
    found: list[Suppression] = []
    for fault in q.world.faults:
        found += [s for s in fault.suppressions if only in {None, s.kind} and s not in found]
    for kind in SuppressionKind:
        by = tuple(dict.fromkeys(s.by for s in found if s.kind is kind))
        if by:
            yield Refusal(
                guard=GUARD, reason=f"alert-{_PAST[kind]}", message=f"{_PAST[kind]} by {'; '.join(by)}", blockers=by
            )


_PAST = {
    SuppressionKind.SILENCE: "silenced",
    SuppressionKind.INHIBITION: "inhibited",
    SuppressionKind.MUTE: "muted",
}


def _strength(q: Question) -> Iterator[Refusal]:
    world = q.world
    if world.evidence is None:
        yield Refusal(guard=GUARD, reason="no-evidence", message="Prometheus gave no evidence for this node")
        return
    witnesses = [w for f in world.faults for w in ev.witnesses_of(f, world.evidence)]
    if witnesses and min(w.sample_age for w in witnesses) > ev.FRESH:
        yield Refusal(
            guard=GUARD, reason="evidence-stale", message=f"the newest witness sample is older than {ev.FRESH}"
        )
    wanted = Confidence.CONFIRMED if q.step.spec.disruptive else Confidence.PROBABLE
    reached = ev.strongest(world.faults, world.evidence)
    if reached.rank < wanted.rank:
        seen = sorted({w.witness_class.value for w in witnesses}) or ["nobody"]
        yield Refusal(
            guard=GUARD,
            reason=f"not-{wanted.value}",
            message=f"{q.step.action} needs {wanted.value} evidence, this is {reached.value} ({', '.join(seen)})",
            retry_in=timedelta(seconds=15),
        )
    last = ev.newest(world.faults, world.evidence)
    if world.watermark is not None and last is not None and last <= world.watermark:
        yield Refusal(
            guard=GUARD,
            reason="evidence-settled",
            message=f"all evidence is older than {world.watermark.isoformat()}, when this node was last settled",
        )


def _identity(q: Question) -> Iterator[Refusal]:
    identities = q.world.evidence.identities if q.world.evidence else ()
    for fault in q.world.faults:
        gpu = fault.target.gpu_uuid
        if gpu is None:
            continue
        sources = {i.source for i in identities if i.gpu_uuid == gpu}
        if len(sources) < 2:
            yield Refusal(
                guard=GUARD,
                reason="identity-unproven",
                message=f"only {', '.join(sorted(sources)) or 'nobody'} knows {gpu} to sit in {fault.target.node}",
                blockers=(gpu,),
            )
