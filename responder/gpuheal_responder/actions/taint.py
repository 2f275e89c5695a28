"""Taint the node so that nothing new is scheduled on it, and cordon it, in one PATCH with the undo record.

```yaml
steps:
- taint: {cordon: true}
```
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.actions.action import Action, Context, Outcome
from gpuheal_responder.actions.contain import RBAC, contain
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.life import contained
from gpuheal_responder.core.node import Node, Taint
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import ActionSpec, Due, Progress, ProgressState
from gpuheal_responder.core.undo import TAINT_KEY, has_cordon
from gpuheal_responder.core.world import World

UNHEALTHY = Taint(key=TAINT_KEY, value="true", effect="NoSchedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """`cordon` also sets spec.unschedulable, which kubectl shows and every tool honours."""

    cordon: bool = True


def progress(_due: Due, case: Case, world: World) -> Progress:
    """Done when the node carries this case's undo record and all the marks that it tells of."""
    if not contained(case, world.node):
        return Progress(state=ProgressState.TODO, reason=Reason.NOT_MARKED)
    if world.node is not None and _lifted(world.node):
        return Progress(state=ProgressState.TODO, reason=Reason.MARKS_LIFTED)
    return Progress(state=ProgressState.DONE, reason=Reason.MARKED)


def _lifted(node: Node) -> bool:
    return node.record is not None and has_cordon(node.record) and not node.unschedulable


async def run(ctx: Context) -> Outcome:
    """Mark the node."""
    return await contain(ctx, taints=(UNHEALTHY,), cordon=ctx.due.params.cordon)


ACTION = Action(
    spec=ActionSpec(
        name="taint",
        phase=Phase.CONTAIN,
        disruptive=False,
        marks=True,
        deadline=timedelta(minutes=1),
        params=Params,
        progress=progress,
    ),
    rbac=RBAC,
    run=run,
)
