"""What brings the next cure after one whose proof failed (S09), and whose state a proof is about (S08)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.responder.stage import LADDER, Stage
from tests.safety.test_whose import held_by_a_budget, open_the_budget

from gpuheal_responder.core.case import Result
from gpuheal_responder.core.sighting import Strength, Witness, WitnessClass

TWO_REBOOTS = (*LADDER[:4], {"reboot": {"provider": "lab", "deadline": "2m"}}, *LADDER[4:])


async def test_s09_silence_after_a_cure_is_no_reason_for_the_next() -> None:
    """Where nobody tells how the node is after a reboot, people are called: it is not rebooted once more."""
    stage = Stage(steps=TWO_REBOOTS)
    name = stage.break_gpu()
    await stage.play(until="Act verify")
    stage.evidence.blind = True
    said = await stage.play(400, until="Escalate")
    assert said[-1] == "Escalate health-unknown"
    await stage.play(30)
    assert len(stage.sim.machines.reboots) == 1
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True


@pytest.mark.parametrize("gone", [False, True])
async def test_s09_what_is_seen_to_be_unwell_after_a_cure_brings_the_next(gone: bool) -> None:
    """A GPU whose state is bad after the reboot, or that alone of its node is shown no more, is tried once more."""
    stage = Stage(steps=TWO_REBOOTS)
    name = stage.break_gpu()
    gpu = stage.sim.fleet[name].spec.gpus[3].uuid
    await stage.play(until="Act verify")
    whole = stage._evaluate

    def evaluate() -> None:
        whole()
        kept = stage.samples[(name, gpu)]
        if gone:
            kept.clear()
        elif kept:
            kept[-1] = replace(kept[-1], state=3)

    stage._evaluate = evaluate  # type: ignore[method-assign]
    said = await stage.play(400, until="reboot-2")
    assert said[-1] == "Hold reboot-2 cooldown"
    stage._evaluate = whole  # type: ignore[method-assign]
    await stage.play(400)
    assert stage.only_case().result is Result.RESTORED, "a node that is well by then is proven, not rebooted"
    assert len(stage.sim.machines.reboots) == 1


async def test_s21_silence_after_a_reboot_by_others_holds_the_first_cure() -> None:
    """Where nobody tells what their reboot did, ours is held for want of evidence; a node that is well goes back."""
    stage, name = held_by_a_budget()
    await stage.play(30)
    stage.sim.fleet[name].reboot()
    open_the_budget(stage)
    await stage.play(60, until="Act verify")
    stage.evidence.blind = True
    assert (await stage.play(300))[-1] == "Hold reboot no-active-alert"
    stage.evidence.blind = False
    await stage.play(200)
    assert stage.only_case().result is Result.RESTORED
    assert stage.sim.machines.reboots == []


async def test_s09_what_an_earlier_proof_saw_brings_no_cure_after_a_silent_one() -> None:
    """A node that looked well while the next cure waited, and of which nobody tells any more then, is people's."""
    stage = Stage(steps=TWO_REBOOTS)
    name = stage.break_gpu()
    gpu = stage.sim.fleet[name].spec.gpus[3].uuid
    await stage.play(until="Act verify")
    whole = stage._evaluate

    def evaluate() -> None:
        whole()
        kept = stage.samples[(name, gpu)]
        if kept:
            kept[-1] = replace(kept[-1], state=3)

    stage._evaluate = evaluate  # type: ignore[method-assign]
    assert (await stage.play(400, until="reboot-2"))[-1] == "Hold reboot-2 cooldown"
    stage._evaluate = whole  # type: ignore[method-assign]
    for _ in range(60):
        await stage.play(1)
        if stage.heard.words()[-1].endswith("verify"):
            break
    stage.evidence.blind = True
    said = await stage.play(300)
    assert said[-1] == "Escalate health-unknown"
    assert len(stage.sim.machines.reboots) == 1


@pytest.mark.parametrize(("gpu", "result"), [(5, Result.RESTORED), (3, None)])
async def test_s08_a_degraded_gpu_of_no_fault_keeps_no_cured_node_out(gpu: int, result: Result | None) -> None:
    """A GPU that was a little slow before and after is no fault of the case; its own GPU has to be well."""
    stage = Stage()
    name = stage.names[0]
    slow = stage.sim.fleet[name].spec.gpus[gpu].uuid
    whole = stage._evaluate

    def evaluate() -> None:
        whole()
        kept = stage.samples.get((name, slow))
        if kept and kept[-1].state == 0:
            kept[-1] = replace(kept[-1], state=1)

    stage._evaluate = evaluate  # type: ignore[method-assign]
    stage.advance(5)
    stage.break_gpu(0)
    await stage.play(400)
    case = stage.only_case()
    assert case.result is result
    assert case.escalated == ("" if result else "health-doubtful")


@pytest.mark.parametrize(
    ("strength", "said"), [(Strength.WEAK, "Escalate health-doubtful"), (None, "Hold reboot-2 cooldown")]
)
async def test_s09_weak_signs_after_a_cure_bring_no_further_one(strength: Strength | None, said: str) -> None:
    """A suspicion keeps the node out and calls people; a strong sign of the fault brings the next cure."""
    stage = Stage(steps=TWO_REBOOTS)
    name = stage.break_gpu()
    gpu = stage.sim.fleet[name].spec.gpus[3].uuid
    await stage.play(until="Act verify")
    sign = Witness(
        fault="gpu-fell-off-bus",
        gpu_uuid=gpu,
        witness_class=WitnessClass.DCGM,
        last_seen_at=stage.sim.now(),
        strength=strength,
    )
    stage.evidence.more[name] = (sign,)
    assert (await stage.play(400, until=said))[-1] == said


async def test_s09_a_neighbour_that_no_cure_is_for_brings_none() -> None:
    """A GPU of no fault of the case that is bad after the reboot keeps the node out, and reboots it no more."""
    stage = Stage(steps=TWO_REBOOTS)
    name = stage.break_gpu()
    other = stage.sim.fleet[name].spec.gpus[5].uuid
    await stage.play(until="Act verify")
    whole = stage._evaluate

    def evaluate() -> None:
        whole()
        kept = stage.samples[(name, other)]
        if kept:
            kept[-1] = replace(kept[-1], state=3)

    stage._evaluate = evaluate  # type: ignore[method-assign]
    said = await stage.play(400, until="Escalate")
    assert said[-1] == "Escalate verify-deadline"
    assert len(stage.sim.machines.reboots) == 1
