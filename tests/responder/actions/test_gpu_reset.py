"""An action on one GPU, added by its own file and a line in the registry: engine, store, crashes and `explain`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.responder.actions.gpu_reset import Resetter, action
from tests.responder.stage import LADDER, Stage, policies

from gpuheal_lab.fleet.injection import Killed
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_responder.actions.action import Action
from gpuheal_responder.commands import explain
from gpuheal_responder.core.case import Approval, AttemptState, Result
from gpuheal_responder.core.evidence import digest

RESETS = fell_off_bus(cured_by=frozenset({"gpu_reset", "reboot"}))
STEPS: tuple[object, ...] = (*LADDER[:3], "gpu_reset", *LADDER[3:])
TWICE: tuple[object, ...] = (*LADDER[:3], "gpu_reset", "gpu_reset", *LADDER[3:])
Register = Callable[[Action], None]


def staged(
    register: Register, mode: str = "enforce", steps: tuple[object, ...] = STEPS, nodes: int = 8
) -> tuple[Stage, Resetter]:
    """Return a stage whose policy resets GPUs before it reboots, and who resets them."""
    stage = Stage(nodes=nodes)
    resetter = Resetter(stage)
    register(action(resetter))
    stage.policies = policies(mode, steps)
    return stage, resetter


def gpu(stage: Stage, index: int) -> str:
    """Return the UUID of a GPU of the first node."""
    return stage.sim.fleet[stage.names[0]].spec.gpus[index].uuid


def resets(stage: Stage, index: int) -> list[str]:
    """Return the keys of the attempts of resetting a GPU, in order."""
    return [a.key for a in stage.only_case().attempts if a.target == gpu(stage, index) and a.cure]


async def test_two_faulty_gpus_are_reset_side_by_side(register: Register) -> None:
    """Both resets are under way at once, each an attempt of its own; one proof ends the case, and nothing reboots."""
    stage, resetter = staged(register)
    name = stage.names[0]
    stage.advance(3)
    before = stage.sim.snapshot(name)
    stage.break_gpu(gpu=1, fault=RESETS)
    stage.break_gpu(gpu=3, fault=RESETS)
    assert (await stage.play(150, until="Done"))[-1] == "Done restored"
    assert resetter.most_at_once == 2
    assert resets(stage, 1) == [f"gpu_reset/{gpu(stage, 1)}"]
    assert resets(stage, 3) == [f"gpu_reset/{gpu(stage, 3)}"]
    assert stage.sim.machines.reboots == []
    assert stage.sim.snapshot(name) == before


async def test_history_counts_each_gpu_by_itself(register: Register) -> None:
    """What the machine has been through names the GPU of every reset."""
    stage, _ = staged(register)
    stage.break_gpu(gpu=1, fault=RESETS)
    stage.break_gpu(gpu=3, fault=RESETS)
    await stage.play(150, until="Done")
    (history,) = (await stage.sim.histories.all()).values()
    assert {(c.action, c.target) for c in history.cures} == {("gpu_reset", gpu(stage, n)) for n in (1, 3)}
    assert all(c.ended_at for c in history.cures)


async def test_one_gpu_that_climbs_to_a_reboot_serves_both(register: Register) -> None:
    """The proof blames one GPU: its track climbs to a reboot, which serves the other too: there is one."""
    stage, _ = staged(register)
    stage.break_gpu(gpu=1, fault=RESETS)
    stage.break_gpu(gpu=3)
    assert (await stage.play(150, until="Done"))[-1] == "Done restored"
    assert len(resets(stage, 1)) == len(resets(stage, 3)) == 1
    assert len(stage.sim.machines.reboots) == 1
    failed = next(a for a in stage.only_case().attempts if a.state is AttemptState.FAILED)
    assert (failed.step, failed.blamed) == ("verify", (gpu(stage, 3),))


async def test_only_the_blamed_gpu_climbs_and_its_cooldown_holds_no_other(register: Register) -> None:
    """The GPU that failed its proof waits for its cooldown; the well one is left alone, a third is reset at once."""
    stage, resetter = staged(register, steps=TWICE)
    stage.break_gpu(gpu=1, fault=RESETS)
    stage.break_gpu(gpu=3)
    again = f"gpu_reset-2/{gpu(stage, 3)}"
    assert (await stage.play(60, until="Hold"))[-1] == f"Hold {again} cooldown"
    assert len(resets(stage, 1)) == 1
    stage.break_gpu(gpu=5, fault=RESETS)
    await stage.play(15)
    assert gpu(stage, 5) in resetter.resets
    assert stage.heard.words()[-1] == f"Hold {again} cooldown"
    stage.advance(1800)
    assert (await stage.play(150, until="Done"))[-1] == "Done restored"
    assert [len(resets(stage, n)) for n in (1, 3, 5)] == [1, 2, 1]


async def test_an_approval_is_for_one_gpu(register: Register) -> None:
    """A yes to the reset of one GPU resets that one, and none other, not even when another was asked about first."""
    stage, resetter = staged(register, mode="propose")
    for index in (1, 3):
        stage.break_gpu(gpu=index, fault=RESETS)
    first = (await stage.play(20, until="Hold"))[-1]
    asked, other = (1, 3) if gpu(stage, 1) in first else (3, 1)
    assert first == f"Hold gpu_reset/{gpu(stage, asked)} approval-needed"
    await approve(stage, f"gpu_reset/{gpu(stage, other)}")
    await stage.play(20)
    assert resetter.resets == [gpu(stage, other)]
    assert stage.heard.words()[-1] == first
    await approve(stage, f"gpu_reset/{gpu(stage, asked)}")
    assert (await stage.play(150, until="Done"))[-1] == "Done restored"
    assert resetter.resets == [gpu(stage, other), gpu(stage, asked)]


async def approve(stage: Stage, key: str) -> None:
    """A person says yes to a step on the evidence of this moment."""
    (work,) = await stage.round()
    (stored,) = await stage.sim.remediations.list()
    assert work.policy is not None
    step = next(s for s in work.policy.steps if s.key == key.partition("/")[0])
    wanted = digest(work.case, key, step.params, work.world)
    yes = Approval(step=key, evidence=wanted, by="sre", expires_at=stage.sim.now() + timedelta(hours=1))
    await stage.sim.remediations.approve(stored, (*stored.case.approvals, yes))


async def test_pods_of_the_other_gpus_stay(register: Register) -> None:
    """Only pods that hold the GPU leave, and those of which nobody can tell what they hold."""
    stage, _ = staged(register)
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=7, nodes=(name,))
    pods = [p.ref for p in await stage.sim.cluster.pods_on(name)]
    stage.sim.cluster.holds = {ref: (gpu(stage, index),) for index, ref in enumerate(pods[:-1])}
    stage.sim.workloads.deployment("cpu", replicas=1, gpus=0, nodes=(name,))
    stage.advance(3)
    stage.break_gpu(gpu=3, fault=RESETS)
    assert (await stage.play(150, until="Done"))[-1] == "Done restored"
    gone = {call.target for call in stage.sim.gate.made("evict")}
    assert gone == {pods[3], pods[-1]}
    drained = [a.key for a in stage.only_case().attempts if a.action == "drain"]
    assert drained == [f"drain/{gpu(stage, 3)}"]


async def test_a_protected_pod_on_another_gpu_does_not_stop_the_reset(register: Register) -> None:
    """A pod that must not be moved stands in the way of its own GPU's reset only."""
    stage, resetter = staged(register)
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=2, nodes=(name,))
    pods = [p.ref for p in await stage.sim.cluster.pods_on(name)]
    stage.sim.cluster.holds = {ref: (gpu(stage, index),) for index, ref in enumerate(pods)}
    stage.sim.cluster.protect[pods[0]] = "a person said so"
    stage.advance(3)
    for index in (0, 5):
        stage.break_gpu(gpu=index, fault=RESETS)
    await stage.play(40)
    assert resetter.resets == [gpu(stage, 5)]
    assert f"Hold drain/{gpu(stage, 0)} protected-pod" in stage.heard.words()


