"""Cordon the node without a taint of ours, for clusters whose tools know only spec.unschedulable.

```yaml
steps:
- cordon
```
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.actions.action import Action, Context, Outcome
from gpuheal_responder.actions.contain import RBAC, contain
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.life import contained
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import ActionSpec, Due, Progress, ProgressState
from gpuheal_responder.core.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """No parameters."""


def progress(_due: Due, case: Case, world: World) -> Progress:
    """Done when the node is unschedulable under this case's undo record; a foreign cordon serves as well as ours."""
    node = world.node
    if node is not None and contained(case, node) and node.unschedulable:
        return Progress(state=ProgressState.DONE, reason=Reason.CORDONED)
    return Progress(state=ProgressState.TODO, reason=Reason.NOT_CORDONED)


async def run(ctx: Context) -> Outcome:
    """Mark the node."""
    return await contain(ctx, taints=(), cordon=True)


ACTION = Action(
    spec=ActionSpec(
        name="cordon",
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
