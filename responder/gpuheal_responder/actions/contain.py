"""Marking a node: taint, cordon and undo record in one PATCH. `taint` and `cordon` are two doors to it."""

from __future__ import annotations

from dataclasses import replace

from gpuheal_responder.actions.action import Context, Outcome, Rule
from gpuheal_responder.actions.condition import condition_types
from gpuheal_responder.core.case import AttemptState
from gpuheal_responder.core.node import Node, Taint, UndoRecord
from gpuheal_responder.core.undo import mark, same_taint
from gpuheal_responder.errors import Permanent

RBAC = (Rule(group="", resources=("nodes",), verbs=("get", "list", "watch", "patch")),)


async def contain(ctx: Context, *, taints: tuple[Taint, ...], cordon: bool) -> Outcome:
    """Put the marks on the node, recording only what was not there before; repeating changes nothing."""
    node = ctx.node
    if node.undo is not None and node.undo.case != ctx.case.name:
        raise Permanent("marked-by-other", f"{node.name} carries the undo record of {node.undo.case}")
    record = node.undo or _record(ctx, node)
    fresh = tuple(t for t in taints if not any(same_taint(t, there) for there in node.taints))
    record = replace(
        record,
        taints=(*record.taints, *fresh),
        cordoned=record.cordoned or (cordon and not node.unschedulable),
    )
    await ctx.cluster.mark(node, mark(node, record))
    return Outcome(state=AttemptState.SUCCEEDED, reason="marked")


def _record(ctx: Context, node: Node) -> UndoRecord:
    wants_condition = any(s.action == "condition" for s in ctx.policy.steps)
    types = condition_types(ctx.case) if wants_condition else ()
    return UndoRecord(
        case=ctx.case.name,
        owner=ctx.owner,
        at=ctx.now,
        policy=ctx.policy.name,
        faults=tuple(dict.fromkeys(f.slug for f in ctx.case.faults)),
        conditions=types,
        conditions_before=tuple(c for c in node.conditions if c.type in types),
        system_uuid=node.system_uuid,
        node_uid=node.uid,
        boot_id=node.boot_id,
        gpus=ctx.case.gpus,
    )
