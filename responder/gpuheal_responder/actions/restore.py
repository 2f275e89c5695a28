"""Give the node back: undo exactly what the undo record says we did, conditions first, marks and record last.

```yaml
steps:
- taint
- verify
- restore
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.actions.action import Action, Context, Outcome
from gpuheal_responder.actions.contain import RBAC
from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import ActionSpec, Due, Progress, ProgressState
from gpuheal_responder.core.undo import release, reverse
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import Transient
from gpuheal_responder.ports import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """No parameters."""


def progress(_due: Due, _case: Case, world: World) -> Progress:
    """Done when the node carries no undo record any more."""
    if world.node is not None and world.node.undo is None:
        return Progress(state=ProgressState.DONE, reason=Reason.RESTORED)
    return Progress(state=ProgressState.TODO, reason=Reason.PROVEN)


async def undo(cluster: Cluster, node: Node, *, may_act: Callable[[], bool] = lambda: True) -> None:
    """Take everything that the node's record says off it; the record goes last, so a crash is finished later.

    Before each write `may_act` is asked, and whether it is still the same case's record: Transient `node-changed` or
    `not-leader` otherwise.
    """
    record = node.record
    if record is None:
        return
    back = reverse(node, record)
    if back.put or back.remove:
        _led(may_act)
        await cluster.set_conditions(node, back.put, back.remove)
        fresh = await cluster.node(node.name)
        if fresh is None or fresh.undo is None:
            return
        if fresh.uid != node.uid or fresh.record is None or fresh.record.case != record.case:
            raise Transient(
                Reason.NODE_CHANGED, f"node {node.name} changed while its taint and cordon were being removed"
            )
        node = fresh
    _led(may_act)
    await cluster.mark(node, release(node))


def _led(may_act: Callable[[], bool]) -> None:
    if not may_act():
        raise Transient(Reason.NOT_LEADER, "another replica is the leader now")


async def run(ctx: Context) -> Outcome:
    """Undo the marks, if they are this case's."""
    record = ctx.node.record
    if record is not None and record.case != ctx.case.name:
        raise Transient(Reason.NODE_CHANGED, f"node {ctx.node.name} carries the undo record of {record.case}")
    await undo(ctx.cluster, ctx.node, may_act=ctx.may_act)
    return Outcome(state=AttemptState.SUCCEEDED, reason=Reason.RESTORED)


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
