"""Invariants of the end of a case: S08 (only positive proof, at the moment of giving back) and S09 (what settles)."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.responder.stage import LADDER, Stage

from gpuheal_lab.fleet.injection import Killed
from gpuheal_responder.core.case import Result
from gpuheal_responder.core.sighting import Evidence, Identity, WitnessClass
from gpuheal_responder.core.undo import HOLD_ANNOTATION
from gpuheal_responder.shell.telemetry import Telemetry


def hold(stage: Stage, name: str, how: str) -> None:
    """Stop the case by a person's pause, a frozen pipeline, or the annotation on the node."""
    match how:
        case "pause":
            stage.cap(paused="ann: change window")
        case "freeze":
            stage.cap(frozen="prometheus-settling: 3")
        case _:
            stage.sim.edit(
                name, lambda raw: raw["metadata"].setdefault("annotations", {}).update({HOLD_ANNOTATION: "cy"})
            )


def let_go(stage: Stage, name: str, how: str) -> None:
    """Lift what `hold` did."""
    match how:
        case "pause":
            stage.cap(paused="")
        case "freeze":
            stage.cap(frozen="")
        case _:
            stage.sim.edit(name, lambda raw: raw["metadata"]["annotations"].pop(HOLD_ANNOTATION))


@pytest.mark.parametrize("how", ["pause", "freeze", "hold"])
async def test_s08_a_proof_from_before_a_hold_gives_nothing_back(how: str) -> None:
    """A GPU that is lost while giving back is held keeps the node out; its evidence is not settled by the old proof."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act probation")
    hold(stage, name, how)
    await stage.play(30)
    assert stage.only_case().closed_at is None
    stage.break_gpu(0, 5)
    await stage.play(30)
    stage.evidence.classes = (WitnessClass.KERNEL,)
    let_go(stage, name, how)
    await stage.play(30)
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True
    assert stage.only_case().result is None
    assert stage.only_case().escalated == "fault-again"


async def test_s08_a_state_that_went_bad_without_alert_while_held_gives_nothing_back() -> None:
    """The states themselves are asked at the moment of giving back, not only witnesses of a fault."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act probation")
    stage.cap(paused="ann: change window")
    await stage.play(30)
    stage.alerts.mute = True
    stage.evidence.classes = ()
    stage.break_gpu(0, 5)
    await stage.play(5)
    stage.cap(paused="")
    assert (await stage.play(20))[-1] == "Hold restore proof-missing"
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True


@pytest.mark.parametrize("crossing", range(12))
async def test_s08_a_crash_while_giving_back_is_no_proof_later(crossing: int) -> None:
    """Whoever dies while a node is given back leaves the next process to ask for proof again, not to finish blindly."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act probation")
    stage.sim.gate.kill_at(crossing)
    for _ in range(25):
        try:
            await stage.round()
        except Killed:
            break
        stage.advance()
    given_back = "gpu.health/undo" not in stage.sim.raw(name)["metadata"].get("annotations", {})
    stage.boot()
    stage.break_gpu(0, 5)
    stage.advance(3)
    await stage.play(20)
    newest = stage.cases()[-1]
    assert newest.closed_at is None, "the GPU lost meanwhile is handled, by this case or by the next"
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True
    assert given_back == (len(stage.cases()) == 2)


@pytest.mark.parametrize("away", [False, True])
async def test_s08_the_alerts_own_gpu_has_to_be_proven(away: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that has no series after the reboot is missed, also when Prometheus was away as the case was opened."""
    steps = [*LADDER[:4], {"verify": {"evaluations": 3, "deadline": "40s"}}, *LADDER[5:]]
    stage = Stage(steps=steps)
    name, gpu = stage.names[0], stage.sim.fleet[stage.names[0]].spec.gpus[3].uuid
    stage.evidence.answers = not away
    stage.break_gpu(0)
    await stage.round()
    stage.advance()
    stage.evidence.answers = True
    await stage.play(until="Act reboot")
    whole = type(stage.evidence)._of

    def without(self: object, node: str) -> Evidence:
        found = whole(self, node)  # type: ignore[arg-type]
        health = tuple(h for h in found.health if h.gpu_uuid != gpu)
        return replace(found, health=health, identities=tuple(i for i in found.identities if i.gpu_uuid != gpu))

    monkeypatch.setattr(type(stage.evidence), "_of", without)
    said = await stage.play(100, until="Escalate")
    assert said[-1] == "Escalate verify-deadline"
    assert gpu in stage.only_case().gpus
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True


