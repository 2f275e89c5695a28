"""Invariants about acts of others: S07, S17, S18 and S21 (who rebooted, uncordoned, silenced, wrote, took back?)."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.responder.stage import LADDER, Stage

from gpuheal_lab.fleet import injection
from gpuheal_lab.fleet.injection import Killed
from gpuheal_lab.fleet.machine import Power, fell_off_bus
from gpuheal_responder.core.alert import Alert, Silence
from gpuheal_responder.core.case import Approval, Attempt, AttemptState, Case, Result
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.sighting import WitnessClass
from gpuheal_responder.core.undo import HOLD_ANNOTATION, TAINT_KEY, UNDO_ANNOTATION
from gpuheal_responder.ports import Stored
from gpuheal_responder.shell.telemetry import Telemetry

SLOW_DRAIN = [*LADDER[:2], {"drain": {"deadline": "30m"}}, *LADDER[3:]]
TAINTED = {"key": TAINT_KEY, "value": "true", "effect": "NoSchedule"}


def held_by_a_budget(steps: list[Any] | None = None) -> tuple[Stage, str]:
    """Return a stage whose first node breaks and cannot be emptied, for a disruption budget keeps its pod."""
    stage = Stage(steps=steps or SLOW_DRAIN)
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=1, nodes=(name,), min_available=1)
    stage.advance(3)
    stage.break_gpu(0)
    return stage, name


def open_the_budget(stage: Stage) -> None:
    """Let the pod go."""
    stage.sim.workloads.budget("web", selector={"app": "web"}, min_available=0)


def uncordon(raw: dict[str, Any]) -> None:
    """Do what kubectl uncordon does."""
    raw["spec"].pop("unschedulable", None)


async def test_s21_a_reboot_by_others_is_looked_at_before_ours() -> None:
    """A node that somebody else reboots while we drain is not rebooted once more: their reboot cured it."""
    stage, name = held_by_a_budget()
    await stage.play(30)
    stage.sim.fleet[name].reboot()
    open_the_budget(stage)
    assert (await stage.play(120, until="Done"))[-1] == "Done restored"
    assert stage.sim.machines.reboots == []
    assert stage.sim.fleet[name].boots == 2
    foreign = [a for a in stage.only_case().attempts if a.foreign]
    assert [a.reason for a in foreign] == ["rebooted-by-others"]


async def test_s21_after_a_reboot_by_others_that_cured_nothing_the_start_is_asked_about_again() -> None:
    """A fault seen after their reboot is cured by ours, once all that gates a start allows it."""
    stage, name = held_by_a_budget()
    await stage.play(30)
    stage.sim.fleet[name].reboot()
    open_the_budget(stage)
    while stage.sim.fleet[name].power is not Power.UP:
        stage.advance()
        await stage.round()
    stage.break_gpu(0, 3, fell_off_bus())
    said = await stage.play(60)
    assert stage.sim.machines.reboots == []
    assert said[-1].endswith("booted-lately")
    stage.sim.advance(timedelta(minutes=31))
    stage.advance(3)
    assert (await stage.play(120, until="Done"))[-1] == "Done restored"
    assert len(stage.sim.machines.reboots) == 1


async def test_s07_a_silence_stops_though_no_alert_hangs_on_it() -> None:
    """In flight the alert is often away; a person's silence is matched against what the case is about."""
    stage, _ = held_by_a_budget()
    await stage.play(20)
    stage.alerts.silences = (Silence(id="s1", created_by="ann", comment="STOP EVERYTHING"),)
    stage.alerts.mute = True
    stage.evidence.blind = True
    await stage.play(20)
    open_the_budget(stage)
    assert (await stage.play(30))[-1] == "Hold reboot alert-silenced"
    assert stage.sim.machines.reboots == []


