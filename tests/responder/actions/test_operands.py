"""Operands that a cure pauses: S20. The engine's half, proven on a test-only reset of one GPU."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.responder.actions.gpu_reset import OPERAND, Resetter, action
from tests.responder.stage import LADDER, Stage, policies

from gpuheal_lab.fleet import injection
from gpuheal_lab.fleet.injection import Killed
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_responder.actions.action import Action
from gpuheal_responder.commands.revert import revert
from gpuheal_responder.core.case import Result
from gpuheal_responder.core.undo import HOLD_ANNOTATION
from gpuheal_responder.shell.kube import generate

RESETS = fell_off_bus(cured_by=frozenset({"gpu_reset", "reboot"}))
STEPS: tuple[object, ...] = (*LADDER[:3], "gpu_reset", *LADDER[4:])
SHORT: tuple[object, ...] = ("taint", "drain", "gpu_reset", {"verify": {"evaluations": 2}}, "restore")
Register = Callable[[Action], None]


def staged(register: Register, operand: str = "true", steps: tuple[object, ...] = STEPS) -> tuple[Stage, Resetter, str]:
    """Return a stage whose policy resets GPUs on nodes whose device plugin runs by a label, who resets, and a node."""
    stage = Stage(nodes=3)
    resetter = Resetter(stage)
    register(action(resetter))
    stage.policies = policies("enforce", steps)
    name = stage.names[0]
    label(stage, name, operand)
    stage.advance(3)
    return stage, resetter, name


def label(stage: Stage, name: str, value: str) -> None:
    """Have somebody set the operand's label, or take it off."""

    def change(raw: dict[str, dict[str, dict[str, str]]]) -> None:
        raw["metadata"]["labels"].pop(OPERAND, None)
        if value:
            raw["metadata"]["labels"][OPERAND] = value

    stage.sim.edit(name, change)


def operand(stage: Stage, name: str) -> str:
    """Return what the operand's label says."""
    found: str = stage.sim.raw(name)["metadata"]["labels"].get(OPERAND, "")
    return found


async def resetting(register: Register) -> tuple[Stage, Resetter, str]:
    """Return a stage on which a reset is in progress, for longer than its deadline."""
    stage, resetter, name = staged(register)
    resetter.takes = timedelta(minutes=5)
    stage.break_gpu(fault=RESETS)
    await stage.play(30, until="Wait gpu_reset")
    assert operand(stage, name) == "false"
    return stage, resetter, name


async def test_s20_an_operand_stands_still_while_a_gpu_is_reset_and_goes_on_before_the_proof(
    register: Register,
) -> None:
    """It is paused before the call and until the reset is done, runs when the proof begins, and nothing is left."""
    stage, resetter, name = staged(register)
    before = stage.sim.snapshot(name)
    stage.break_gpu(fault=RESETS)
    await stage.play(60, until="Act verify")
    assert resetter.operand == ["false", "false"]
    assert operand(stage, name) == "true"
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert stage.sim.snapshot(name) == before


async def test_s20_an_operand_goes_on_after_a_reset_that_failed(register: Register) -> None:
    """The deadline passes: the operand runs again before people are told."""
    stage, _, name = await resetting(register)
    await stage.play(120, until="Escalate")
    assert operand(stage, name) == "true"
    assert stage.only_case().closed_at is None


async def test_s20_killed_at_every_boundary_the_operand_runs_in_the_end(register: Register) -> None:
    """A responder killed on either side of any changing call leaves no operand paused, and resets once."""

    async def story() -> tuple[Stage, Resetter, str, bytes]:
        stage, resetter, name = staged(register, steps=SHORT)
        before = stage.sim.snapshot(name)
        stage.break_gpu(fault=RESETS)
        await stage.play(20, until="Act taint")  # what comes before is killed elsewhere
        return stage, resetter, name, before

    stage, _, _, _ = await story()
    stage.sim.gate.kill_at(None)
    await stage.play(until="Done")
    count = stage.sim.gate.crossings
    assert count > 16
    for crossing in range(count):
        stage, resetter, name, before = await story()
        stage.sim.gate.kill_at(crossing)
        for _ in range(60):
            try:
                await stage.round()
            except Killed:
                stage.boot()
            if any(c.closed_at for c in stage.cases()):
                break
            stage.advance()
        assert stage.only_case().result is Result.RESTORED, crossing
        assert stage.sim.snapshot(name) == before, crossing
        assert resetter.operand == ["false", "false"], crossing


async def test_s20_a_revert_lets_the_operand_go_on(register: Register) -> None:
    """`gpuheal revert` in the middle of a reset sets the label back with all other marks."""
    stage, _, name = await resetting(register)
    said = await revert(stage.sim.cluster, [name])
    assert f"label {OPERAND}=true restored" in said[name]
    assert operand(stage, name) == "true"


async def test_s20_an_operand_goes_on_when_its_case_was_deleted(register: Register) -> None:
    """Nobody remembers the reset: the record on the node tells what was paused, and it goes on."""
    stage, _, name = await resetting(register)
    stage.sim.remediations.stored.clear()
    await stage.play(3)
    assert operand(stage, name) == "true"


