"""Questions about evidence: how sure, how old, whether it is news, and what is missing to a proof of health."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from gpuheal_responder.core.alert import Fault
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.sighting import Confidence, Evidence, Strength, Witness, WitnessClass
from gpuheal_responder.core.world import World

FRESH = timedelta(minutes=2)
_STRONG = frozenset({WitnessClass.KERNEL, WitnessClass.NVML, WitnessClass.DCGM})
"""Classes that count as strong where the rules do not say."""


def witnesses_of(fault: Fault, evidence: Evidence | None) -> tuple[Witness, ...]:
    """Return the witnesses of this fault on this GPU (witnesses of the whole node count for each of its GPUs)."""
    if evidence is None:
        return ()
    return tuple(w for w in evidence.witnesses if w.fault == fault.slug and w.gpu_uuid in {None, fault.target.gpu_uuid})


def confidence(witnesses: Iterable[Witness]) -> Confidence:
    """Return how sure the fresh witnesses make us.

    confirmed: the driver's own verdict, or two classes agree; probable: one strong witness; suspect: only a weak one.
    The rules' `gpuheal:fault_confidence:ratio` is the same measure; a test holds both together.
    """
    fresh = [w for w in witnesses if w.sample_age <= FRESH]
    classes = {w.witness_class for w in fresh}
    if WitnessClass.DRIVER in classes or len(classes) >= 2:
        return Confidence.CONFIRMED
    if any(_is_strong(w) for w in fresh):
        return Confidence.PROBABLE
    return Confidence.SUSPECT if fresh else Confidence.NONE


def _is_strong(witness: Witness) -> bool:
    """Return what the rules say of the witness, or what was assumed of its class before they said it."""
    if witness.strength is None:
        return witness.witness_class in _STRONG
    return witness.strength is Strength.STRONG


def strongest(faults: Iterable[Fault], evidence: Evidence | None) -> Confidence:
    """Return the highest confidence that any of the faults reaches."""
    return max((confidence(witnesses_of(f, evidence)) for f in faults), key=lambda c: c.rank, default=Confidence.NONE)


def newest(faults: Iterable[Fault], evidence: Evidence | None) -> datetime | None:
    """Return when any witness of the faults last saw one of them, or None."""
    return max((w.last_seen_at for f in faults for w in witnesses_of(f, evidence)), default=None)


def news(faults: Iterable[Fault], evidence: Evidence | None) -> datetime | None:
    """Return when something last happened about the faults: a line of the kernel, or the beginning of an alert.

    A level that merely goes on (NVML still misses the GPU) is no news, however fresh its sample.
    """
    found = list(faults)
    lines = [w.last_seen_at for f in found for w in witnesses_of(f, evidence) if w.witness_class is WitnessClass.KERNEL]
    return max([*lines, *(f.since for f in found)], default=None)


def relapse(world: World, since: datetime) -> Witness | None:
    """Return a witness that saw a still-alerting fault of this node after `since`, or None.

    While the pipeline is frozen nothing counts: a Prometheus that has just started evaluates samples of before the
    cure.
    """
    if world.controls.frozen:
        return None
    seen = (w for f in world.faults for w in witnesses_of(f, world.evidence) if w.last_seen_at > since)
    return max(seen, key=lambda w: w.last_seen_at, default=None)


def digest(case: Case, step: str, world: World) -> str:
    """Return a short hash of what an approval of this step binds to: machine, boot, and which GPUs have which faults.

    Further witnesses of the same faults do not change it, another fault does.
    """
    node = world.node
    parts = [case.name, step, case.node_uid, node.boot_id if node else ""]
    for fault in world.faults:
        parts.append(f"{fault.slug}/{fault.target.gpu_uuid}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def missing_proof(
    *, node: Node, gpus: Sequence[str], evidence: Evidence | None, since: datetime, evaluations: int
) -> tuple[str, ...]:
    """Return what is still missing to a positive proof of health since `since`; empty means proven.

    Proof is: the node is Ready, all its GPUs are allocatable, and for every GPU known at the start the newest
    `evaluations` rule evaluations after `since` exist, are fresh and say ok.
    """
    missing: list[str] = []
    if not node.ready:
        missing.append("node is not Ready")
    if node.gpu_allocatable < max(node.gpu_capacity, len(gpus)):
        missing.append(f"{node.gpu_allocatable} of {max(node.gpu_capacity, len(gpus))} GPUs are allocatable")
    if evidence is None:
        return (*missing, "no evidence could be read")
    samples = {h.gpu_uuid: h.samples for h in evidence.health}
    for gpu in gpus or tuple(samples):
        recent = [s for s in samples.get(gpu, ()) if s.at > since][-evaluations:]
        if len(recent) < evaluations:
            missing.append(f"{gpu}: {len(recent)} of {evaluations} evaluations since the last action")
        elif evidence.at - recent[-1].at > FRESH:
            missing.append(f"{gpu}: newest evaluation is older than {FRESH}")
        elif any(s.state != 0 for s in recent):
            missing.append(f"{gpu}: not ok in the last {evaluations} evaluations")
    if not gpus and not samples:
        missing.append("no GPU of this node has a state")
    return tuple(missing)