async def test_s07_a_hold_that_came_before_the_mark_is_seen_in_the_conflict() -> None:
    """A cache that lags does not show the person's annotation; after the conflict the node is left alone."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.cluster.freeze_cache()
    stage.sim.edit(name, lambda raw: raw["metadata"].setdefault("annotations", {}).update({HOLD_ANNOTATION: "cy"}))
    stage.break_gpu(0)
    await stage.round()
    raw = stage.sim.raw(name)
    assert not raw["spec"].get("unschedulable")
    assert not raw["spec"].get("taints")


async def test_s18_an_alert_that_begins_anew_overrides_no_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a person's uncordon a restarted Prometheus gives the same alert a new beginning: that is no news."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act condition")
    stage.sim.edit(name, uncordon)
    await stage.play(30)
    assert stage.only_case().result is Result.TAKEN_OVER
    restarted_at, listed = stage.sim.now(), type(stage.alerts)._alerts

    def anew(self: Any) -> list[Alert]:
        return [replace(a, starts_at=max(a.starts_at, restarted_at)) for a in listed(self)]

    monkeypatch.setattr(type(stage.alerts), "_alerts", anew)
    await stage.play(60)
    assert len(stage.cases()) == 1
    assert stage.sim.machines.reboots == []
    assert not stage.sim.raw(name)["spec"].get("unschedulable")


@pytest.mark.parametrize("first", ["cordon", "taint"])
async def test_s18_a_person_may_lift_the_cordon_that_we_found(first: str) -> None:
    """On a node that was cordoned before us an uncordon counts as on any other, and what we did is undone."""
    stage = Stage(steps=[first, *SLOW_DRAIN[1:]])
    name = stage.names[0]
    stage.sim.edit(name, lambda raw: raw["spec"].update({"unschedulable": True}))
    stage.advance(3)
    stage.break_gpu(0)
    await stage.play(until="Act condition")
    stage.sim.edit(name, uncordon)
    await stage.play(30)
    raw = stage.sim.raw(name)
    assert stage.only_case().result is Result.TAKEN_OVER
    assert stage.sim.machines.reboots == []
    assert not raw["spec"].get("unschedulable")
    assert not raw["spec"].get("taints")
    said = [e.message for e in stage.sim.api.events(name)]
    assert any("taken-over" in message for message in said), "the person's act is acknowledged in an Event"


async def driver_manager(stage: Stage, name: str, seconds: int = 200) -> bool:
    """Play on; once the node is back from our reboot a controller uncordons it. Return whether our taint ever went.

    That is, while the undo record stands: both go in one write.
    """
    done = bare = False
    for _ in range(seconds):
        await stage.round()
        booted = stage.sim.fleet[name].boots > 1 and stage.sim.fleet[name].power is Power.UP
        if booted and not done:
            stage.sim.edit(name, uncordon)
            done = True
        raw = stage.sim.raw(name)
        tainted = TAINT_KEY in [t["key"] for t in raw["spec"].get("taints", ())]
        bare |= UNDO_ANNOTATION in raw["metadata"].get("annotations", {}) and not tainted
        if stage.cases()[0].closed_at is not None or stage.cases()[0].escalated:
            break
        stage.advance()
    return bare


async def test_s18_a_controllers_uncordon_after_a_boot_is_not_a_persons() -> None:
    """The GPU operator's driver manager uncordons after every boot: the proof is made all the same, under our taint."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act taint")
    stage.advance()
    await stage.round()
    assert await driver_manager(stage, name) is False
    assert stage.only_case().result is Result.RESTORED
    assert any(a.step == "verify" and a.state is AttemptState.SUCCEEDED for a in stage.only_case().attempts)


async def test_s18_a_controllers_uncordon_gives_no_broken_node_back() -> None:
    """When the reboot has cured nothing, the taint stays and people are called, whoever lifted the cordon."""
    stage = Stage()
    name = stage.break_gpu(0, fault=fell_off_bus(cured_by=frozenset({"replace"})))
    await stage.play(until="Act taint")
    stage.advance()
    await stage.round()
    await driver_manager(stage, name)
    assert stage.only_case().escalated
    assert TAINT_KEY in [t["key"] for t in stage.sim.raw(name)["spec"]["taints"]]


def damaged(change: Callable[[str], str]) -> Callable[[dict[str, Any]], None]:
    """Return an edit that changes the undo record's text."""

    def edit(raw: dict[str, Any]) -> None:
        raw["metadata"]["annotations"][UNDO_ANNOTATION] = change(raw["metadata"]["annotations"][UNDO_ANNOTATION])

    return edit


