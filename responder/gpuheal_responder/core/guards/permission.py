"""Do people, policies and other tools allow it?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.case import LONGEST_APPROVAL, Approval
from gpuheal_responder.core.duration import people_duration
from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.life import provider_lost
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.undo import HOLD_ANNOTATION
from gpuheal_responder.core.verdict import Refusal

GUARD = "permission"
OPT_OUT_LABELS = ("gpu.health/ignore", "remediation.medik8s.io/exclude-from-remediation")
OPT_OUT_ANNOTATIONS = (
    "cluster.x-k8s.io/paused",
    "cluster.x-k8s.io/skip-remediation",
    "weave.works/kured-reboot-in-progress",
)
FOREIGN_TAINTS = ("ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted", "karpenter.sh/disruption")
UPGRADE_LABEL = "nvidia.com/gpu-driver-upgrade-state"
QUIET_AFTER_BOOT = timedelta(minutes=30)
APPROVALS = frozenset(
    {Reason.APPROVAL_NEEDED, Reason.APPROVAL_MISMATCH, Reason.APPROVAL_EXPIRED, Reason.APPROVAL_OVERLONG}
)
UPGRADE_IDLE = frozenset({"", "upgrade-done", "unknown"})


def mode_allows(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when the policy, or the cap that people set at run time, only observes."""
    if mode_of(q) is not Mode.OBSERVE:
        return
    capped = q.policy.mode is not Mode.OBSERVE
    said = "the controls cap the mode at observe" if capped else f"policy {q.policy.name} has mode observe"
    yield Refusal(guard=GUARD, reason=Reason.MODE_OBSERVE, message=said)


def unpaused(q: Question) -> Iterator[Refusal]:
    """Yield a refusal while people have paused everything."""
    if q.world.controls.paused:
        yield Refusal(guard=GUARD, reason=Reason.PAUSED, message=q.world.controls.paused)


def unfrozen(q: Question) -> Iterator[Refusal]:
    """Yield a refusal while the way from Prometheus to us is in doubt."""
    if q.world.controls.frozen:
        yield Refusal(guard=GUARD, reason=Reason.FROZEN, message=q.world.controls.frozen)


def unheld(q: Question) -> Iterator[Refusal]:
    """Yield a refusal while a person holds the node."""
    held = q.world.node.annotations.get(HOLD_ANNOTATION) if q.world.node is not None else None
    if held is not None:
        yield Refusal(guard=GUARD, reason=Reason.HELD, message=f"annotation {HOLD_ANNOTATION}={held}", blockers=(held,))


def left_to_us(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when the node opted out, or another tool is at work on it."""
    node = q.world.node
    if node is None:
        return
    marks = [label for label in OPT_OUT_LABELS if node.labels.get(label, "false") != "false"]
    marks += [key for key in OPT_OUT_ANNOTATIONS if node.annotations.get(key, "false") != "false"]
    marks += [t.key for t in node.taints if t.key in FOREIGN_TAINTS]
    if node.labels.get(UPGRADE_LABEL, "") not in UPGRADE_IDLE:
        marks.append(f"{UPGRADE_LABEL}={node.labels[UPGRADE_LABEL]}")
    if marks:
        yield Refusal(
            guard=GUARD,
            reason=Reason.LEFT_ALONE,
            message=f"the node has {', '.join(marks)}",
            blockers=tuple(marks),
        )


def settled_boot(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when somebody else rebooted the node a moment ago, and may not be done.

    Where no exporter tells when it booted, the moment counts at which its boot ID was seen to change.
    """
    told = q.world.evidence.booted_at if q.world.evidence is not None else None
    booted_at = told or (q.world.node.rebooted_at if q.world.node is not None else None)
    if booted_at is not None and q.world.now - booted_at < QUIET_AFTER_BOOT:
        yield Refusal(
            guard=GUARD,
            reason=Reason.BOOTED_LATELY,
            message=f"the node booted at {booted_at.isoformat(timespec='seconds')}, less than "
            f"{people_duration(QUIET_AFTER_BOOT)} ago, and not because of this case",
            retry_in=booted_at + QUIET_AFTER_BOOT - q.world.now,
        )


def unlocked(q: Question) -> Iterator[Refusal]:
    """Yield a refusal while another tool holds the node's Lease."""
    lock = q.world.lock
    if lock is not None and lock.expires_at > q.world.now:
        yield Refusal(
            guard=GUARD,
            reason=Reason.NODE_LOCKED,
            message=f"{lock.holder} holds the node's Lease until {lock.expires_at.isoformat(timespec='seconds')}",
            blockers=(lock.holder,),
        )


def provided(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when the provider is not configured whom the cure, or the one that room is made for, needs."""
    due = q.before or q.due
    latest = q.case.latest(due.step.key, due.target)
    problem = provider_lost(due, latest if latest is not None and latest.open else None, q.world)
    if problem:
        yield Refusal(guard=GUARD, reason=Reason.UNKNOWN_PROVIDER, message=problem)


def approved(q: Question) -> Iterator[Refusal]:
    """Yield a refusal when the mode wants a person's yes and there is none for this step on this evidence."""
    if mode_of(q) is not Mode.PROPOSE or has_approval(q):
        return
    wanted = ev.digest(q.case, q.due.key, q.due.params, q.world)
    mine = [a for a in q.case.approvals if a.step == q.due.key]
    reason, problem = _lacking(mine[-1], wanted, q.world.now) if mine else (Reason.APPROVAL_NEEDED, "needs approval")
    again = "approve again" if mine else "approve"
    message = f"{problem}; {again} with: {approval_command(q)}"
    yield Refusal(guard=GUARD, reason=reason, message=message, blockers=(wanted,))


def _lacking(last: Approval, wanted: str, now: datetime) -> tuple[Reason, str]:
    """Return why the newest approval of a step does not count."""
    if last.evidence != wanted:
        return Reason.APPROVAL_MISMATCH, f"the approval by {last.by} was given for different evidence"
    if last.overlong(now):
        longest = people_duration(LONGEST_APPROVAL)
        problem = f"the approval by {last.by} is dated in the future or lasts longer than {longest}"
        return Reason.APPROVAL_OVERLONG, problem
    ended = last.ends_at.isoformat(timespec="seconds")
    return Reason.APPROVAL_EXPIRED, f"the approval by {last.by} expired at {ended}"


def has_approval(q: Question) -> bool:
    """Return whether a person has said yes to this step on this evidence, and the yes has not expired."""
    wanted = ev.digest(q.case, q.due.key, q.due.params, q.world)
    return any(a.step == q.due.key and a.evidence == wanted and a.counts(q.world.now) for a in q.case.approvals)


def approval_command(q: Question) -> str:
    """Return the command by which a person approves this step on this evidence."""
    wanted = ev.digest(q.case, q.due.key, q.due.params, q.world)
    return f"gpuheal approve {q.case.name} --step {q.due.key} --evidence {wanted}"


def mode_of(q: Question) -> Mode:
    """Return the mode in force: the policy's, capped by what people set at run time."""
    return min(q.policy.mode, q.world.controls.mode, key=lambda m: m.rank)
