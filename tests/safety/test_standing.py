"""Nothing stands still untold, nothing goes round for ever: S03, S14, S15, S18, S21 and S25."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.responder.stage import FAULTS, LADDER, Stage
from tests.safety.test_believed import OBSERVED

from gpuheal_lab.fleet import injection
from gpuheal_responder.actions import SPECS, drain
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.core import decide as core_decide
from gpuheal_responder.core.case import Result
from gpuheal_responder.core.history import History, believable
from gpuheal_responder.core.node import Unreadable
from gpuheal_responder.core.undo import UNDO_ANNOTATION
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.round import engine

REMAP = "gpu-row-remap-failed"
MINUTE = timedelta(minutes=1)


def lift(raw: dict[str, Any]) -> None:
    """Take taints and cordon off a raw Node."""
    raw["spec"].pop("taints", None)
    raw["spec"].pop("unschedulable", None)


def silent(stage: Stage) -> bool:
    """Return whether the stage has told nobody anything of its faulty nodes."""
    return not stage.heard.ignored and not stage.heard.standing_now


@pytest.mark.parametrize("first", ["observe", "enforce"])
async def test_s25_a_fault_waits_for_no_policy_that_does_nothing(first: str) -> None:
    """A fault that is observed or silenced keeps no other one of its node from the policy that acts on it."""
    stage = Stage(more_faults=(REMAP,))
    raw = [
        {"name": "a", "mode": first, "match": {"faults": ["gpu-fell-off-bus"]}, "steps": list(LADDER)},
        {"name": "b", "mode": "enforce", "match": {"faults": [REMAP]}, "steps": ["taint", "condition"]},
    ]
    stage.policies = parse_policies({"policies": raw}, file="t.yaml", actions=SPECS, faults=FAULTS | {REMAP})
    stage.advance(3)
    stage.evidence.classes = stage.evidence.classes[1:2] if first == "observe" else ()
    name = stage.break_gpu()
    await stage.play(10)
    assert (await stage.sim.cluster.node(name)).record is None
    stage.ail(REMAP, gpu=5)
    await stage.play(10)
    assert (await stage.sim.cluster.node(name)).record.policy == "b"
    waiting = [i for i in stage.heard.ignored if i.reason == "other-case"]
    assert [[f.slug for f in i.faults] for i in waiting] == [["gpu-fell-off-bus"]]
    assert "policy a follows" in waiting[0].message


async def test_s15_a_create_whose_answer_is_lost_makes_no_second_case() -> None:
    """An unmarked case has one name until it is stored, whatever becomes of the answers."""
    stage = Stage(mode="observe")
    stage.sim.gate.fail_next("create", injection.timeout(), times=5, applied=True)
    stage.advance(3)
    stage.break_gpu()
    await stage.play(30)
    assert len(stage.cases()) == 1
    assert len({case.name for case, _ in stage.heard.verdicts}) == 1


async def test_s15_a_create_that_is_refused_for_good_is_told_and_not_tried_at_every_look() -> None:
    """A case that cannot be stored keeps its name, and with it the count of refusals."""
    stage = Stage(mode="observe")
    stage.sim.gate.fail_next("create", injection.forbidden(), times=10**6)
    stage.advance(3)
    stage.break_gpu()
    await stage.play(600)
    assert 1 <= len([c for c in stage.sim.gate.refused if c[0] == "create"]) < 20
    assert "Hold forbidden" in stage.heard.words()


async def test_s18_of_two_open_cases_of_a_node_one_is_closed() -> None:
    """A copy that somebody restored does not take the node again after a person took it back."""
    stage = Stage()
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(20, until="Act condition")
    (case,) = stage.cases()
    await stage.sim.remediations.create(replace(case, name=f"{name}-copy", attempts=()), {})
    await stage.play(3)
    assert {c.name: c.result for c in stage.cases()} == {case.name: None, f"{name}-copy": Result.SUPERSEDED}

    stage.sim.edit(name, lift)
    await stage.play(30)
    assert (await stage.sim.cluster.node(name)).record is None


def test_s03_no_policy_may_ask_for_more_than_ten_years() -> None:
    """A wait that no calendar holds would end in an error at the moment it is due."""
    steps = [*LADDER[:5], {"probation": {"quiet": "99999999d"}}, "restore"]
    raw = {"policies": [{"name": "a", "mode": "enforce", "match": {"faults": ["gpu-fell-off-bus"]}, "steps": steps}]}
    with pytest.raises(ConfigError, match="at most 3650 days"):
        parse_policies(raw, file="t.yaml", actions=SPECS, faults=FAULTS)


async def test_s03_a_case_that_cannot_be_decided_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw about one case is told as a hold of that case; all others go on."""
    stage = Stage()
    stage.advance(3)
    cursed = stage.break_gpu(0)
    other = stage.break_gpu(5)

    def fails(case: Any, policy: Any, world: Any) -> Any:
        if case.node == cursed:
            raise OverflowError("date value out of range")
        return core_decide.decide(case, policy, world)

    monkeypatch.setattr(engine, "decide", fails)
    await stage.play(10)
    assert (await stage.sim.cluster.node(other)).record is not None
    assert "Hold internal-error" in stage.heard.words()