async def test_s08_a_gpu_that_was_exchanged_is_proven_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an exchange the new GPU in the same slot is what has to be well; nobody waits for the old UUID."""
    stage = Stage()
    name, gpus = stage.names[0], stage.sim.fleet[stage.names[0]].spec.gpus
    old, new = gpus[3].uuid, "GPU-ffffffff-0000-0000-0000-000000000003"
    exchanged = False
    whole = type(stage.evidence)._of

    def seen(self: object, node: str) -> Evidence:
        found = whole(self, node)  # type: ignore[arg-type]
        slots = {g.uuid: str(index) for index, g in enumerate(gpus)}
        named = (lambda uuid: new if uuid == old else uuid) if exchanged and node == name else (lambda uuid: uuid)
        identities = tuple(
            Identity(gpu_uuid=named(i.gpu_uuid), source=i.source, slot=slots.get(i.gpu_uuid, ""))
            for i in found.identities
        )
        return replace(
            found,
            identities=identities,
            health=tuple(replace(h, gpu_uuid=named(h.gpu_uuid)) for h in found.health),
        )

    monkeypatch.setattr(type(stage.evidence), "_of", seen)
    stage.break_gpu(0)
    await stage.play(until="Act verify")
    exchanged = True
    assert (await stage.play(60, until="Done"))[-1] == "Done restored"
    assert new in stage.only_case().gpus
    assert old not in stage.only_case().gpus


async def test_s08_a_node_whose_gpus_are_handed_out_by_dra_can_be_proven() -> None:
    """Such a node counts no GPUs as an extended resource; their states prove it."""
    stage = Stage()
    name = stage.names[0]

    def dra(raw: dict) -> None:  # type: ignore[type-arg]
        for key in ("capacity", "allocatable"):
            raw["status"][key].pop("nvidia.com/gpu", None)

    stage.break_gpu(0)
    for _ in range(120):
        stage.sim.edit(name, dra)  # the simulated device plugin counts them again after every boot
        await stage.round()
        if any("Done" in w for w in stage.heard.words()):
            break
        stage.advance()
    assert stage.heard.words()[-1] == "Done restored"


def settled(stage: Stage) -> bool:
    """Return whether the responder's metrics tell the rules that evidence is settled."""
    telemetry = Telemetry(cluster="test", clock=stage.sim.clock, audit=io.StringIO())
    telemetry.standing([], stage.cases())
    lines = telemetry.text().decode().splitlines()
    return any(line.startswith("gpuheal_fault_cleared_timestamp_seconds{") for line in lines)


@pytest.mark.parametrize("mode", ["observe", "enforce"])
async def test_s09_one_look_without_the_alert_clears_nothing(mode: str) -> None:
    """An Alertmanager that answers once without the alert ends no case; the lost GPU is still witnessed."""
    stage = Stage(mode=mode)
    if mode == "enforce":
        stage.evidence.sample_age = timedelta(minutes=3)
    stage.break_gpu(0)
    await stage.play(5)
    stage.alerts.mute = True
    await stage.round()
    stage.advance()
    stage.alerts.mute = False
    await stage.play(15)
    assert stage.only_case().closed_at is None
    assert not settled(stage)


