"""Empty the node through the Eviction API, honouring PodDisruptionBudgets; at the deadline name who blocks it.

DaemonSet pods, mirror pods and finished pods stay. Pods are never deleted: an eviction sets DisruptionTarget, which
keeps it out of a Job's backoffLimit. Before a cure of one GPU only the pods that hold this GPU leave.

```yaml
steps:
- taint
- drain: {deadline: 30m}
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.actions.action import Action, Context, Outcome, Rule
from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.node import Pod
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import ActionSpec, Due, Progress, ProgressState
from gpuheal_responder.core.world import Need, World
from gpuheal_responder.ports import EvictionResult

NAMED = 8
AT_ONCE = 50
"""Evictions in one pass; then the world is looked at again before the next."""

PASS = timedelta(seconds=5)
"""A pass takes no longer, but for the eviction under way: what people do meanwhile is heard at the next look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """No parameters besides the deadline."""


def leaving(pods: Sequence[Pod], target: str) -> list[Pod]:
    """Return the pods that have to leave: all that a drain removes, or of those the holders of one GPU."""
    return [p for p in pods if p.evictable and (not target or p.uses(target))]


def progress(due: Due, case: Case, world: World) -> Progress:
    """Done when no pod is left that has to leave; failed at the deadline, with the last blockers."""
    attempt = case.latest(due.step.key, due.target)
    if attempt is not None and attempt.state is AttemptState.FAILED:
        return Progress(state=ProgressState.FAILED, reason=attempt.reason, detail=attempt.detail)
    if world.pods is None and attempt is not None and attempt.state is AttemptState.SUCCEEDED:
        return Progress(state=ProgressState.DONE, reason=Reason.EMPTY)
    if world.pods is None:
        if attempt is not None and attempt.open:
            reason = attempt.reason or Reason.DRAINING
            return Progress(state=ProgressState.RUNNING, reason=reason, detail=attempt.detail)
        return Progress(state=ProgressState.TODO, reason=Reason.PODS_UNKNOWN)
    left = [p.ref for p in leaving(world.pods, due.target)]
    if not left:
        return Progress(state=ProgressState.DONE, reason=Reason.EMPTY)
    if attempt is None or not attempt.open:
        return Progress(state=ProgressState.TODO, reason=Reason.PODS_LEFT, detail=_names(left))
    if world.now - attempt.started_at >= due.deadline:
        blocked = attempt.detail if attempt.reason == Reason.EVICTION_BLOCKED else ""
        detail = blocked or f"still on the node: {_names(left)}"
        return Progress(state=ProgressState.FAILED, reason=Reason.DRAIN_DEADLINE, detail=detail)
    if attempt.reason == Reason.EVICTION_BLOCKED:
        return Progress(state=ProgressState.RUNNING, reason=Reason.EVICTION_BLOCKED, detail=attempt.detail)
    return Progress(state=ProgressState.RUNNING, reason=Reason.PODS_LEAVING, detail=_names(left))


async def run(ctx: Context) -> Outcome:
    """Make one pass of evictions; whether a pod may go is asked right before its own eviction."""
    listed, counts = await _list(ctx)
    blocked, made = [], 0
    loop = asyncio.get_running_loop()
    until = loop.time() + PASS.total_seconds()
    for ref in list(listed):
        if made >= AT_ONCE or not ctx.may_act() or (made and loop.time() >= until):
            break
        pod = listed.get(ref)
        if pod is None or pod.terminating:
            continue
        async with ctx.turns.of(_owner(pod)):
            if ctx.turns.count(_owner(pod)) != counts.get(_owner(pod), 0):
                listed, counts = await _list(ctx)
                pod = listed.get(ref)
            if pod is None or pod.terminating:
                continue
            if pod.protected:
                blocked.append(f"{ref} must not be evicted: {pod.protected}")
                continue
            answer = await ctx.cluster.evict(pod)
            made += 1
        counts[_owner(pod)] = ctx.turns.count(_owner(pod))
        if answer.result is EvictionResult.BLOCKED:
            blocked.append(f"{ref} blocked: {answer.blocker or 'a PodDisruptionBudget'}")
    if blocked:
        return Outcome(state=AttemptState.RUNNING, reason=Reason.EVICTION_BLOCKED, detail=_names(blocked))
    reason = Reason.PODS_LEAVING if listed else Reason.EMPTY
    return Outcome(state=AttemptState.RUNNING, reason=reason, detail=_names(list(listed)))


async def _list(ctx: Context) -> tuple[dict[str, Pod], dict[str, int]]:
    counts = ctx.turns.counts()  # from before: what is evicted while we list may still be in the list
    pods = {p.ref: p for p in leaving(await ctx.cluster.pods_on(ctx.node.name), ctx.due.target)}
    return pods, {_owner(p): counts.get(_owner(p), 0) for p in pods.values()}


def _owner(pod: Pod) -> str:
    return f"{pod.namespace}/{pod.owner_kind}/{pod.owner_name or pod.name}"


def _names(names: Sequence[str]) -> str:
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
        needs=frozenset({Need.PODS}),
    ),
    rbac=(
        Rule(group="", resources=("pods",), verbs=("list",)),
        Rule(group="", resources=("pods/eviction",), verbs=("create",)),
    ),
    run=run,
)