async def test_a_lost_call_is_made_again_under_the_same_id(register: Register) -> None:
    """The call got no further than the intent: the other side is asked, says so, and gets it again."""
    stage, resetter = staged(register)
    stage.break_gpu(gpu=3, fault=RESETS)
    await stage.play(20, until="Act gpu_reset")
    resetter.loses_calls = True
    await stage.play(2)
    resetter.loses_calls = False
    await stage.play(150, until="Done")
    assert len({c.detail for c in stage.sim.gate.made("gpu_reset")}) == 1


def crowded(register: Register) -> tuple[Stage, Resetter, bytes]:
    """Return a stage with two faulty GPUs and a pod, who resets, and how the node looked before."""
    stage, resetter = staged(register, nodes=3)
    stage.sim.workloads.deployment("web", replicas=1, nodes=(stage.names[0],))
    stage.advance(3)
    before = stage.sim.snapshot(stage.names[0])
    for index in (1, 3):
        stage.break_gpu(gpu=index, fault=RESETS)
    return stage, resetter, before


async def test_killed_at_every_boundary_each_gpu_is_reset_once(register: Register) -> None:
    """A responder killed on either side of any changing call ends the story alike: two resets, no reboot."""
    stage, _, _ = crowded(register)
    stage.sim.gate.kill_at(None)
    await stage.play(until="Done")
    count = stage.sim.gate.crossings
    assert count > 40
    for crossing in range(count):
        stage, resetter, before = crowded(register)
        stage.sim.gate.kill_at(crossing)
        killed = 0
        for _ in range(200):
            try:
                await stage.round()
            except Killed:
                killed += 1
                stage.boot()
            if any(c.closed_at for c in stage.cases()):
                break
            stage.advance()
        case = stage.only_case()
        assert killed == 1, crossing
        assert stage.sim.snapshot(stage.names[0]) == before, crossing
        assert case.result is Result.RESTORED, crossing
        assert sorted(resetter.resets) == sorted(gpu(stage, n) for n in (1, 3)), crossing
        assert len([a for a in case.attempts if a.cure]) == 2, crossing
        assert stage.sim.machines.reboots == [], crossing


