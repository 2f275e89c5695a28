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

from gpuheal_responder.actions.action import Action, Context, Inquiry, Outcome, Rule, ended, overdue
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import ActionSpec, Due, Empties, Progress, ProgressState, Repeat
from gpuheal_responder.core.world import Need, OperationState, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """`provider` names who reboots: `job` (a privileged Job on the node) or another; absent = the site's default."""

    provider: str = ""


def progress(due: Due, case: Case, world: World) -> Progress:
    """Done when the boot id differs from the one at the start and the node is Ready; failed at the deadline."""
    attempt = case.latest(due.step.key, due.target)
    if attempt is None:
        return Progress(state=ProgressState.TODO, reason=Reason.REBOOT_DUE)
    return _open(due, attempt, world) if attempt.open else ended(attempt)


def _open(due: Due, attempt: Attempt, world: World) -> Progress:
    node = world.node
    rebooted = node is not None and bool(node.boot_id) and node.boot_id != attempt.boot_id
    if rebooted and node is not None and node.ready:
        return Progress(
            state=ProgressState.DONE, reason=Reason.REBOOTED, detail=f"boot ID {attempt.boot_id} → {node.boot_id}"
        )
    if overdue(due, attempt, world.now):
        detail = "the boot ID changed, but the node is not Ready" if rebooted else "the boot ID has not changed"
        return Progress(state=ProgressState.FAILED, reason=Reason.REBOOT_DEADLINE, detail=detail)
    if rebooted:
        return Progress(state=ProgressState.RUNNING, reason=Reason.BOOTING, detail="waiting for the node to be Ready")
    intent = attempt.state is AttemptState.INTENT
    match world.operations.get(attempt.operation):
        case OperationState.FAILED:
            detail = "the provider reports that the reboot failed"
            return Progress(state=ProgressState.FAILED, reason=Reason.REBOOT_FAILED, detail=detail)
        case OperationState.NOT_FOUND if intent:
            detail = "the provider never received the request"
            return Progress(state=ProgressState.TODO, reason=Reason.REBOOT_DUE, detail=detail)
        case OperationState.UNKNOWABLE if intent:
            detail = "the provider cannot tell whether it received the request"
            return Progress(state=ProgressState.FAILED, reason=Reason.OUTCOME_UNKNOWN, detail=detail)
    return Progress(state=ProgressState.RUNNING, reason=Reason.REBOOTING, detail="waiting for a new boot ID")


async def run(ctx: Context) -> Outcome:
    """Ask the provider for a reboot under the attempt's operation id."""
    provider = _asked(ctx.due, ctx.attempt)
    await ctx.machines.reboot(ctx.node, ctx.attempt.operation, provider)
    detail = f"provider {provider}" if provider else "the site's default provider"
    return Outcome(state=AttemptState.RUNNING, reason=Reason.REBOOTING, detail=detail)


async def look(ask: Inquiry) -> OperationState:
    """Return what the provider knows of the operation."""
    return await ask.machines.lookup(ask.node, ask.attempt.operation, _asked(ask.due, ask.attempt))


async def withdraw(ask: Inquiry) -> None:
    """Make sure that a reboot that has not happened yet never will."""
    await ask.machines.withdraw(ask.node, ask.attempt.operation, _asked(ask.due, ask.attempt))


def _asked(due: Due, attempt: Attempt) -> str:
    """Return whom the attempt was bound to when its intent was written, else whom the policy names."""
    return attempt.provider or str(due.params.provider)


ACTION = Action(
    spec=ActionSpec(
        name="reboot",
        phase=Phase.CURE,
        disruptive=True,
        empties=Empties.NODE,
        repeat=Repeat.ONCE,
        needs=frozenset({Need.OPERATIONS}),
        deadline=timedelta(minutes=20),
        params=Params,
        progress=progress,
        provider=lambda due: str(due.params.provider),
    ),
    rbac=(Rule(group="batch", resources=("jobs",), verbs=("get", "create", "delete")),),
    run=run,
    look=look,
    withdraw=withdraw,
)
