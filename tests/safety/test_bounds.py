"""Invariants of bounds: S15 (attempts, and a history that outlives cases) and S25 (nothing stands still untold)."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.responder.stage import LADDER, Stage
from tests.safety.test_whose import approve

from gpuheal_lab.fleet import injection
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_lab.fleet.objects import Owner, put_condition
from gpuheal_responder.core.case import Result
from gpuheal_responder.core.life import MOST_ATTEMPTS, MOST_REPEATS
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.plan import MOST_DRAINS
from gpuheal_responder.core.sighting import WitnessClass
from gpuheal_responder.core.undo import TAINT_KEY
from gpuheal_responder.core.verdict import Hold
from gpuheal_responder.shell.telemetry import Telemetry


async def flap(stage: Stage, times: int) -> None:
    """Let a weak, unconfirmed signal come and go, so that short cases end as cleared."""
    name = stage.names[0]
    key = (name, stage.sim.fleet[name].spec.gpus[2].uuid)
    stage.evidence.classes = (WitnessClass.KUBERNETES,)
    for _ in range(times):
        stage.latch.latched[key] = stage.sim.now()
        stage.advance()
        await stage.round()
        del stage.latch.latched[key]
        for _ in range(2):
            stage.advance(6)
            await stage.round()
        stage.advance(6)
        await stage.round()
    stage.evidence.classes = (WitnessClass.KERNEL, WitnessClass.NVML)


async def test_s15_short_cases_do_not_wash_out_what_a_machine_has_been_through() -> None:
    """Twenty-one flaps delete the cases that held two reboots; the third reboot in a day is refused all the same."""
    stage = Stage()
    for _ in range(2):
        stage.break_gpu(0)
        await stage.play(120, until="Done restored")
        assert stage.heard.words()[-1] == "Done restored"
        stage.heard.verdicts.clear()
        await flap(stage, 21)
        stage.heard.verdicts.clear()
        stage.sim.advance(timedelta(minutes=31))
        stage.advance(3)
    assert len(stage.sim.machines.reboots) == 2
    assert not any(a.cure for c in stage.cases() for a in c.attempts), "the cases that told of the reboots are gone"
    stage.break_gpu(0)
    assert (await stage.play(60, until="Escalate"))[-1] == "Escalate attempts-spent"
    assert len(stage.sim.machines.reboots) == 2


async def test_s15_deleting_a_remediation_gives_no_clean_sheet() -> None:
    """A case that was given to people stays with them when its object is deleted; no reboot is repeated."""
    stage = Stage()
    name = stage.break_gpu(0, fault=fell_off_bus(cured_by=frozenset()))
    await stage.play(200, until="Escalate")
    for _ in range(3):
        for case in stage.cases():
            await stage.sim.remediations.delete(case.name)
        stage.sim.advance(timedelta(minutes=31))
        stage.advance(3)
        await stage.play(20)
        assert stage.only_case().escalated
    assert len(stage.sim.machines.reboots) == 1
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True


def heard_of(stage: Stage, node: int, step: str) -> list[str]:
    """Return the attempts at a step on the n-th node."""
    return [a.operation for c in stage.cases() if c.node == stage.names[node] for a in c.attempts if a.step == step]


async def test_s15_marks_that_were_taken_off_count_in_the_mark_rate() -> None:
    """A node given back a moment ago has used up the mark budget of its pool for ten minutes."""
    stage = Stage(nodes=8)
    stage.break_gpu(0)
    await stage.play(until="Done restored")
    stage.break_gpu(1)
    assert (await stage.play(5))[-1] == "Hold taint mark-budget"
    stage.sim.advance(timedelta(minutes=10))
    stage.advance(3)
    assert heard_of(stage, 1, "taint") == []
    await stage.play(5)
    assert heard_of(stage, 1, "taint")


async def test_s15_operation_ids_and_case_names_never_come_again() -> None:
    """After all Remediations of a node were deleted a new case and its reboot have names that nothing had before."""
    stage = Stage()
    seen: list[str] = []
    for _ in range(2):
        stage.break_gpu(0)
        await stage.play(until="Done restored")
        stage.heard.verdicts.clear()
        case = stage.only_case()
        seen += [case.name, *(a.operation for a in case.attempts)]
        await stage.sim.remediations.delete(case.name)
        stage.sim.advance(timedelta(minutes=31))
        stage.advance(3)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("method", ["mark", "lock", "set_conditions"])
async def test_s15_a_refusal_for_good_is_not_tried_at_every_look(method: str) -> None:
    """Ten minutes of 403 are a few tries, and people are told: a hold or an escalation with the reason."""
    stage = Stage()
    stage.break_gpu()
    stage.sim.gate.fail_next(method, injection.forbidden(), times=10**6)
    said = await stage.play(600)
    tries = sum(outcome == "forbidden" for _, outcome in stage.heard.outcomes)
    assert 0 < tries <= 12
    assert said[-1].split()[0] in {"Hold", "Escalate"}
    assert said[-1].endswith("forbidden")


async def test_s15_a_restore_that_is_refused_is_told_and_goes_on_once_allowed() -> None:
    """Giving back is tried ever more rarely while the API server refuses, and done once it allows it."""
    stage = Stage()
    stage.break_gpu()
    await stage.play(until="Act probation")
    stage.sim.gate.fail_next("set_conditions", injection.forbidden(), times=10**6)
    assert (await stage.play(400))[-1] == "Hold restore forbidden"
    assert sum(a.action == "restore" for a in stage.only_case().attempts) <= 6
    stage.sim.gate.clear()
    assert (await stage.play(700, until="Done"))[-1] == "Done restored"


async def test_s15_a_step_that_hangs_before_its_intent_is_stored_counts() -> None:
    """While the API server is slow for one node of a gang, the gang's other node is not taken."""
    stage = Stage(nodes=64)
    near, far = stage.names[0], stage.names[40]
    stage.sim.workloads.gang("train", size=2, nodes=(near, far))
    stage.advance(3)
    lock, go = stage.sim.cluster.lock, asyncio.Event()

    async def slow(node: Node, span: timedelta) -> None:
        if node.name == near:
            await go.wait()
        await lock(node, span)

    stage.sim.cluster.lock = slow  # type: ignore[method-assign]
    stage.engine.pace = replace(stage.engine.pace, patience=timedelta(0))
    stage.break_gpu(0)
    await stage.play(6)
    stage.break_gpu(40)
    await stage.play(6)
    assert {c.target for c in stage.sim.gate.made("evict")} == set()
    go.set()
    await stage.play(4)
    assert [c.node for c in stage.cases() if c.latest("drain") is not None] == [near]