async def test_explain_replays_every_decision(
    register: Register, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stored decision decides the same again, and `gpuheal explain` names step and GPU."""
    stage, _ = staged(register)
    for index in (1, 3):
        stage.break_gpu(gpu=index, fault=RESETS)
    await stage.play(150, until="Done")
    (records,) = stage.sim.remediations.decisions.values()
    policy, record = tmp_path / "policy.yaml", tmp_path / "record.json"
    steps = json.dumps(list(STEPS))
    policy.write_text(
        f"policies: [{{name: fell-off-bus, mode: enforce, match: {{faults: [gpu-fell-off-bus]}}, steps: {steps}}}]"
    )
    for found in records:
        record.write_text(json.dumps(found))
        assert explain.main(["--record", str(record), "--policies", str(policy)]) == 0
    said = capsys.readouterr().out
    assert said.count("same verdict") == len(records)
    assert "DIFFERENT" not in said
    for index in (1, 3):
        assert f"replayed act: gpu_reset/{gpu(stage, index)} (gpu-reset-due)" in said


async def test_explain_asks_the_guards_about_the_gpu_that_goes_on(
    register: Register, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While one GPU waits for its cooldown, what is explained is the step of the other."""
    stage, _ = staged(register, steps=TWICE)
    stage.break_gpu(gpu=3)
    await stage.play(60, until="Hold")
    stage.break_gpu(gpu=5, fault=RESETS)
    await stage.round()
    (records,) = stage.sim.remediations.decisions.values()
    found = next(r for r in records if gpu(stage, 5) in str(r["verdict"]["step"]))  # type: ignore[index]
    policy, case, world = (tmp_path / name for name in ("policy.yaml", "case.json", "world.json"))
    policy.write_text(
        "policies: [{name: fell-off-bus, mode: enforce, match: {faults: [gpu-fell-off-bus]}, "
        f"steps: {json.dumps(list(TWICE))}}}]"
    )
    case.write_text(json.dumps(found["case"]))
    world.write_text(json.dumps(found["world"]))
    alerts = tmp_path / "alerts.json"
    alerts.write_text("[]")
    args = [str(alerts), str(world), "--case", str(case), "--policies", str(policy)]
    assert explain.main(args) == 0
    said = capsys.readouterr().out
    assert f"verdict  act: gpu_reset/{gpu(stage, 5)} (gpu-reset-due)" in said
    assert "guard    history: attempts: pass" in said
