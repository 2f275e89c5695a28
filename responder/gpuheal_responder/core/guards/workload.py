"""Does something run here that must not be moved, or whose gang is already losing a member?"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.verdict import Refusal

GUARD = "workload"
UNREAD = "pods-unknown"
CONTROL_PLANE_LABELS = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")


def check(q: Question) -> Iterator[Refusal]:
    """Yield refusals for control-plane nodes, protected pods by name, pods nobody would recreate, and split gangs."""
    if q.giving_back or q.continuing or not q.step.spec.disruptive or q.world.node is None:
        return
    for label in CONTROL_PLANE_LABELS:
        if label in q.world.node.labels:
            yield Refusal(
                guard=GUARD,
                reason="control-plane",
                message=f"{q.world.node.name} is a control-plane node (label {label})",
                blockers=(q.world.node.name,),
            )
            break
    if q.world.pods is None:
        yield Refusal(guard=GUARD, reason=UNREAD, message="the pods of the node could not be listed")
        return
    for pod in q.world.pods:
        if pod.protected and pod.evictable:
            yield Refusal(
                guard=GUARD, reason="protected-pod", message=f"{pod.ref}: {pod.protected}", blockers=(pod.ref,)
            )
    if q.in_flight:
        return
    split = sorted({p.gang for p in q.world.pods if p.gang and p.gang in q.world.controls.gangs_in_flight})
    if split:
        yield Refusal(
            guard=GUARD,
            reason="gang-in-flight",
            message=f"another node of {', '.join(split)} is in remediation",
            blockers=tuple(split),
        )
