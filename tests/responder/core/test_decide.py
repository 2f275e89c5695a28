"""The decision on corners that the story does not pass."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.responder.stage import LADDER, Stage

from gpuheal_lab.fleet import injection
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.case import Case, Result
from gpuheal_responder.core.life import settle
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.sighting import Evidence, GpuHealth, HealthSample, Identity
from gpuheal_responder.core.undo import TAINT_KEY, UNDO_ANNOTATION
from gpuheal_responder.core.world import World


async def test_a_policy_without_cure_contains_and_waits_for_hands() -> None:
    """Taint and tell only: the node stays contained while the fault lasts."""
    stage = Stage(steps=["taint", "condition"])
    stage.break_gpu()
    said = await stage.play(20)
    assert said[-1] == "Wait condition awaiting-repair"


async def test_a_repair_by_hand_is_proven_and_given_back() -> None:
    """With verify and restore but no cure, a node that people repaired comes back by itself, on proof."""
    stage = Stage(steps=["taint", {"verify": {"evaluations": 3}}, "restore"])
    name = stage.break_gpu()
    await stage.play(5)
    stage.sim.fleet[name].reboot()
    said = await stage.play(60, until="Done")
    assert said[-1] == "Done restored"
    assert "unschedulable" not in stage.sim.raw(name)["spec"]


async def test_without_restore_people_give_back() -> None:
    """A policy may leave the last step to people; the proof is told, the node stays contained."""
    stage = Stage(steps=[*LADDER[:5]])
    name = stage.break_gpu()
    said = await stage.play(60)
    assert said[-1] == "Wait verify awaiting-uncordon"
    stage.sim.edit(name, lambda raw: raw["spec"].pop("unschedulable"))
    await stage.play(3)
    assert stage.only_case().result is Result.TAKEN_OVER


async def test_cordon_alone_is_undone_too() -> None:
    """The action cordon needs no taint, and restore lifts it."""
    steps = ["cordon", *LADDER[2:]]
    stage = Stage(steps=steps)
    name = stage.names[0]
    before = stage.sim.snapshot(name)
    stage.break_gpu()
    await stage.round()
    assert "taints" not in stage.sim.raw(name)["spec"]
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert stage.sim.snapshot(name) == before


async def test_a_machine_that_does_not_come_back_goes_to_people() -> None:
    """At its deadline a reboot without a new boot id fails, and there is no other cure."""
    stage = Stage()
    name = stage.break_gpu()
    stage.sim.fleet[name].hang_at_boot = True
    said = await stage.play(150)
    assert said[-1] == "Escalate reboot-deadline"


async def test_a_provider_that_refuses_goes_to_people() -> None:
    """A reboot that the provider calls failed is failed."""
    stage = Stage()
    stage.break_gpu()
    stage.sim.machines.refuses = True
    said = await stage.play(20)
    assert said[-1] == "Escalate reboot-failed"


async def test_a_relapse_in_probation_is_not_given_back() -> None:
    """A fault seen during the quiet time ends probation; nothing was restored meanwhile."""
    stage = Stage()
    name = stage.break_gpu(fault=fell_off_bus(relapse_after=timedelta(seconds=8)))
    said = await stage.play(60, until="Escalate")
    assert "Act probation" in said
    assert said[-1] == "Escalate fault-again"
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True


async def test_a_person_who_takes_all_marks_off_ends_the_case() -> None:
    """`gpuheal revert`, or a person with kubectl: the case ends as reverted, and nothing is put back."""
    stage = Stage()
    name = stage.break_gpu()
    await stage.play(until="Act condition")

    def revert(raw: dict) -> None:  # type: ignore[type-arg]
        raw["spec"].pop("unschedulable")
        raw["spec"].pop("taints")
        raw["metadata"]["annotations"].pop("gpu.health/undo")

    stage.sim.edit(name, revert)
    await stage.round()
    assert stage.only_case().result is Result.REVERTED


async def test_a_case_whose_policy_is_gone_is_held_and_told_and_still_ends() -> None:
    """Without its policy nobody knows what to do next: nothing is done, people are told, and a person can take over."""
    stage = Stage()
    name = stage.break_gpu()
    await stage.play(until="Act condition")
    stage.policies = ()
    marks = len(stage.sim.gate.made("mark"))
    said = await stage.play(5)
    assert said[-1] == "Hold policy-missing"
    assert stage.heard.open_cases
    assert any(c.detail == "GPUHealHeld" for c in stage.sim.gate.made("publish"))
    assert len(stage.sim.gate.made("mark")) == marks
    stage.sim.edit(name, lambda raw: raw["spec"].pop("unschedulable"))
    assert (await stage.play(5))[-1] == "Done taken-over"
    assert "taints" not in stage.sim.raw(name)["spec"]


async def test_containing_that_is_refused_is_told_and_tried_until_it_is_allowed() -> None:
    """A sick node takes work while it is not contained, so it is tried ever more slowly, never given up."""
    stage = Stage()
    name = stage.break_gpu()
    stage.sim.gate.fail_next("mark", injection.forbidden(), times=10)
    said = await stage.play(600)
    assert "Hold taint forbidden" in said
    assert any(c.detail == "GPUHealHeld" for c in stage.sim.gate.made("publish"))
    assert "taints" not in stage.sim.raw(name)["spec"]
    tried = [outcome for action, outcome in stage.heard.outcomes if action == "taint"]
    assert 4 <= len(tried) <= 8
    said = await stage.play(6000, until="Done")
    assert said[-1] == "Done restored"


async def test_a_record_removed_by_hand_leaves_no_taint_of_ours() -> None:
    """Without its record the cordon's owner is unknown and it stays; the taint's key is ours, so it goes."""
    stage = Stage()
    name = stage.break_gpu()
    await stage.play(until="Act condition")
    stage.sim.edit(name, lambda raw: raw["metadata"]["annotations"].pop(UNDO_ANNOTATION))
    assert (await stage.play(5))[-1] == "Done reverted"
    assert all(t["key"] != TAINT_KEY for t in stage.sim.raw(name)["spec"].get("taints", ()))
    assert stage.sim.raw(name)["spec"]["unschedulable"]


async def test_a_reboot_that_was_asked_for_is_withdrawn_when_a_person_takes_the_node_back() -> None:
    """A request that has not been carried out yet must not be after the case is over."""
    stage = Stage()
    name = stage.break_gpu()
    stage.sim.machines.loses_calls = True
    await stage.play(10)
    assert stage.only_case().latest("reboot") is not None
    stage.sim.edit(name, lambda raw: raw["spec"].update(taints=[]))
    assert (await stage.play(5))[-1] == "Done taken-over"
    assert stage.sim.gate.made("withdraw", name)
    assert stage.sim.machines.reboots == []


def test_an_exchanged_gpu_can_be_proven_and_the_old_one_is_not_waited_for() -> None:
    """A GPU with a new UUID in the same slot takes the place of the one that nobody has a fresh state of."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    fresh = tuple(HealthSample(at=at - timedelta(seconds=15 * n), state=0) for n in (3, 2, 1))
    evidence = Evidence(
        at=at,
        identities=(
            Identity(gpu_uuid="GPU-old", source="exporter", slot="0000:1b:00"),
            Identity(gpu_uuid="GPU-new", source="exporter", slot="0000:1b:00"),
            Identity(gpu_uuid="GPU-2", source="exporter", slot="0000:3b:00"),
        ),
        health=(GpuHealth(gpu_uuid="GPU-new", samples=fresh), GpuHealth(gpu_uuid="GPU-2", samples=fresh)),
    )
    node = Node(name="n", uid="u", gpu_capacity=2, gpu_allocatable=2)
    world = World(now=at, node=node, evidence=evidence)
    case = Case(name="n-1", node="n", opened_at=at, policy="p", gpus=("GPU-2", "GPU-old"), gpu_capacity=2)
    assert ev.unproven(case, world, since=at - timedelta(hours=1), evaluations=2) == ()
    assert settle(case, None, world).gpus == ("GPU-2", "GPU-new")
    silent = replace(world, evidence=replace(evidence, health=evidence.health[1:]))
    assert ev.unproven(case, silent, since=at - timedelta(hours=1), evaluations=2)


async def test_s09_a_fault_between_the_last_evaluation_and_the_return_is_not_settled() -> None:
    """Nobody had seen it when the node went back, so the watermark is where the proof began, not where it ended."""
    stage = Stage()
    stage.break_gpu()
    await stage.play(until="Act restore")
    (case,) = stage.cases()
    cured = next(a.ended_at for a in case.attempts if a.action == "reboot")
    await stage.play(3)
    (case,) = stage.cases()
    assert case.result is Result.RESTORED
    assert case.settled_at == cured
    assert case.closed_at is not None
    assert cured is not None
    assert cured < case.closed_at