async def test_s15_machines_that_tell_the_same_uuid_are_not_one() -> None:
    """Some boards all tell one system UUID: a node given back then settles no other node's evidence."""
    stage = Stage(nodes=64)
    for name in stage.names[:2]:
        stage.sim.edit(name, lambda raw: raw["status"]["nodeInfo"].update({"systemUUID": "03000200-0400-0500"}))
    stage.evidence.classes = (WitnessClass.KERNEL, WitnessClass.DCGM)
    stage.break_gpu(0)
    await stage.play(until="Done restored")
    stage.sim.edit(stage.names[0], lambda raw: raw["status"]["nodeInfo"].update({"systemUUID": "03000200-0400-0500"}))
    histories = await stage.sim.histories.all()
    assert stage.names[0] in histories
    assert "03000200-0400-0500" not in histories


async def test_s15_a_foreign_writer_of_our_condition_is_not_fought_for_ever() -> None:
    """A condition that another agent keeps setting back is written a few times, then the case goes on without it."""
    stage = Stage()
    name = stage.break_gpu()
    for _ in range(60):
        await stage.round()
        stage.advance()
        at = stage.sim.now()
        stage.sim.edit(
            name,
            lambda raw, at=at: put_condition(  # type: ignore[misc]
                raw, kind="GPUHealthy", status="True", reason="OtherAgent", message="", at=at
            ),
        )
    written = [a for a in stage.only_case().attempts if a.action == "condition"]
    assert len(written) <= MOST_REPEATS
    assert any(a.action == "reboot" for a in stage.only_case().attempts)


