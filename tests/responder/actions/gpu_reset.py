"""A test-only action: reset one GPU. It acts on one GPU, empties that GPU, and must not be asked for twice.

The device plugin stands still meanwhile. With `together` the board resets all of its GPUs at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from tests.responder.stage import Stage

from gpuheal_responder.actions.action import Action, Context, Inquiry, Outcome, ended
from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.step import ActionSpec, Due, Empties, Progress, ProgressState, Repeat, Scope
from gpuheal_responder.core.world import Need, OperationState, World

TAKES = timedelta(seconds=4)
OPERAND = "nvidia.com/gpu.deploy.device-plugin"
"""The label by which the GPU operator runs the device plugin on a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """`together` is for a board that can only reset all of its GPUs."""

    together: bool = False


@dataclass(slots=True)
class Resetter:
    """Whoever resets GPUs on the simulated metal, once per operation id; faults that a reset does not cure stay."""

    stage: Stage
    takes: timedelta = TAKES
    loses_calls: bool = False
    operations: dict[str, OperationState] = field(default_factory=dict)
    resets: list[str] = field(default_factory=list)
    most_at_once: int = 0
    operand: list[str] = field(default_factory=list)
    """What the operand's label said whenever a reset was asked for or done."""

    async def ask(self, node: str, gpu: str, operation: str) -> None:
        """The reset is under way."""

        def effect() -> None:
            if operation in self.operations or self.loses_calls:
                return
            self.operations[operation] = OperationState.ACCEPTED
            self._look(node)
            under_way = list(self.operations.values()).count(OperationState.ACCEPTED)
            self.most_at_once = max(self.most_at_once, under_way)
            self.stage.sim.schedule.after(self.takes, lambda: self._reset(node, gpu, operation))

        await self.stage.sim.gate.cross("gpu_reset", gpu, effect, detail=operation)

    def _look(self, node: str) -> None:
        if node in self.stage.sim.api.nodes:
            self.operand.append(self.stage.sim.raw(node)["metadata"]["labels"].get(OPERAND, ""))

    def _reset(self, node: str, gpu: str, operation: str) -> None:
        self._look(node)
        self.resets.append(gpu)
        self.operations[operation] = OperationState.SUCCEEDED
        machine = self.stage.sim.fleet[node]
        faults = machine.states[gpu].faults
        for fault in [f for f in faults.values() if "gpu_reset" in f.cured_by]:
            del faults[fault.slug]
            self.stage.latch.latched.pop((node, gpu), None)
        for watcher in machine.watchers:
            watcher.gpus_changed(machine)


def progress(due: Due, case: Case, world: World) -> Progress:
    """Done when the other side says so; failed at the deadline or when it says that."""
    attempt = case.latest(due.step.key, due.target)
    if attempt is None:
        return Progress(state=ProgressState.TODO, reason="gpu-reset-due")
    if not attempt.open:
        return ended(attempt)
    state = world.operations.get(attempt.operation)
    if state is OperationState.SUCCEEDED:
        return Progress(state=ProgressState.DONE, reason="gpu-reset")
    if state is OperationState.NOT_FOUND and attempt.state is AttemptState.INTENT:
        return Progress(state=ProgressState.TODO, reason="gpu-reset-due")
    if world.now - attempt.started_at >= due.deadline:
        return Progress(state=ProgressState.FAILED, reason="gpu-reset-deadline")
    return Progress(state=ProgressState.RUNNING, reason="gpu-resetting")


def action(resetter: Resetter) -> Action:
    """Return the action as a registry entry."""

    async def run(ctx: Context) -> Outcome:
        await resetter.ask(ctx.node.name, ctx.due.target, ctx.attempt.operation)
        return Outcome(state=AttemptState.RUNNING, reason="gpu-resetting")

    async def look(ask: Inquiry) -> OperationState:
        return resetter.operations.get(ask.attempt.operation, OperationState.NOT_FOUND)

    return Action(
        spec=ActionSpec(
            name="gpu_reset",
            phase=Phase.CURE,
            disruptive=True,
            deadline=timedelta(minutes=1),
            params=Params,
            progress=progress,
            scope=Scope.GPU,
            empties=Empties.GPU,
            repeat=Repeat.ONCE,
            needs=frozenset({Need.OPERATIONS}),
            pauses={OPERAND: "false"},
            touches=lambda due, case: case.gpus if due.params.together else (),
            reasons={
                "gpu-reset-due": "the GPU has to be reset",
                "gpu-resetting": "a reset of the GPU was asked for",
                "gpu-reset": "the GPU was reset",
                "gpu-reset-deadline": "the GPU was not back when the reset's time was up",
            },
        ),
        rbac=(),
        run=run,
        look=look,
    )
