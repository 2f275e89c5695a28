"""A test-only action: replace the machine. The Node object goes, and another machine takes its name, or none does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from tests.responder.stage import Stage

from gpuheal_responder.actions.action import Action, Context, Inquiry, Outcome, ended
from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.step import ActionSpec, Due, Empties, Progress, ProgressState, Repeat
from gpuheal_responder.core.world import Need, OperationState, World

LEAVES, COMES = timedelta(seconds=2), timedelta(seconds=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """No parameters."""


@dataclass(slots=True)
class Vendor:
    """Whoever swaps machines: `delivers` says whether another one comes, `rejoins` whether the old one is put back."""

    stage: Stage
    delivers: bool = True
    rejoins: bool = False
    operations: dict[str, OperationState] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def ask(self, node: str, operation: str) -> None:
        """The machine is being replaced, once per operation id."""

        def effect() -> None:
            if operation in self.operations:
                return
            self.operations[operation] = OperationState.ACCEPTED
            self.asked.append(node)
            self.stage.sim.schedule.after(LEAVES, lambda: self._leave(node))
            self.stage.sim.schedule.after(COMES, lambda: self._come(node, operation))

        await self.stage.sim.gate.cross("replace", node, effect, detail=operation)

    def _leave(self, node: str) -> None:
        self.stage.sim.fleet[node].cut_power()
        self.stage.sim.api.delete_node(node)

    def _come(self, node: str, operation: str) -> None:
        self.operations[operation] = OperationState.SUCCEEDED if self.delivers else OperationState.FAILED
        if self.delivers:
            self.stage.sim.swap(node)
        elif self.rejoins:
            self.stage.sim.rejoin(node)


def progress(due: Due, case: Case, world: World) -> Progress:
    """Done or failed when the vendor says so; the node need not be there."""
    attempt = case.latest(due.step.key, due.target)
    if attempt is None:
        return Progress(state=ProgressState.TODO, reason="replace-due")
    if not attempt.open:
        return ended(attempt)
    match world.operations.get(attempt.operation):
        case OperationState.SUCCEEDED:
            return Progress(state=ProgressState.DONE, reason="replaced")
        case OperationState.FAILED:
            return Progress(state=ProgressState.FAILED, reason="replace-failed", detail="no machine is to be had")
        case OperationState.NOT_FOUND if attempt.state is AttemptState.INTENT:
            return Progress(state=ProgressState.TODO, reason="replace-due")
    if world.now - attempt.started_at >= due.deadline:
        return Progress(state=ProgressState.FAILED, reason="replace-deadline", detail="timed out")
    return Progress(state=ProgressState.RUNNING, reason="replacing", detail="waiting for another machine")


def action(vendor: Vendor) -> Action:
    """Return the action as a registry entry."""

    async def run(ctx: Context) -> Outcome:
        await vendor.ask(ctx.node.name, ctx.attempt.operation)
        return Outcome(state=AttemptState.RUNNING, reason="replacing")

    async def look(ask: Inquiry) -> OperationState:
        return vendor.operations.get(ask.attempt.operation, OperationState.NOT_FOUND)

    return Action(
        spec=ActionSpec(
            name="replace",
            phase=Phase.CURE,
            disruptive=True,
            deadline=timedelta(minutes=2),
            params=Params,
            progress=progress,
            empties=Empties.NODE,
            repeat=Repeat.ONCE,
            survives_node=True,
            needs=frozenset({Need.OPERATIONS}),
            reasons={
                "replace-due": "the machine has to be replaced",
                "replacing": "another machine was asked for",
                "replaced": "another machine has taken the node's name",
                "replace-failed": "no other machine is to be had",
                "replace-deadline": "no other machine came in time",
            },
        ),
        rbac=(),
        run=run,
        look=look,
    )