async def test_s15_a_node_that_fills_again_is_emptied_a_few_times_then_people() -> None:
    """Pods that tolerate everything keep coming while the reboot waits for a yes: drains are bounded, people called."""
    stage = Stage(mode="propose")
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=1, nodes=(name,))
    stage.advance(3)
    stage.break_gpu()
    assert (await stage.play(10))[-1] == "Hold drain approval-needed"
    verdict = stage.heard.verdicts[-1][1]
    assert isinstance(verdict, Hold)
    await approve(stage, "drain", verdict.refusals[0].blockers[-1])
    for turn in range(240):
        if turn % 4 == 0:
            owner = Owner(kind="ReplicaSet", name="tolerant")
            stage.sim.workloads._create("kube-system", f"tolerant-{turn}", name, owner, {"app": "tolerant"}, 0)
        await stage.round()
        if stage.only_case().escalated:
            break
        stage.advance()
    assert stage.only_case().escalated == "keeps-filling"
    assert sum(a.action == "drain" for a in stage.only_case().attempts) == MOST_DRAINS
    assert len(stage.only_case().attempts) <= MOST_ATTEMPTS


async def test_s25_a_removed_policy_is_held_and_told_and_its_case_still_ends() -> None:
    """A renamed policy leaves its case visible as held; a person's uncordon ends it and takes our taint off."""
    stage = Stage(steps=[*LADDER[:2], {"drain": {"deadline": "30m"}}, *LADDER[3:]])
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=1, nodes=(name,), min_available=1)
    stage.advance(3)
    stage.break_gpu(0)
    await stage.play(10)
    stage.policies = ()
    telemetry = Telemetry(cluster="test", clock=stage.sim.clock, audit=io.StringIO())
    stage.heard = telemetry  # type: ignore[assignment]
    stage.boot()
    published = len(stage.sim.gate.made("publish"))
    await stage.round()
    stage.advance()
    shown = [x for x in telemetry.text().decode().splitlines() if x.startswith("gpuheal_case_state{")]
    assert len(shown) == 1
    assert 'reason="policy-missing"' in shown[0]
    assert len(stage.sim.gate.made("publish")) > published
    stage.sim.edit(name, lambda raw: raw["spec"].pop("unschedulable"))
    await stage.round()
    assert stage.only_case().result is Result.TAKEN_OVER
    assert TAINT_KEY not in [t["key"] for t in stage.sim.raw(name)["spec"].get("taints", ())]


@pytest.mark.parametrize("method", ["create", "save"])
async def test_s25_a_case_that_cannot_be_stored_is_told_and_goes_on_once_it_can(method: str) -> None:
    """A refusal for good to keep the case shows it as held, with an Event, is not repeated at every look, and ends."""
    stage = Stage()
    stage.break_gpu()
    stage.sim.gate.fail_next(method, injection.forbidden(), times=10**6)
    await stage.play(60)
    _, verdict = stage.heard.standing_now[0]
    assert isinstance(verdict, Hold)
    assert verdict.reason == "forbidden"
    assert any("the case is held: forbidden" in e.message for e in stage.sim.api.events(stage.names[0]))
    assert stage.sim.machines.reboots == []
    stage.sim.gate.clear()
    assert (await stage.play(150, until="Done"))[-1] == "Done restored"


async def test_s25_an_event_that_could_not_be_written_is_written_later() -> None:
    """People are told of a hold once the API server takes Events again."""
    stage = Stage()
    stage.break_gpu()
    await stage.play(until="Act condition")
    stage.cap(paused="ann: wait")
    stage.sim.gate.fail_next("publish", injection.server_error(), times=3)
    await stage.play(10)
    assert any("paused" in e.message for e in stage.sim.api.events(stage.names[0]))


async def test_s25_an_escalated_case_ends_by_hands_and_frees_its_gang() -> None:
    """A case that waits for people holds no gang back, and is over once a person takes the node back."""
    stage = Stage()
    name = stage.break_gpu(0, fault=fell_off_bus(cured_by=frozenset()))
    await stage.play(200, until="Escalate")
    stage.sim.edit(name, lambda raw: (raw["spec"].pop("unschedulable"), raw["spec"].pop("taints")))
    await stage.play(5)
    assert stage.only_case().result is Result.TAKEN_OVER


async def test_s25_every_ignored_fault_has_a_reason() -> None:
    """A fault that no policy answers for opens no case, and is told with its reason for as long as it stands."""
    stage = Stage()
    stage.policies = ()
    name = stage.break_gpu(0)
    await stage.play(3)
    assert [(i.node, i.reason) for i in stage.heard.ignored] == [(name, "no-policy")]
    assert stage.cases() == []
