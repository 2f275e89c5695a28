"""Invariants of delivery and process: S01, S16, S22, S24."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from tests.responder.stage import Stage, word

from gpuheal_lab.fleet import injection
from gpuheal_lab.fleet.injection import Killed
from gpuheal_responder.core.case import Result
from gpuheal_responder.shell.record import replay

MOST_ROUNDS = 200


def story() -> tuple[Stage, str, bytes]:
    """Return a stage with pods on the node that breaks, the node's name and how it looked before."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=2, nodes=(name,))
    stage.advance(3)
    before = stage.sim.snapshot(name)
    stage.break_gpu()
    return stage, name, before


async def crossings() -> int:
    """Return how many sides of changing calls one undisturbed story has."""
    stage, _, _ = story()
    stage.sim.gate.kill_at(None)
    await stage.play(until="Done")
    return stage.sim.gate.crossings


async def test_s16_killed_at_every_boundary_the_end_is_the_same() -> None:
    """A responder killed on either side of any changing call leaves a story that ends alike, with one reboot."""
    count = await crossings()
    assert count > 20
    for crossing in range(count):
        stage, name, before = story()
        stage.sim.gate.kill_at(crossing)
        killed = 0
        for _ in range(MOST_ROUNDS):
            try:
                await stage.round()
            except Killed:
                killed += 1
                stage.boot()
            if any(c.closed_at for c in stage.cases()) and stage.sim.snapshot(name) == before:
                break
            stage.advance()
        assert killed == 1, crossing
        assert stage.sim.snapshot(name) == before, crossing
        assert stage.only_case().result is Result.RESTORED, crossing
        assert len(stage.sim.machines.reboots) == 1, crossing
        assert len(stage.sim.gate.made("reboot")) <= 2, crossing
        assert len([a for a in stage.only_case().attempts if a.cure]) == 1, crossing
        evicted = [c.detail for c in stage.sim.gate.made("evict")]
        assert len(set(evicted)) == 2, crossing


@pytest.mark.parametrize("method", ["mark", "set_conditions", "evict", "create", "save", "lock", "reboot", "publish"])
@pytest.mark.parametrize(
    "problem", [injection.conflict, injection.throttled, injection.server_error, injection.timeout]
)
@pytest.mark.parametrize("applied", [False, True])
async def test_s01_errors_of_the_api_change_latency_not_the_outcome(
    method: str, problem: object, applied: bool
) -> None:
    """409, 429, 500 and time-outs, before or after the call took effect, end in the same state with one reboot."""
    stage, name, before = story()
    stage.sim.gate.fail_next(method, problem(), times=2, applied=applied)  # type: ignore[operator]
    said = await stage.play(until="Done")
    assert said[-1] == "Done restored"
    assert stage.sim.snapshot(name) == before
    assert len(stage.sim.machines.reboots) == 1


@pytest.mark.parametrize("method", ["nodes", "list", "controls", "node", "pods_on", "lookup", "lock_of"])
async def test_s01_failed_reads_change_latency_not_the_outcome(method: str) -> None:
    """A source that cannot be read for a while delays the story; nothing disruptive begins blindly."""
    stage, name, before = story()
    stage.sim.gate.fail_next(method, injection.unseen(), times=4)
    for _ in range(MOST_ROUNDS):
        await stage.engine._safe_round()
        if any("Done" in w for w in stage.heard.words()):
            break
        stage.advance()
    assert stage.heard.words()[-1] == "Done restored"
    assert stage.sim.snapshot(name) == before


async def test_s01_without_any_delivery_the_outcome_is_the_same() -> None:
    """The engine finds the fault in Alertmanager's list by itself; deliveries only wake it."""
    stage, name, before = story()
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert stage.sim.snapshot(name) == before


async def test_s01_alertmanager_and_prometheus_come_and_go() -> None:
    """Sources that vanish and return at random moments change when things happen, not what."""
    chance = random.Random(7)
    for _ in range(12):
        stage, name, before = story()
        for _ in range(MOST_ROUNDS):
            stage.alerts.answers = chance.random() > 0.3
            stage.alerts.mute = chance.random() < 0.2
            stage.evidence.answers = chance.random() > 0.3
            await stage.round()
            if any("Done" in w for w in stage.heard.words()):
                break
            stage.advance()
        stage.alerts.answers, stage.alerts.mute, stage.evidence.answers = True, False, True
        said = await stage.play(until="Done restored")
        assert "Done restored" in said
        assert stage.sim.snapshot(name) == before
        assert len(stage.sim.machines.reboots) == 1


async def test_s22_a_replica_that_does_not_lead_changes_nothing() -> None:
    """Without the Lease nothing is looked at and nothing is written."""
    stage, _, _ = story()
    calls = len(stage.sim.gate.calls)
    stage.leads = False
    await stage.play(10)
    assert len(stage.sim.gate.calls) == calls
    assert stage.cases() == []


async def test_s22_losing_the_lease_stops_before_the_next_step() -> None:
    """The Lease lost between intent and call: the call is not made; the next executor makes it."""
    stage, name, before = story()
    await stage.play(until="Act drain")
    remaining = {"n": 0}

    def may_act() -> bool:
        intended = any(a.cure for c in stage.cases() for a in c.attempts)
        remaining["n"] += intended
        return not intended

    stage.engine.may_act = may_act
    await stage.play(15)
    assert remaining["n"] > 0
    assert stage.sim.machines.reboots == []
    stage.boot()
    stage.heard.verdicts.clear()
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert stage.sim.snapshot(name) == before
    assert len(stage.sim.machines.reboots) == 1


async def test_s24_every_stored_decision_replays_to_its_verdict() -> None:
    """Each decision record, with the policy it names, decides the same again."""
    stage, _, _ = story()
    await stage.play(until="Done")
    records = [r for kept in stage.sim.remediations.decisions.values() for r in kept]
    assert len(records) >= 6
    for found in records:
        again = replay(found, stage.policies[0])
        verdict = found["verdict"]
        assert isinstance(verdict, dict)
        assert word(again).split()[0].lower() == str(verdict["verdict"]).lower()
        assert getattr(again, "reason", None) == verdict.get("reason")


async def test_s01_a_day_later_nothing_is_left_to_do() -> None:
    """A finished story stays finished: no write of any kind in the next rounds."""
    stage, _, _ = story()
    await stage.play(until="Done")
    await stage.round()
    calls = len(stage.sim.gate.calls)
    stage.sim.advance(timedelta(days=1))
    await stage.play(10)
    assert len(stage.sim.gate.calls) == calls
