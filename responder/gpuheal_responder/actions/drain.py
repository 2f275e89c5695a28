"""Empty the node through the Eviction API, honouring PodDisruptionBudgets; at the deadline name who blocks it.

DaemonSet pods, mirror pods and finished pods stay. Pods are never deleted: an eviction sets DisruptionTarget, which
keeps it out of a Job's backoffLimit.

```yaml
steps:
- taint
- drain: {deadline: 30m}
```
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.actions.action import Action, Context, Outcome, Rule
from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.step import ActionSpec, Phase, Progress, ProgressState, Step
from gpuheal_responder.core.world import World
from gpuheal_responder.ports import EvictionResult

NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """No parameters besides the deadline."""


def progress(step: Step, case: Case, world: World) -> Progress:
    """Done when no pod is left that a drain removes; failed at the deadline, with the last blockers."""
    attempt = case.latest(step.key)
    if attempt is not None and attempt.state is AttemptState.FAILED:
        return Progress(state=ProgressState.FAILED, reason=attempt.reason, detail=attempt.detail)
    if world.pods is None and attempt is not None and attempt.state is AttemptState.SUCCEEDED:
        return Progress(state=ProgressState.DONE, reason="empty")
    if world.pods is None:
        if attempt is not None and attempt.open:
            return Progress(state=ProgressState.RUNNING, reason=attempt.reason or "draining", detail=attempt.detail)
        return Progress(state=ProgressState.TODO, reason="pods-unknown")
    left = [p.ref for p in world.pods if p.evictable]
    if not left:
        return Progress(state=ProgressState.DONE, reason="empty")
    if attempt is None or not attempt.open:
        return Progress(state=ProgressState.TODO, reason="pods-left", detail=_names(left))
    if world.now - attempt.started_at >= step.deadline:
        blocked = attempt.detail if attempt.reason == "eviction-blocked" else ""
        detail = blocked or f"still there: {_names(left)}"
        return Progress(state=ProgressState.FAILED, reason="drain-deadline", detail=detail)
    if attempt.reason == "eviction-blocked":
        return Progress(state=ProgressState.RUNNING, reason="eviction-blocked", detail=attempt.detail)
    return Progress(state=ProgressState.RUNNING, reason="pods-leaving", detail=_names(left))


async def run(ctx: Context) -> Outcome:
    """Make one pass of evictions over the pods that are there now."""
    blocked = []
    left = [p for p in await ctx.cluster.pods_on(ctx.node.name) if p.evictable]
    for pod in left:
        if pod.terminating:
            continue
        answer = await ctx.cluster.evict(pod)
        if answer.result is EvictionResult.BLOCKED:
            blocked.append(f"{pod.ref} blocked by {answer.blocker or 'a PodDisruptionBudget'}")
    if blocked:
        return Outcome(state=AttemptState.RUNNING, reason="eviction-blocked", detail=_names(blocked))
    return Outcome(
        state=AttemptState.RUNNING, reason="pods-leaving" if left else "empty", detail=_names([p.ref for p in left])
    )


def _names(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


ACTION = Action(
    spec=ActionSpec(
        name="drain",
        phase=Phase.EMPTY,
        disruptive=True,
        deadline=timedelta(minutes=30),
        params=Params,
        progress=progress,
    ),
    rbac=(
        Rule(group="", resources=("pods",), verbs=("get", "list")),
        Rule(group="", resources=("pods/eviction",), verbs=("create",)),
    ),
    run=run,
)