@pytest.mark.parametrize("mode", ["observe", "enforce"])
async def test_s09_nothing_clears_while_blind_or_frozen(mode: str) -> None:
    """While Prometheus is away Alertmanager ends what nobody repeats; that clears no case."""
    stage = Stage(mode=mode)
    names = [stage.break_gpu(node) for node in range(3)]
    stage.cap(frozen="prometheus-unreadable: connection refused")
    stage.evidence.answers = False
    await stage.play(5)
    stage.alerts.mute = True
    await stage.play(40)
    stage.evidence.answers = True
    for name in names:
        stage.sim.fleet[name].cure("reboot")
    stage.latch.latched.clear()
    await stage.play(40)
    assert [c.result for c in stage.cases()] == [None, None, None], "still frozen"
    assert not settled(stage)


async def test_s09_a_gpu_in_a_bad_state_clears_nothing() -> None:
    """No alert and no witness is not enough while the GPU itself is known and not well."""
    stage = Stage(mode="observe")
    stage.break_gpu(0)
    await stage.play(5)
    stage.alerts.mute = True
    stage.evidence.classes = ()
    await stage.play(40)
    assert stage.only_case().closed_at is None


async def test_s09_cleared_needs_two_looks_and_settles_nothing() -> None:
    """A fault that is provably witnessed by nobody for ten seconds ends as cleared; only proof or a person settles."""
    stage = Stage(mode="observe")
    name = stage.break_gpu(0)
    await stage.play(5)
    stage.sim.fleet[name].cure("reboot")
    stage.latch.latched.clear()
    stage.advance(3)
    await stage.round()
    assert stage.only_case().closed_at is None, "one look is not enough"
    await stage.play(15)
    assert stage.only_case().result is Result.CLEARED
    assert not settled(stage)
    assert all(h.settled_at is None for h in (await stage.sim.histories.all()).values())


async def test_s09_what_came_between_the_restore_and_its_being_noticed_is_news() -> None:
    """Evidence is settled until the restore: a fault that came before the case was closed opens a new one."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act restore")
    while "gpu.health/undo" in stage.sim.raw(name)["metadata"].get("annotations", {}):
        stage.advance()
        await stage.round()
    case = stage.only_case()
    stage.evidence.classes = (WitnessClass.KERNEL,)
    if case.closed_at is None:
        stage.boot()
    stage.advance(2)
    stage.break_gpu(0, 6)
    stage.advance(600)
    await stage.play(20)
    assert len(stage.cases()) == 2
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True


async def test_s09_a_person_took_the_node_back_before_an_outage_of_ours() -> None:
    """What breaks after a person's uncordon, while we are away, is no news that their act settles."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act condition")
    await stage.play(3)
    stage.leads = False
    stage.sim.edit(name, lambda raw: (raw["spec"].pop("unschedulable"), raw["spec"].pop("taints")))
    stage.advance(60)
    stage.evidence.classes = (WitnessClass.KERNEL,)
    stage.break_gpu(0, 6)
    stage.advance(1200)
    stage.leads = True
    await stage.play(20)
    assert stage.cases()[0].result is Result.TAKEN_OVER
    assert len(stage.cases()) == 2


async def test_s09_a_new_alert_without_witnesses_is_not_settled_by_an_old_restore() -> None:
    """A fault that only its alert tells of opens a case though the machine was given back once; an old one does not."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Done restored")
    old, key = stage.cases()[0].opened_at, (name, stage.sim.fleet[name].spec.gpus[2].uuid)
    stage.evidence.classes = ()
    stage.latch.latched[key] = old
    await stage.play(3)
    assert [i.reason for i in stage.heard.ignored] == ["evidence-settled"]
    stage.sim.advance(timedelta(hours=1))
    stage.advance(3)
    stage.latch.latched[key] = stage.sim.now()
    await stage.play(3)
    assert len(stage.cases()) == 2
    assert stage.heard.words()[-1].startswith("Hold taint")