@pytest.mark.parametrize("problem", ["conflict", "throttled", "server_error", "timeout"])
async def test_s25_a_mark_that_never_succeeds_is_told(problem: str) -> None:
    """A sick node that cannot be tainted is not said to be acted on; the taint is tried on, at a bounded rate."""
    stage = Stage()
    stage.advance(3)
    stage.sim.gate.fail_next("mark", getattr(injection, problem)(), times=10**6)
    stage.break_gpu()
    await stage.play(600)
    ((_, verdict),) = stage.heard.standing_now
    assert type(verdict).__name__ == "Hold"
    assert any(word.startswith("Hold ") for word in stage.heard.words()), "an Event tells of it, too"
    refused = len([c for c in stage.sim.gate.refused if c[0] == "mark"])
    assert 50 < refused < 400, "about every ten seconds, three times where it was a conflict"
    stage.sim.gate.clear()
    await stage.play(60, until="Act condition")


async def test_s14_a_mark_counts_from_when_it_was_made() -> None:
    """Tries that were refused for half an hour have marked nothing; the rate counts what was."""
    stage = Stage()
    stage.advance(3)
    stage.break_gpu(0)
    stage.sim.gate.fail_next("mark", injection.forbidden(), times=6)
    await stage.play(3000, until="Done restored")
    made = next(c.at for c in stage.sim.gate.made("mark") if c.target == stage.names[0])
    (history,) = (await stage.sim.histories.all()).values()
    assert abs(history.marks[0] - made) <= timedelta(seconds=1)


async def test_s15_a_node_that_comes_and_goes_stays_contained_after_five_times() -> None:
    """A policy without a cure gives a flapping node back a few times, then people have it; others get their turn."""
    stage = Stage(steps=OBSERVED)
    stage.advance(3)
    name = stage.names[0]
    for turn in range(8):
        stage.break_gpu(0)
        if turn == 6:
            stage.break_gpu(5)
        for _ in range(20):
            await stage.round()
            stage.advance(20)
        stage.sim.fleet[name].cure("reboot")
        stage.latch.latched = {key: at for key, at in stage.latch.latched.items() if key[0] != name}
        for _ in range(40):
            await stage.round()
            stage.advance(20)
    assert len([c for c in stage.cases() if c.node == name]) == 5
    assert "Escalate flapping" in stage.heard.words()
    assert (await stage.sim.cluster.node(name)).record is not None
    assert (await stage.sim.cluster.node(stage.names[5])).record is not None


def test_s15_moments_that_lie_ahead_are_not_believed() -> None:
    """A clock that was a year ahead for a minute must not use up a pool's budget for a year."""
    stage = Stage()
    now = stage.sim.now()
    ahead = now + timedelta(days=365)
    known = History(machine="m", marks=(now, ahead), settled_at=ahead, taken_at=now)
    assert believable(known, now) == History(machine="m", marks=(now,), taken_at=now)


async def test_s21_a_copied_undo_record_is_nobodys_of_this_node() -> None:
    """A manifest made from another node's brings its record: the node is told of, not taken for contained."""
    stage = Stage()
    stage.advance(3)
    first = stage.break_gpu(0)
    await stage.play(20, until="Act condition")
    text = stage.sim.raw(first)["metadata"]["annotations"][UNDO_ANNOTATION]
    other = stage.names[1]
    stage.sim.edit(other, lambda raw: raw["metadata"]["annotations"].__setitem__(UNDO_ANNOTATION, text))
    assert isinstance((await stage.sim.cluster.node(other)).undo, Unreadable)
    stage.break_gpu(1)
    await stage.play(10)
    assert stage.heard.unreadable == [other]
    assert [i.reason for i in stage.heard.ignored if i.node == other] == ["undo-unreadable"]
    assert stage.heard.words()[-1] != "Hold node-changed"