@pytest.mark.parametrize(
    "change", [lambda text: text.replace('"version":2', '"version":3'), lambda text: text[:100]], ids=["newer", "cut"]
)
async def test_s18_an_undo_record_that_cannot_be_read_is_held_and_told(change: Callable[[str], str]) -> None:
    """It is never taken for none: the case stays, nothing is undone by guessing; once mended the case goes on."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act condition")
    text = stage.sim.raw(name)["metadata"]["annotations"][UNDO_ANNOTATION]
    stage.sim.edit(name, damaged(change))
    assert (await stage.play(20))[-1] == "Hold undo-unreadable"
    assert stage.heard.unreadable == [name]
    assert stage.only_case().closed_at is None
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True
    stage.sim.edit(name, damaged(lambda _: text))
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert "taints" not in stage.sim.raw(name)["spec"]


async def test_s18_a_taint_of_our_key_that_was_there_before_stays() -> None:
    """A person's taint of the same key is not in the undo record: the node is given back exactly as it was found."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.edit(name, lambda raw: raw["spec"].update({"taints": [dict(TAINTED)]}))
    stage.advance(3)
    before = stage.sim.snapshot(name)
    stage.break_gpu(0)
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    await stage.play(10)
    assert stage.sim.snapshot(name) == before


async def test_s18_a_record_taken_off_by_hand_leaves_no_taint_of_ours() -> None:
    """Whoever removes the annotation gives the node back: the case ends as reverted, and our taint goes with it."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act condition")
    stage.sim.edit(name, lambda raw: raw["metadata"]["annotations"].pop(UNDO_ANNOTATION))
    await stage.play(20)
    assert stage.only_case().result is Result.REVERTED
    assert TAINT_KEY not in [t["key"] for t in stage.sim.raw(name)["spec"].get("taints", ())]


async def test_s18_a_requested_reboot_is_withdrawn_though_its_policy_is_gone() -> None:
    """A person takes the node back while the reboot is still to come and its policy was removed: it never comes."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act condition")
    stage.sim.machines.waits = True
    await stage.play(until="Act reboot")
    await stage.play(3)
    stage.policies = ()
    stage.sim.edit(name, lambda raw: raw["spec"].pop("taints"))
    await stage.play(5)
    assert stage.only_case().result is Result.TAKEN_OVER
    operation = next(a.operation for a in stage.only_case().attempts if a.cure)
    assert stage.sim.machines.carry_out(operation) is False, "nothing is left to be carried out"


@pytest.mark.parametrize("first", range(0, 13, 2))
async def test_s18_two_crashes_while_giving_back_leave_nothing_behind(first: int) -> None:
    """Killed at any two boundaries of the healthy end, the node is as before: no condition is published once more."""
    for second in range(1, 13, 2):
        stage = Stage()
        name = stage.names[0]
        before = stage.sim.snapshot(name)
        stage.break_gpu(0)
        await stage.play(until="Act probation")
        stage.sim.gate.kill_at(first)
        kills = 0
        for _ in range(60):
            try:
                await stage.round()
            except Killed:
                kills += 1
                stage.boot()
                if kills == 1:
                    stage.sim.gate.kill_at(second)
            stage.advance()
        assert stage.only_case().result is Result.RESTORED, (first, second)
        assert stage.sim.snapshot(name) == before, (first, second)


async def test_s18_a_half_contained_node_that_is_well_again_is_given_back() -> None:
    """The condition could not be written before the fault went away: the proof is asked for all the same."""
    stage = Stage()
    name = stage.break_gpu(0)
    stage.sim.gate.fail_next("set_conditions", injection.server_error(), times=3)
    await stage.play(3)
    stage.sim.gate.clear()
    stage.sim.edit(name, lambda raw: raw["metadata"]["labels"].update({"gpu.health/ignore": "true"}))
    assert (await stage.play(5))[-1] == "Hold condition left-alone"
    stage.sim.fleet[name].cure("reboot")
    stage.latch.latched.clear()
    assert (await stage.play(120, until="Done"))[-1] == "Done restored"
    assert not stage.sim.raw(name)["spec"].get("unschedulable")


