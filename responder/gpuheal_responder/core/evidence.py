"""Questions about evidence: how sure, how old, whether it is news, and what is missing to a proof of health."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gpuheal_responder.core.alert import Fault
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.duration import people_duration
from gpuheal_responder.core.history import History, TakenFault
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.sighting import Confidence, Evidence, Strength, Witness, WitnessClass
from gpuheal_responder.core.world import World

FRESH = timedelta(minutes=2)
OK, DEGRADED, FAULTY, UNKNOWN = 0, 1, 3, 5
"""States of a GPU (see HealthSample): well, slower than it could be, the first that is bad, and not known."""
_STRONG = frozenset({WitnessClass.KERNEL, WitnessClass.NVML, WitnessClass.DCGM})
"""Classes that count as strong where the rules do not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """One thing that is missing to a proof of health: of which GPU (empty for the node), and what, in words.

    `seen` says that somebody sees it to be faulty or gone, `doubtful` that it is degraded or suspect; else nobody
    tells. Only what is seen asks for a further cure.
    """

    text: str
    gpu: str = ""
    seen: bool = False
    doubtful: bool = False


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


def news(faults: Iterable[Fault], evidence: Evidence | None, history: History) -> bool:
    """Return whether something has happened since a person took the machine back.

    News is a line of the kernel, or a fault that did not stand then. A level that merely goes on is none, nor is the
    same alert that merely begins anew: a restarted Prometheus gives every alert a new beginning. `taken_at` is our last
    look before the person acted, so what happened at that very moment had not been seen.
    """
    taken_at = history.taken_at
    if taken_at is None:
        return True
    for fault in faults:
        if not stood(fault, history) and fault.since >= taken_at:
            return True
        lines = (w for w in witnesses_of(fault, evidence) if w.witness_class is WitnessClass.KERNEL)
        if any(w.last_seen_at >= taken_at for w in lines):
            return True
    return False


def stood(fault: Fault, history: History) -> bool:
    """Return whether the fault was one of those with which a person last took the machine back."""
    return TakenFault(slug=fault.slug, gpu_uuid=fault.target.gpu_uuid) in history.taken


def relapses(case: Case, world: World, since: datetime) -> tuple[Witness, ...]:
    """Return the witnesses that saw a fault of this case or an alerting one after `since`, newest first.

    What the case is about counts whether or not an alert hangs on it now: an Alertmanager that lost its state, a policy
    that changed or a label that went are no all-clear. While the pipeline is frozen nothing counts: a Prometheus that
    has just started evaluates samples of before the cure.
    """
    if world.controls.frozen:
        return ()
    faults = (*world.faults, *case.faults)
    seen = {w: None for f in faults for w in witnesses_of(f, world.evidence) if w.last_seen_at > since}
    return tuple(sorted(seen, key=lambda w: w.last_seen_at, reverse=True))


def said(witnesses: Sequence[Witness]) -> str:
    """Return in words who saw what last."""
    last = witnesses[0]
    return f"{last.witness_class.value} reported {last.fault} at {last.last_seen_at.isoformat(timespec='seconds')}"


def gpus_of(witnesses: Iterable[Witness]) -> tuple[str, ...]:
    """Return the GPUs that the witnesses name."""
    return tuple(sorted({w.gpu_uuid for w in witnesses if w.gpu_uuid}))


def unwitnessed(case: Case, world: World) -> bool:
    """Return whether nobody witnesses the case's faults, and that can be seen: a silent source is no all-clear.

    An Alertmanager must answer without the alert, Prometheus' answer must be of now and no witness in it, and no GPU of
    the faults may be known and yet without a fresh state, or in a bad one.
    """
    evidence = world.evidence
    if world.faults or world.controls.frozen or world.peers_answering < 1 or evidence is None:
        return False
    if abs(world.now - evidence.at) > FRESH or any(witnesses_of(f, evidence) for f in case.faults):
        return False
    samples = {h.gpu_uuid: h.samples for h in evidence.health}
    known = {i.gpu_uuid for i in evidence.identities} | samples.keys()
    for gpu in {f.target.gpu_uuid for f in case.faults if f.target.gpu_uuid} & known:
        last = samples.get(gpu, ())[-1:]
        if not last or evidence.at - last[0].at > FRESH or last[0].state >= FAULTY:
            return False
    return bool(known) or not any(f.target.gpu_uuid for f in case.faults)


def exchanged(case: Case, evidence: Evidence | None) -> frozenset[str]:
    """Return the GPUs whose slot holds another one now: that one has fresh states, and they have none any more.

    A GPU that the case knew in another slot has moved and replaces nobody: when a card does not come back from a
    reboot, the firmware may number the buses anew and its neighbours move up.
    """
    if evidence is None:
        return frozenset()
    fresh = {h.gpu_uuid for h in evidence.health if h.samples and evidence.at - h.samples[-1].at <= FRESH}
    slots = {**case.gpu_slots, **{i.gpu_uuid: i.slot for i in evidence.identities if i.slot}}
    filled = {slot for gpu, slot in slots.items() if gpu in fresh and case.gpu_slots.get(gpu, slot) == slot}
    return frozenset(gpu for gpu, slot in slots.items() if gpu not in fresh and slot in filled)