async def test_s03_a_very_long_hold_is_cut() -> None:
    """A pasted log in an annotation must not make the case too large to be stored."""
    stage = Stage()
    stage.advance(3)
    name = stage.break_gpu()
    stage.sim.edit(name, lambda raw: raw["metadata"]["annotations"].__setitem__("gpu.health/hold", "x" * 250_000))
    await stage.play(5)
    (case, verdict) = stage.heard.standing_now[0]
    assert case.node == name
    assert len(verdict.refusals[0].message) < 1000


async def test_s15_a_history_that_cannot_be_read_is_no_clean_sheet() -> None:
    """What was tried on the machine is not known, so nothing disruptive is; and people are told."""
    stage = Stage()
    stage.advance(3)
    name = stage.break_gpu()
    machine = (await stage.sim.cluster.node(name)).system_uuid
    stage.sim.histories.kept[machine] = {"machine": machine, "unreadable": "marks: expected a list"}
    await stage.play(60)
    assert stage.sim.machines.reboots == []
    assert stage.heard.words()[-1].endswith("history-unreadable")
    assert not silent(stage)


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "2026-01-05T08:00:00"])
async def test_s18_a_record_with_a_time_that_is_none_is_unreadable(at: str) -> None:
    """A moment at the edge of the calendar or without a zone would fail every look that reckons with it."""
    stage = Stage()
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(20, until="Act condition")
    record = json.loads(stage.sim.raw(name)["metadata"]["annotations"][UNDO_ANNOTATION]) | {"at": at}
    stage.sim.edit(name, lambda raw: raw["metadata"]["annotations"].__setitem__(UNDO_ANNOTATION, json.dumps(record)))
    await stage.play(3)
    assert stage.heard.unreadable == [name]


async def test_s14_an_nvlink_domain_is_one_whatever_pools_its_nodes_are_of() -> None:
    """Two nodes of one domain are not rebooted at once, though they belong to two node groups."""
    stage = Stage()
    for index in (0, 1):
        labels = {"gpu.health/fabric-domain": "d1", "gpu.health/pool": f"p{index}"}
        stage.sim.edit(stage.names[index], lambda raw, labels=labels: raw["metadata"]["labels"].update(labels))
    stage.advance(3)
    stage.break_gpu(0)
    stage.break_gpu(1)
    await stage.play(60, until="Act reboot")
    assert any(word.endswith("fabric-domain-budget") for word in stage.heard.words())


async def test_s07_a_slow_drain_is_looked_at_between_evictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the API server is, a pass of evictions ends after seconds, and people are heard again."""
    monkeypatch.setattr(drain, "PASS", timedelta(0))
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=6, nodes=(name,))
    stage.advance(3)
    stage.break_gpu(0)
    stage.sim.gate.on_call.append(lambda call: call.method == "evict" and stage.cap(paused="ann: stop"))
    await stage.play(60)
    assert len(stage.sim.gate.made("evict")) == 1


def test_s08_no_policy_may_ask_for_more_evaluations_than_are_read() -> None:
    """Else a node that is well would never be proven."""
    steps = [*LADDER[:4], {"verify": {"evaluations": 60, "deadline": "2m"}}, "restore"]
    raw = {"policies": [{"name": "a", "mode": "enforce", "match": {"faults": ["gpu-fell-off-bus"]}, "steps": steps}]}
    with pytest.raises(ConfigError, match="from 2 to 20"):
        parse_policies(raw, file="t.yaml", actions=SPECS, faults=FAULTS)


async def test_s14_a_node_in_flight_still_counts_as_marked_lately() -> None:
    """While the first node reboots, no second one of its small pool is contained within the ten minutes."""
    stage = Stage()
    stage.advance(3)
    stage.break_gpu(0)
    await stage.play(60, until="Act reboot")
    second = stage.break_gpu(1)
    await stage.play(5)
    assert (await stage.sim.cluster.node(second)).record is None
    assert "Hold taint mark-budget" in stage.heard.words()


async def test_s09_a_clock_that_is_ahead_settles_nothing_to_come() -> None:
    """A replica whose clock is ten minutes ahead dates a person's act too late: a fault of a minute later is news."""

    class Ahead:
        def now(self) -> datetime:
            return stage.sim.now() + timedelta(minutes=10)

    stage = Stage(steps=["taint", "condition"])
    base = stage.sim.clock
    stage.sim.clock = Ahead()
    stage.boot()
    stage.sim.clock = base
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(70)
    stage.sim.edit(name, lift)
    await stage.play(60)
    assert stage.only_case().result is Result.TAKEN_OVER
    stage.break_gpu(0, 5)
    await stage.play(20)
    assert (await stage.sim.cluster.node(name)).record is not None


