"""Do people, policies and other tools let us?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.undo import HOLD_ANNOTATION
from gpuheal_responder.core.verdict import Refusal

GUARD = "permission"
APPROVALS = frozenset({"approval-needed", "approval-mismatch", "approval-expired"})
OPT_OUT_LABELS = ("gpu.health/ignore", "remediation.medik8s.io/exclude-from-remediation")
OPT_OUT_ANNOTATIONS = (
    "cluster.x-k8s.io/paused",
    "cluster.x-k8s.io/skip-remediation",
    "weave.works/kured-reboot-in-progress",
)
FOREIGN_TAINTS = ("ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted", "karpenter.sh/disruption")
UPGRADE_LABEL = "nvidia.com/gpu-driver-upgrade-state"
QUIET_AFTER_BOOT = timedelta(minutes=30)
UPGRADE_IDLE = frozenset({"", "upgrade-done", "unknown"})


def check(q: Question) -> Iterator[Refusal]:
    """Yield refusals of mode, pause, freeze, marks of people and other tools, a foreign lock, and missing approval.

    Proving and giving back go on while paused or frozen only as looking: restore is held like any other change.
    """
    controls, mode = q.world.controls, _mode(q)
    if mode is Mode.OBSERVE:
        yield Refusal(guard=GUARD, reason="mode-observe", message=f"policy {q.policy.name} only observes")
    if controls.paused:
        yield Refusal(guard=GUARD, reason="paused", message=controls.paused)
    if q.continuing:
        return
    if q.step.spec.disruptive and controls.frozen:
        yield Refusal(guard=GUARD, reason="frozen", message=controls.frozen)
    if q.world.node is not None:
        yield from _node(q, q.world.node)
    if q.step.spec.disruptive and not q.giving_back and not q.in_flight:
        yield from _fresh_boot(q)
    if q.step.spec.disruptive and not q.giving_back:
        lock = q.world.lock
        if lock is not None and lock.expires_at > q.world.now:
            yield Refusal(
                guard=GUARD,
                reason="node-locked",
                message=f"{lock.holder} holds the node's Lease",
                blockers=(lock.holder,),
            )
        if mode is Mode.PROPOSE:
            yield from _approval(q)


def _mode(q: Question) -> Mode:
    return min(q.policy.mode, q.world.controls.mode, key=lambda m: m.rank)


def _node(q: Question, node: Node) -> Iterator[Refusal]:
    held = node.annotations.get(HOLD_ANNOTATION)
    if held is not None:
        yield Refusal(guard=GUARD, reason="held", message=f"annotation {HOLD_ANNOTATION}: {held}", blockers=(held,))
    if q.giving_back:
        return
    marks = [label for label in OPT_OUT_LABELS if node.labels.get(label, "false") != "false"]
    marks += [key for key in OPT_OUT_ANNOTATIONS if node.annotations.get(key, "false") != "false"]
    marks += [t.key for t in node.taints if t.key in FOREIGN_TAINTS]
    if node.labels.get(UPGRADE_LABEL, "") not in UPGRADE_IDLE:
        marks.append(f"{UPGRADE_LABEL}={node.labels[UPGRADE_LABEL]}")
    if marks:
        yield Refusal(
            guard=GUARD, reason="left-alone", message=f"the node carries {', '.join(marks)}", blockers=tuple(marks)
        )


def _fresh_boot(q: Question) -> Iterator[Refusal]:
    """Somebody else rebooted it a moment ago, and may not be done."""
    booted_at = q.world.evidence.booted_at if q.world.evidence is not None else None
    if booted_at is not None and q.world.now - booted_at < QUIET_AFTER_BOOT:
        yield Refusal(
            guard=GUARD,
            reason="booted-lately",
            message=f"the node booted at {booted_at.isoformat()}, less than {QUIET_AFTER_BOOT} ago, not by this case",
            retry_in=booted_at + QUIET_AFTER_BOOT - q.world.now,
        )


def _approval(q: Question) -> Iterator[Refusal]:
    wanted = ev.digest(q.case, q.step.key, q.world)
    mine = [a for a in q.case.approvals if a.step == q.step.key]
    if any(a.evidence == wanted and a.expires_at > q.world.now for a in mine):
        return
    if any(a.evidence != wanted for a in mine):
        reason, problem = "approval-mismatch", "the approval was for other evidence"
    elif mine:
        reason, problem = "approval-expired", "the approval has expired"
    else:
        reason, problem = "approval-needed", "a person has to approve"
    yield Refusal(
        guard=GUARD,
        reason=reason,
        message=f"{problem}: gpuheal approve {q.case.name} --step {q.step.key} --evidence {wanted}",
        blockers=(wanted,),
    )