def digest(case: Case, step: str, params: object, world: World) -> str:
    """Return a short hash of what an approval of this step binds to.

    That is the step with its parameters, the machine, its boot, and which GPUs have which faults. Further witnesses of
    the same faults do not change it, another fault does.
    """
    node = world.node
    parts = [case.name, step, repr(params), case.node_uid, node.boot_id if node else ""]
    parts += sorted(f"{fault.slug}/{fault.target.gpu_uuid}" for fault in world.faults)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def unproven(case: Case, world: World, *, since: datetime, evaluations: int) -> tuple[Lack, ...]:
    """Return what is missing to a positive proof of health since `since`; empty means proven.

    Proof is: the node is Ready, all GPUs that it counts (or did when the case was opened) are allocatable, and for
    every GPU the newest `evaluations` rule evaluations after `since` exist, are fresh and say ok. A node whose GPUs are
    handed out by DRA counts none. A GPU that no fault of the case is about may be degraded: such a one takes work
    elsewhere, and was so before.
    """
    if world.node is None:
        return (Lack(text="the node does not exist"),)
    gone = exchanged(case, world.evidence)
    gpus = [gpu for gpu in case.gpus if gpu not in gone]
    found = [*_nodes_lacks(world.node, case.gpu_capacity)]
    if world.evidence is None:
        return (*found, Lack(text="Prometheus returned no evidence"))
    return (*found, *_gpus_lacks(case, gpus, world.evidence, since, evaluations))


def lacking_about(lacks: Sequence[Lack]) -> tuple[str, ...]:
    """Return the GPUs that a failed proof is about: those that are seen to be unwell, else those nobody tells of."""
    seen = [lack for lack in lacks if lack.seen] or [lack for lack in lacks if lack.doubtful]
    return tuple(lack.gpu for lack in seen or lacks if lack.gpu)


def unproven_for(lacks: Sequence[Lack], seen: Reason) -> Reason:
    """Return why a proof failed that lacks these: `seen` when something is seen to be unwell."""
    if any(lack.seen for lack in lacks):
        return seen
    return Reason.HEALTH_DOUBTFUL if any(lack.doubtful for lack in lacks) else Reason.HEALTH_UNKNOWN


def again_for(witnesses: Sequence[Witness]) -> Reason:
    """Return why a proof failed after which these saw a fault: weak signs of one class are no fault yet."""
    classes: dict[tuple[str, str | None], set[WitnessClass]] = {}
    for witness in witnesses:
        classes.setdefault((witness.fault, witness.gpu_uuid), set()).add(witness.witness_class)
    agreed = any(len(many) > 1 or WitnessClass.DRIVER in many for many in classes.values())
    return Reason.FAULT_AGAIN if agreed or any(_is_strong(w) for w in witnesses) else Reason.HEALTH_DOUBTFUL


def _nodes_lacks(node: Node, capacity: int) -> Iterator[Lack]:
    if not node.ready:
        yield Lack(text="node is not Ready")
    counted = max(node.gpu_capacity, capacity)
    if node.gpu_allocatable < counted:
        told = node.ready and node.gpu_allocatable > 0  # none at all is a device plugin that is silent
        yield Lack(text=f"{node.gpu_allocatable} of {counted} GPUs are allocatable", seen=told)


def _gpus_lacks(
    case: Case, gpus: Sequence[str], evidence: Evidence, since: datetime, evaluations: int
) -> Iterator[Lack]:
    samples = {h.gpu_uuid: h.samples for h in evidence.health}
    recent = {g: [s for s in samples.get(g, ()) if s.at > since][-evaluations:] for g in gpus or tuple(samples)}
    others_told = any(len(found) == evaluations and evidence.at - found[-1].at <= FRESH for found in recent.values())
    faulty = {f.target.gpu_uuid for f in case.faults}
    unnamed = any(f.target.gpu_uuid is None and not f.alertname for f in case.faults)  # an undo record names no GPU
    for gpu, found in recent.items():
        well = {OK} if unnamed or gpu in faulty else {OK, DEGRADED}
        fresh = bool(found) and evidence.at - found[-1].at <= FRESH
        bad = fresh and any(FAULTY <= s.state < UNKNOWN for s in found)
        doubtful = fresh and any(s.state not in {*well, UNKNOWN} for s in found)
        if len(found) < evaluations:
            text = f"{gpu}: {len(found)} of {evaluations} rule evaluations since the last action"
            yield Lack(gpu=gpu, text=text, seen=bad or (not found and others_told), doubtful=doubtful)
        elif not fresh:
            yield Lack(gpu=gpu, text=f"{gpu}: newest rule evaluation is older than {people_duration(FRESH)}")
        elif any(s.state not in well for s in found):
            text = f"{gpu}: not ok in every one of the last {evaluations} rule evaluations"
            yield Lack(gpu=gpu, text=text, seen=bad, doubtful=doubtful)
    if not recent:
        yield Lack(text="Prometheus has no health state for any GPU on this node")