async def test_s09_a_case_that_takes_long_to_close_settles_nothing_of_meanwhile() -> None:
    """What a person took back is settled as of their act: a fault that comes while we cannot close the case is news."""
    stage = Stage(steps=["taint", "condition"])
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(70)
    stage.sim.gate.fail_next("set_conditions", injection.timeout(), times=12, applied=False)
    stage.sim.edit(name, lift)
    await stage.play(5)
    stage.break_gpu(0, 5)
    await stage.play(400)
    assert stage.cases()[0].result is Result.TAKEN_OVER
    assert stage.cases()[0].closed_at - stage.latch.latched[(name, stage.sim.fleet[name].spec.gpus[5].uuid)] > MINUTE
    assert (await stage.sim.cluster.node(name)).record is not None


async def test_s09_whoever_finds_only_marks_settles_nothing_since_they_were_made() -> None:
    """A new process cannot tell when the one before it looked last: what came since the node was marked is news."""
    stage = Stage(steps=["taint"])
    stage.sim.gate.fail_next("create", injection.forbidden(), times=1)
    stage.advance(3)
    name = stage.break_gpu()
    await stage.round()
    assert stage.cases() == []
    stage.boot()
    stage.advance(70)
    stage.break_gpu(0, 5)
    stage.advance(70)
    stage.sim.edit(name, lambda raw: raw["spec"].pop("unschedulable", None))
    await stage.play(20)
    assert (await stage.sim.cluster.node(name)).record is not None


async def test_s18_the_shared_lease_of_a_node_on_probation_is_short() -> None:
    """Whoever dies in a long probation keeps other tools out for minutes: the Lease is renewed while we live."""
    stage = Stage(steps=[*LADDER[:5], {"probation": {"quiet": "6h"}}, "restore"])
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(until="Act probation")
    for _ in range(5):
        stage.sim.advance(timedelta(minutes=3))
        await stage.play(2)
        left = stage.sim.cluster.locks[name].expires_at - stage.sim.now()
        assert timedelta(minutes=3) < left <= timedelta(minutes=10)


async def test_s18_a_person_is_answered_though_nothing_of_the_case_is_stored() -> None:
    """Whose Remediation could never be written still ends with an Event when a person uncordons the node."""
    stage = Stage(steps=["taint"])
    stage.sim.gate.fail_next("create", injection.forbidden(), times=1000)
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(3)
    stage.sim.edit(name, lambda raw: raw["spec"].pop("unschedulable", None))
    await stage.play(5)
    assert any("taken-over" in event.message for event in stage.sim.api.events(name))


@pytest.mark.parametrize("heard", [False, True])
async def test_s09_a_person_takes_back_what_they_could_hear_of(heard: bool) -> None:
    """A fault that came up seconds before the cordon was lifted is news; one that was told long before is not."""
    stage = Stage(steps=["taint", "condition"])
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(70)
    stage.break_gpu(0, 5)
    await stage.play(120 if heard else 2)

    stage.sim.edit(name, lift)
    await stage.play(20)
    assert ((await stage.sim.cluster.node(name)).record is None) is heard


@pytest.mark.parametrize("heard", [False, True])
async def test_s09_a_relapse_seconds_before_a_take_back_is_news(heard: bool) -> None:
    """The same GPU fails again after its cure: whoever uncordons the node that very moment cannot know of it yet."""
    stage = Stage(steps=[*LADDER[:5], {"probation": {"quiet": "6h"}}, "restore"])
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(until="Act probation")
    await stage.play(70)
    stage.break_gpu()
    await stage.play(120 if heard else 2)
    stage.sim.edit(name, lift)
    await stage.play(20)
    assert ((await stage.sim.cluster.node(name)).record is None) is heard
