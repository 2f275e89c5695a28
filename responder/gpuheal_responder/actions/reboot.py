"""Reboot the machine through a provider, and see it come back with another boot id.

The call carries an operation id, so a provider that got it already does nothing more. After a crash between intent and
call the provider is asked; an answer that nobody can give goes to people.

```yaml
steps:
- taint
- drain
- reboot: {provider: job, deadline: 20m}
```
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.actions.action import Action, Context, Outcome, Rule
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.step import ActionSpec, Phase, Progress, ProgressState, Step
from gpuheal_responder.core.world import OperationState, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """`provider` names who reboots: `job` (a privileged Job on the node) or another; absent = the site's default."""

    provider: str = ""


def progress(step: Step, case: Case, world: World) -> Progress:
    """Done when the boot id differs from the one at the start and the node is Ready; failed at the deadline."""
    attempt = case.latest(step.key)
    if attempt is None:
        return Progress(state=ProgressState.TODO, reason="reboot-due")
    if not attempt.open:
        done = attempt.state is AttemptState.SUCCEEDED
        state = ProgressState.DONE if done else ProgressState.FAILED
        return Progress(state=state, reason=attempt.reason, detail=attempt.detail)
    return _open(step, attempt, world)


def _open(step: Step, attempt: Attempt, world: World) -> Progress:
    node = world.node
    rebooted = node is not None and bool(node.boot_id) and node.boot_id != attempt.boot_id
    if rebooted and node is not None and node.ready:
        return Progress(
            state=ProgressState.DONE, reason="rebooted", detail=f"boot id {attempt.boot_id} → {node.boot_id}"
        )
    if world.now - attempt.started_at >= step.deadline:
        detail = "the node has another boot id but is not Ready" if rebooted else "the boot id has not changed"
        return Progress(state=ProgressState.FAILED, reason="reboot-deadline", detail=detail)
    if rebooted:
        return Progress(state=ProgressState.RUNNING, reason="booting", detail="waiting for Ready")
    match world.operation:
        case OperationState.FAILED:
            return Progress(state=ProgressState.FAILED, reason="reboot-failed", detail="the provider says it failed")
        case OperationState.NOT_FOUND if attempt.state is AttemptState.INTENT:
            return Progress(state=ProgressState.TODO, reason="reboot-due", detail="the provider never got the call")
        case OperationState.UNKNOWABLE if attempt.state is AttemptState.INTENT:
            return Progress(
                state=ProgressState.FAILED, reason="outcome-unknown", detail="nobody knows whether the call was made"
            )
    return Progress(state=ProgressState.RUNNING, reason="rebooting", detail="waiting for another boot id")


async def run(ctx: Context) -> Outcome:
    """Ask the provider for a reboot under the attempt's operation id."""
    await ctx.machines.reboot(ctx.node, ctx.attempt.operation, ctx.step.params.provider)
    return Outcome(state=AttemptState.RUNNING, reason="rebooting", detail=f"provider {ctx.step.params.provider}")


ACTION = Action(
    spec=ActionSpec(
        name="reboot",
        phase=Phase.CURE,
        disruptive=True,
        once=True,
        deadline=timedelta(minutes=20),
        params=Params,
        progress=progress,
    ),
    rbac=(Rule(group="batch", resources=("jobs",), verbs=("get", "create")),),
    run=run,
)
