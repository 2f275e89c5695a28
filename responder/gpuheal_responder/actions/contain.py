"""Marking a node: taint, cordon and undo record in one PATCH. `taint` and `cordon` are two doors to it."""

from __future__ import annotations

from dataclasses import replace

from gpuheal_responder.actions.action import Context, Outcome, Rule
from gpuheal_responder.core.case import AttemptState
from gpuheal_responder.core.life import contained
from gpuheal_responder.core.node import Node, Taint, UndoRecord
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.undo import cordoned, has_cordon, intact, mark, same_taint, tainted, taints_of
from gpuheal_responder.errors import Permanent

RBAC = (Rule(group="", resources=("nodes",), verbs=("get", "list", "watch", "patch")),)


async def contain(ctx: Context, *, taints: tuple[Taint, ...], cordon: bool) -> Outcome:
    """Put the marks on the node, recording only what was not there before; repeating changes nothing."""
    node = ctx.node
    if node.undo is not None and not contained(ctx.case, node):
        whose = node.record.case if node.record is not None else "an unknown case (this version cannot read it)"
        raise Permanent(Reason.MARKED_BY_OTHER, f"node {node.name} carries the undo record of {whose}")
    again = contained(ctx.case, node) and not intact(node)
    record = node.record or _record(ctx, node)
    ours = taints_of(record)
    fresh = [
        t
        for t in taints
        if not any(same_taint(t, there) for there in node.taints) and not any(same_taint(t, mine) for mine in ours)
    ]
    changes = [*record.changes, *(tainted(t) for t in fresh)]
    if cordon and not node.unschedulable and not has_cordon(record):
        changes.append(cordoned())
    await ctx.cluster.mark(node, mark(node, replace(record, changes=tuple(changes))))
    return Outcome(state=AttemptState.SUCCEEDED, reason=Reason.PUT_BACK if again else Reason.MARKED)


def _record(ctx: Context, node: Node) -> UndoRecord:
    """Return the record of an untouched node, with what later containing steps announce that they will change."""
    announced = [
        change
        for step in ctx.policy.of(Phase.CONTAIN)
        if step.spec.announces is not None
        for change in step.spec.announces(ctx.case, node)
    ]
    return UndoRecord(
        case=ctx.case.name,
        owner=ctx.owner,
        at=ctx.now,
        policy=ctx.policy.name,
        faults=tuple(dict.fromkeys(f.slug for f in ctx.case.faults)),
        changes=tuple(announced),
        found_cordoned=node.unschedulable,
        system_uuid=node.system_uuid,
        node_uid=node.uid,
        boot_id=node.boot_id,
        gpus=ctx.case.gpus,
    )
