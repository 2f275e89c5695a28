"""Give the node back: undo exactly what the undo record says we did, conditions first, marks and record last.

```yaml
steps:
- taint
- verify
- restore
```
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.actions.action import Action, Context, Outcome
from gpuheal_responder.actions.contain import RBAC
from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.step import ActionSpec, Phase, Progress, ProgressState, Step
from gpuheal_responder.core.undo import release
from gpuheal_responder.core.world import World
from gpuheal_responder.ports import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """No parameters."""


def progress(_step: Step, _case: Case, world: World) -> Progress:
    """Done when the node carries no undo record any more."""
    if world.node is not None and world.node.undo is None:
        return Progress(state=ProgressState.DONE, reason="restored")
    return Progress(state=ProgressState.TODO, reason="proven")


async def undo(cluster: Cluster, node: Node) -> None:
    """Take everything of ours off the node; the undo record goes last, so a crash in between is finished later."""
    record = node.undo
    if record is None:
        return
    if record.conditions:
        before = {c.type for c in record.conditions_before}
        gone = tuple(kind for kind in record.conditions if kind not in before)
        await cluster.set_conditions(node, record.conditions_before, gone)
        fresh = await cluster.node(node.name)
        if fresh is None or fresh.undo is None:
            return
        node = fresh
    await cluster.mark(node, release(node))


async def run(ctx: Context) -> Outcome:
    """Undo the marks."""
    await undo(ctx.cluster, ctx.node)
    return Outcome(state=AttemptState.SUCCEEDED, reason="restored")


ACTION = Action(
    spec=ActionSpec(
        name="restore",
        phase=Phase.RETURN,
        disruptive=True,
        deadline=timedelta(minutes=5),
        params=Params,
        progress=progress,
    ),
    rbac=RBAC,
    run=run,
)
