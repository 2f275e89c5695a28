"""Does something run here that must not be moved, or whose gang is already losing a member?"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.node import Pod
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import Empties
from gpuheal_responder.core.verdict import Refusal

GUARD = "workload"
ENDED = frozenset({"Succeeded", "Failed"})
CONTROL_PLANE_LABELS = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")


def control_plane(q: Question) -> Iterator[Refusal]:
    """Yield a refusal for control-plane nodes."""
    node = q.world.node
    label = next((label for label in CONTROL_PLANE_LABELS if node is not None and label in node.labels), None)
    if node is not None and label is not None:
        yield Refusal(
            guard=GUARD,
            reason=Reason.CONTROL_PLANE,
            message=f"{node.name} is a control-plane node (label {label})",
            blockers=(node.name,),
        )


def readable(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when the node's pods could not be listed."""
    if q.world.pods is None:
        yield Refusal(guard=GUARD, reason=Reason.PODS_UNKNOWN, message="the node's pods could not be listed")


def unprotected(q: Question) -> Iterator[Refusal]:
    """Yield a refusal per pod that must not be moved, by name."""
    for pod in _concerned(q):
        if pod.protected and pod.evictable:
            yield Refusal(
                guard=GUARD,
                reason=Reason.PROTECTED_POD,
                message=f"{pod.ref} must not be evicted: {pod.protected}",
                blockers=(pod.ref,),
            )


def unused(q: Question) -> Iterator[Refusal]:
    """Yield a refusal per pod that holds a GPU, or an instance of one, on which the step would act: no pod may."""
    if q.due.spec.empties is not Empties.GPU:
        return
    more = q.due.spec.touches(q.due, q.case) if q.due.spec.touches is not None else ()
    for pod in q.world.pods or ():
        if pod.phase not in ENDED and any(pod.uses(gpu) for gpu in (q.due.target, *more)):
            yield Refusal(
                guard=GUARD,
                reason=Reason.GPU_IN_USE,
                message=f"{pod.ref} uses a GPU that {q.due.key} would act on",
                blockers=(pod.ref,),
            )


def gang_whole(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when a gang with a member here already loses one elsewhere."""
    split = sorted({p.gang for p in _concerned(q) if p.gang and p.gang in q.world.controls.gangs_in_flight})
    if split:
        yield Refusal(
            guard=GUARD,
            reason=Reason.GANG_IN_FLIGHT,
            message=f"another node of gang {', '.join(split)} is being remediated",
            blockers=tuple(split),
        )


def _concerned(q: Question) -> Iterator[Pod]:
    """Yield the pods that the step would end: those on the node, or those that hold the one GPU."""
    for pod in q.world.pods or ():
        if not q.due.target or pod.uses(q.due.target):
            yield pod
