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
from gpuheal_responder.core.node import Condition
from gpuheal_responder.core.step import ActionSpec, Phase, Progress, ProgressState, Step
from gpuheal_responder.core.world import World

DEFAULT_TYPE = "GPUHealthy"
_PREFIXES = {
    "gpu-memory": "GPUMemoryHealthy",
    "gpu-row": "GPUMemoryHealthy",
    "gpu-sram": "GPUMemoryHealthy",
    "gpu-ecc": "GPUMemoryHealthy",
    "nvlink": "NVLinkHealthy",
    "nvswitch": "NVLinkHealthy",
    "fabric": "NVLinkHealthy",
    "gpu-gsp": "GPUDriverHealthy",
    "gpu-driver": "GPUDriverHealthy",
    "device-plugin": "GPUDriverHealthy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """No parameters."""


def condition_type(fault: str) -> str:
    """Return the condition type that tells of this fault."""
    return next((kind for prefix, kind in _PREFIXES.items() if fault.startswith(prefix)), DEFAULT_TYPE)


def condition_types(case: Case) -> tuple[str, ...]:
    """Return the condition types of a case's faults, each once."""
    return tuple(dict.fromkeys(condition_type(f.slug) for f in case.faults))


def progress(_step: Step, _case: Case, world: World) -> Progress:
    """Done when every condition that the undo record announces is False on the node."""
    node = world.node
    if node is None or node.undo is None:
        return Progress(state=ProgressState.TODO, reason="not-published")
    down = {c.type for c in node.conditions if c.status == "False"}
    if set(node.undo.conditions) <= down:
        return Progress(state=ProgressState.DONE, reason="published")
    return Progress(state=ProgressState.TODO, reason="not-published")


async def run(ctx: Context) -> Outcome:
    """Write the conditions that the undo record announces, as False with the fault as reason."""
    types = ctx.node.undo.conditions if ctx.node.undo is not None else ()
    faults = {condition_type(f.slug): f for f in reversed(ctx.case.faults)}
    put = []
    for kind in types:
        fault = faults.get(kind)
        slug = fault.slug if fault else "unknown"
        where = f" on {fault.target.gpu_uuid}" if fault and fault.target.gpu_uuid else ""
        reason = "".join(part.capitalize() for part in slug.split("-"))
        put.append(Condition(type=kind, status="False", reason=reason, message=f"{slug}{where}, case {ctx.case.name}"))
    await ctx.cluster.set_conditions(ctx.node, put, ())
    return Outcome(state=AttemptState.SUCCEEDED, reason="published")


ACTION = Action(
    spec=ActionSpec(
        name="condition",
        phase=Phase.CONTAIN,
        disruptive=False,
        deadline=timedelta(minutes=1),
        params=Params,
        progress=progress,
    ),
    rbac=(Rule(group="", resources=("nodes/status",), verbs=("patch",)),),
    run=run,
)
