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
from gpuheal_responder.core.node import Taint
from gpuheal_responder.core.step import ActionSpec, Phase, Progress, ProgressState, Step
from gpuheal_responder.core.undo import TAINT_KEY
from gpuheal_responder.core.world import World

UNHEALTHY = Taint(key=TAINT_KEY, value="true", effect="NoSchedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """`cordon` also sets spec.unschedulable, which kubectl shows and every tool honours."""

    cordon: bool = True


def progress(_step: Step, case: Case, world: World) -> Progress:
    """Done when the node carries this case's undo record; the PATCH that wrote it wrote the taint."""
    undo = world.node.undo if world.node else None
    if undo is not None and undo.case == case.name:
        return Progress(state=ProgressState.DONE, reason="marked")
    return Progress(state=ProgressState.TODO, reason="not-marked")


async def run(ctx: Context) -> Outcome:
    """Mark the node."""
    return await contain(ctx, taints=(UNHEALTHY,), cordon=ctx.step.params.cordon)


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