async def test_s20_an_operand_goes_on_when_the_policy_was_removed(register: Register) -> None:
    """Without a policy nothing is done any more; a person takes the node back, and all marks go."""
    stage, _, name = await resetting(register)
    stage.policies = ()
    await stage.play(3)
    assert stage.heard.words()[-1] == "Hold policy-missing"
    await revert(stage.sim.cluster, [name])
    await stage.play(3)
    assert operand(stage, name) == "true"


async def test_s20_a_node_that_is_deleted_meanwhile_ends_the_case(register: Register) -> None:
    """There is nothing to set back, and the case is over."""
    stage, _, name = await resetting(register)
    stage.sim.fleet[name].cut_power()
    stage.sim.api.delete_node(name)
    await stage.play(10, until="Done")
    assert stage.only_case().result is Result.GONE


@pytest.mark.parametrize("value", ["true", "paused-by-ann", ""])
async def test_s20_a_label_that_somebody_changed_meanwhile_is_theirs(register: Register, value: str) -> None:
    """Whatever a person or another tool made of the label during the reset stays."""
    stage, resetter, name = staged(register)
    stage.break_gpu(fault=RESETS)
    await stage.play(30, until="Wait gpu_reset")
    label(stage, name, value)
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert operand(stage, name) == value
    assert len(resetter.resets) == 1


@pytest.mark.parametrize("value", ["false", ""])
async def test_s20_an_operand_that_did_not_run_before_does_not_run_after(register: Register, value: str) -> None:
    """What stood still already, or is not run by a label here, is not ours to start."""
    stage, _, name = staged(register, value)
    stage.break_gpu(fault=RESETS)
    await stage.play(30, until="Wait gpu_reset")
    assert operand(stage, name) == value
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert operand(stage, name) == value


async def test_s20_an_operand_goes_on_when_the_last_of_two_resets_is_done(register: Register) -> None:
    """The first reset that ends does not start the operand under the second."""
    stage, resetter, name = staged(register)
    stage.break_gpu(gpu=1, fault=RESETS)
    stage.break_gpu(gpu=3, fault=RESETS)
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert resetter.operand == ["false"] * 4
    assert operand(stage, name) == "true"


async def test_s20_an_operand_goes_on_while_a_reset_that_never_began_is_held(register: Register) -> None:
    """The call was lost and a person holds the node: it may take hours, and the operand does not stand still for it."""
    stage, resetter, name = staged(register)
    resetter.loses_calls = True
    stage.sim.gate.fail_next("gpu_reset", injection.timeout(), times=50)
    stage.break_gpu(fault=RESETS)
    await stage.play(30, until="Act gpu_reset")
    assert operand(stage, name) == "false"
    stage.sim.edit(name, lambda raw: raw["metadata"].setdefault("annotations", {}).update({HOLD_ANNOTATION: "ann"}))
    assert (await stage.play(5))[-1].endswith(" held")
    assert operand(stage, name) == "true"
    stage.sim.gate.clear()
    resetter.loses_calls = False
    stage.sim.edit(name, lambda raw: raw["metadata"]["annotations"].pop(HOLD_ANNOTATION))
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert resetter.operand == ["false", "false"]
    assert operand(stage, name) == "true"


async def test_s20_a_resume_that_is_refused_for_now_is_made_later(register: Register) -> None:
    """The API server fails for a while: nothing is proven or given back before the operand runs."""
    stage, _, name = staged(register)
    stage.break_gpu(fault=RESETS)
    await stage.play(30, until="Wait gpu_reset")
    stage.sim.gate.fail_next("mark", injection.server_error(), times=5)
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert operand(stage, name) == "true"


async def test_s20_no_gpu_is_reset_while_a_pod_that_no_drain_moves_uses_it(register: Register) -> None:
    """A DaemonSet's pod holds GPUs of which nobody can tell which they are: the reset is refused, and it is told."""
    stage, resetter, name = staged(register)
    stage.sim.workloads.daemonset("monitor", gpus=1)
    stage.advance(3)
    stage.break_gpu(fault=RESETS)
    await stage.play(30)
    assert stage.heard.words()[-1].endswith(" gpu-in-use")
    assert resetter.resets == []
    assert operand(stage, name) == "true"


async def test_s20_a_board_that_resets_all_its_gpus_together_needs_all_of_them_unused(register: Register) -> None:
    """A pod on another GPU of the board stands in the way; without `together` it does not."""
    together = (*LADDER[:3], {"gpu_reset": {"together": True}}, *LADDER[4:])
    for steps, expected in ((together, "Hold gpu_reset gpu-in-use"), (STEPS, "Done restored")):
        stage, _, name = staged(register, steps=steps)
        stage.sim.workloads.deployment("web", replicas=1, nodes=(name,))
        (pod,) = [p.ref for p in await stage.sim.cluster.pods_on(name) if p.gpus]
        stage.sim.cluster.holds = {pod: (stage.sim.fleet[name].spec.gpus[0].uuid,)}
        stage.advance(3)
        stage.break_gpu(fault=RESETS)
        said = await stage.play(60)
        assert expected in {w.replace(f"/{stage.sim.fleet[name].spec.gpus[3].uuid}", "") for w in said}


def test_s20_our_account_may_change_the_labels_of_operands_that_actions_pause(register: Register) -> None:
    """The admission policy names them, and no label when no action pauses anything."""
    assert OPERAND not in generate.text("admission.yaml")
    register(action(Resetter(Stage(nodes=1))))
    assert OPERAND in generate.text("admission.yaml")