async def test_s18_the_shared_lease_is_kept_to_the_end() -> None:
    """Other remediators see the node's Lease held from the first disruptive step until the case is over."""
    stage = Stage(steps=[*LADDER[:5], {"probation": {"quiet": "40m"}}, "restore"])
    name = stage.break_gpu(0)
    await stage.play(until="Act drain")
    await stage.play(3)
    while not any("Done" in w for w in stage.heard.words()):
        await stage.round()
        lock = stage.sim.cluster.locks.get(name)
        over = stage.only_case().closed_at is not None
        assert over or (lock is not None and lock.expires_at > stage.sim.now()), stage.heard.words()[-1]
        if len(stage.sim.machines.reboots) and stage.heard.words()[-1].startswith("Wait probation"):
            stage.sim.advance(timedelta(seconds=55))
        stage.advance(5)
    assert stage.heard.words()[-1] == "Done restored"
    assert name not in stage.sim.cluster.locks


async def test_s17_the_last_node_of_a_pool_needs_a_yes_on_its_own_evidence() -> None:
    """An approval for other evidence opens nothing; the refusal says which evidence to approve."""
    stage = Stage(nodes=1)
    name = stage.break_gpu()
    stage.sim.workloads.deployment("web", replicas=1, nodes=(name,))
    stage.advance(3)
    assert (await stage.play(10))[-1] == "Hold drain last-of-pool"
    wanted = stage.heard.verdicts[-1][1].refusals[0].blockers[-1]  # type: ignore[union-attr]
    for step in ("drain", "reboot"):
        await approve(stage, step, "0123456789ab")
    assert (await stage.play(20))[-1] == "Hold drain last-of-pool"
    assert stage.sim.gate.made("evict") == []
    await approve(stage, "drain", wanted)
    assert "Act drain" in await stage.play(5)


async def approve(stage: Stage, step: str, evidence: str) -> None:
    """Store a person's yes."""
    (stored,) = await stage.sim.remediations.list()
    yes = Approval(step=step, evidence=evidence, by="ann", expires_at=stage.sim.now() + timedelta(hours=1))
    await stage.sim.remediations.approve(stored, (*stored.case.approvals, yes))


async def test_s17_a_mode_lowered_over_a_contained_node_is_told() -> None:
    """The node stays cordoned, so it is shown as held, not as merely observed, and an Event says so."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act condition")
    stage.cap(mode=Mode.OBSERVE)
    telemetry = Telemetry(cluster="test", clock=stage.sim.clock, audit=io.StringIO())
    stage.heard = telemetry  # type: ignore[assignment]
    stage.boot()
    published = len(stage.sim.gate.made("publish"))
    for _ in range(10):
        await stage.round()
        stage.advance()
    shown = [x for x in telemetry.text().decode().splitlines() if x.startswith("gpuheal_case_state{")]
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True
    assert len(shown) == 1
    assert 'state="held"' in shown[0]
    assert len(stage.sim.gate.made("publish")) > published


@pytest.mark.parametrize("classes", [(WitnessClass.KUBERNETES,), (WitnessClass.KERNEL,)], ids=["unmarked", "contained"])
async def test_s17_a_forged_attempt_opens_no_gate(classes: tuple[WitnessClass, ...]) -> None:
    """A drain that somebody wrote into the status, begun before the node was marked, is no case in flight."""
    stage = Stage(nodes=1)
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=1, nodes=(name,))
    stage.advance(3)
    stage.evidence.classes, stage.evidence.sources = classes, ()
    stage.latch.latched[(name, stage.sim.fleet[name].spec.gpus[0].uuid)] = stage.sim.now()
    await stage.play(5)
    (stored,) = await stage.sim.remediations.list()
    case = replace(stored.case, attempts=(*stored.case.attempts, forged(stored.case)))
    await stage.sim.remediations.save(Stored(case=case, version=stored.version), None)
    await stage.play(20)
    assert stage.sim.machines.reboots == []
    assert stage.sim.gate.made("evict") == []


def forged(case: Case) -> Attempt:
    """Return a drain that nobody began and that is said to be over."""
    began = case.opened_at - timedelta(seconds=1)
    return Attempt(
        step="drain",
        action="drain",
        phase=Phase.EMPTY,
        operation=f"{case.name}-x",
        state=AttemptState.SUCCEEDED,
        started_at=began,
        ended_at=began,
    )
