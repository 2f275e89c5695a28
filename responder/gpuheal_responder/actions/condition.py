"""Publish the fault as a node condition, for schedulers, node-readiness rules and people.

```yaml
steps:
- taint
- condition
```
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.actions.action import Action, Context, Outcome, Rule
from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.node import Change, Condition, Node
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import ActionSpec, Due, Progress, ProgressState
from gpuheal_responder.core.undo import conditioned, conditions_of
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import Transient
from gpuheal_rules.catalogue.load import load_catalogue

DEFAULT_TYPE = "GPUHealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """No parameters."""


def condition_type(fault: str) -> str:
    """Return the condition type that the catalogue gives this fault; GPUHealthy for a fault it does not know."""
    known = load_catalogue().faults.get(fault)
    return DEFAULT_TYPE if known is None else known.condition


def condition_types(case: Case) -> tuple[str, ...]:
    """Return the condition types of a case's faults, each once."""
    return tuple(dict.fromkeys(condition_type(f.slug) for f in case.faults))


def announces(case: Case, node: Node) -> tuple[Change, ...]:
    """Return the conditions that this step will write, with what stands in their place now."""
    before = {c.type: c for c in node.conditions}
    return tuple(conditioned(kind, before.get(kind)) for kind in condition_types(case))


def progress(_due: Due, _case: Case, world: World) -> Progress:
    """Done when every condition that the undo record announces is False on the node."""
    node = world.node
    if node is None or node.record is None:
        return Progress(state=ProgressState.TODO, reason=Reason.NOT_PUBLISHED)
    down = {c.type for c in node.conditions if c.status == "False"}
    if set(conditions_of(node.record)) <= down:
        return Progress(state=ProgressState.DONE, reason=Reason.PUBLISHED)
    return Progress(state=ProgressState.TODO, reason=Reason.NOT_PUBLISHED)


async def run(ctx: Context) -> Outcome:
    """Write the conditions that the undo record announces, as False with the fault as reason."""
    record = ctx.node.record
    if record is None or record.case != ctx.case.name:
        raise Transient(
            Reason.NODE_CHANGED, f"node {ctx.node.name} no longer has the taint and undo record of {ctx.case.name}"
        )
    types = conditions_of(record)
    faults = {condition_type(f.slug): f for f in reversed(ctx.case.faults)}
    put = []
    for kind in types:
        fault = faults.get(kind)
        slug = fault.slug if fault else "unknown"
        where = f" on {fault.target.gpu_uuid}" if fault and fault.target.gpu_uuid else ""
        reason = "".join(part.capitalize() for part in slug.split("-"))
        put.append(Condition(type=kind, status="False", reason=reason, message=f"{slug}{where}, case {ctx.case.name}"))
    await ctx.cluster.set_conditions(ctx.node, put, ())
    return Outcome(state=AttemptState.SUCCEEDED, reason=Reason.PUBLISHED)


ACTION = Action(
    spec=ActionSpec(
        name="condition",
        phase=Phase.CONTAIN,
        disruptive=False,
        deadline=timedelta(minutes=1),
        params=Params,
        progress=progress,
        announces=announces,
    ),
    rbac=(Rule(group="", resources=("nodes/status",), verbs=("patch",)),),
    run=run,
)
