"""The engine on the simulated fleet: the whole story, and what stops it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from tests.responder.stage import CLUSTER, Stage

from gpuheal_lab.fleet import injection
from gpuheal_responder.core.alert import Alert
from gpuheal_responder.core.budget import DEFAULT_KEYS
from gpuheal_responder.core.case import Result
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.shell.process.slices import SLICE_S
from gpuheal_responder.shell.round.board import board_of
from gpuheal_responder.shell.round.observe import observe
from gpuheal_responder.shell.round.pace import Pace


def thermal(node: str, at: datetime) -> Alert:
    """Return a warning that no witness confirms."""
    labels = {
        "alertname": "GPUThermal",
        "fault": "gpu-thermal",
        "severity": "warning",
        "node": node,
        "cluster": CLUSTER,
    }
    return Alert(fingerprint="t", labels=labels, starts_at=at, updated_at=at)


async def test_a_broken_gpu_is_healed_and_the_node_given_back_exactly() -> None:
    """Taint, condition, drain, reboot, verify, probation, restore, in this order; the node ends as it began."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=2, nodes=(name,))
    stage.advance(3)
    before = stage.sim.snapshot(name)
    stage.break_gpu()
    said = await stage.play(until="Done")
    acts = [w for w in said if w.startswith("Act")]
    assert acts == [
        "Act taint",
        "Act condition",
        "Act drain",
        "Act reboot",
        "Act verify",
        "Act probation",
        "Act restore",
    ]
    assert said[-1] == "Done restored"
    assert stage.sim.snapshot(name) == before
    assert len(stage.sim.machines.reboots) == 1


async def test_our_own_alerts_about_a_case_are_not_its_faults() -> None:
    """An alert that says a case is held or a node not ready neither joins the case nor keeps it from ending."""
    stage = Stage(more_faults=("held", "node-not-ready"))
    name = stage.break_gpu()
    now = stage.sim.now()
    stage.alerts.extra = tuple(
        Alert(
            fingerprint=fault,
            labels={"alertname": "X", "fault": fault, "severity": "warning", "node": name, "cluster": CLUSTER},
            starts_at=now,
            updated_at=now,
        )
        for fault in ("held", "node-not-ready")
    )
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert {f.slug for f in stage.only_case().faults} == {"gpu-fell-off-bus"}


async def test_an_observed_fault_does_not_hide_one_to_act_on() -> None:
    """A case that only observes is taken over by the policy of a later fault, as nothing has been done yet."""
    stage = Stage(more_faults=("gpu-thermal",))
    (act,) = stage.policies
    look = replace(act, name="look", mode=Mode.OBSERVE, faults=("gpu-thermal",))
    stage.policies = (act, look)
    name, now = stage.names[0], stage.sim.now()
    stage.alerts.extra = (thermal(name, now),)
    assert await stage.play(3) == ["Hold taint not-probable"]
    stage.break_gpu()
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert stage.cases()[0].policy == act.name


async def test_a_fault_that_a_person_lives_with_does_not_hide_another_policys_fault() -> None:
    """The node was taken back with a lost GPU; what comes later is handled by its own policy, look after look."""
    stage = Stage(more_faults=("gpu-thermal",))
    (act,) = stage.policies
    stage.policies = (act, replace(act, name="mark", faults=("gpu-thermal",), steps=act.of(Phase.CONTAIN)))
    name = stage.break_gpu()
    await stage.play(until="Act condition")
    stage.sim.edit(name, lambda raw: raw["spec"].pop("taints"))
    await stage.play(5)
    assert stage.only_case().result is Result.TAKEN_OVER
    assert {(i.node, i.reason) for i in stage.heard.ignored} == {(name, Reason.TAKEN_BACK)}
    now = stage.sim.now()
    stage.alerts.extra = (thermal(name, now),)
    for _ in range(3):
        await stage.play(1)
        (case,) = [c for c in stage.cases() if c.closed_at is None]
        assert (case.policy, [f.slug for f in case.faults]) == ("mark", ["gpu-thermal"])
    assert stage.heard.words()[-1] == "Hold taint not-probable"


async def until(check: Callable[[], bool]) -> None:
    """Return when it is true; it fails after ten seconds."""
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_who_is_deposed_during_a_round_tells_nothing_of_it() -> None:
    """Its gauges were emptied when the lead went; what the round still had to say would stand there for good."""
    stage = Stage(nodes=1)
    stage.break_gpu()
    kept = stage.policies

    def deposed() -> tuple[Policy, ...]:
        stage.leads = False
        return ()

    stage.engine.policies = deposed
    await stage.round()
    assert (stage.heard.ignored, stage.heard.closed, stage.heard.open_cases) == ([], [], [])
    stage.leads, stage.engine.policies = True, lambda: ()
    await stage.round()
    assert [i.reason for i in stage.heard.ignored] == [Reason.NO_POLICY]
    stage.engine.policies = lambda: kept
    await stage.round()
    assert stage.heard.ignored == []
    assert len(stage.heard.open_cases) == 1


async def test_a_new_leader_looks_at_once() -> None:
    """A follower asks again and again whether it leads: after an election nobody waits for a whole tick."""
    stage = Stage()
    stage.break_gpu()
    stage.leads = False
    stage.engine.pace = Pace(poll=timedelta(milliseconds=10), gap=timedelta(0), tick=timedelta(hours=1))
    stop = asyncio.Event()
    running = asyncio.create_task(stage.engine.run(stop))
    await until(lambda: stage.engine.looked_at is not None)
    assert not stage.heard.verdicts
    stage.leads = True
    await until(lambda: bool(stage.heard.verdicts))
    stop.set()
    await running


async def test_a_look_at_a_large_fleet_leaves_the_loop_to_others() -> None:
    """While a round counts a thousand nodes and decides about them, others that wait for the loop get their turn."""
    stage = Stage(nodes=1000)
    for index in range(100):
        stage.break_gpu(index)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    waiting = asyncio.create_task(others())
    look = await observe(stage.engine.ports, cluster=CLUSTER, known_faults=stage.faults)
    seen, before = turns, time.process_time()
    await board_of(look, DEFAULT_KEYS, stage.policies)
    spent = time.process_time() - before
    waiting.cancel()
    assert seen > 0
    assert turns - seen >= int(spent / (4 * SLICE_S))


async def test_a_case_that_cannot_be_written_is_tried_ever_more_slowly_and_told() -> None:
    """Writes refused for good make no storm, and the case looks held, not acting; once they pass, it goes on."""
    stage = Stage()
    stage.break_gpu()
    stage.sim.gate.fail_next("save", injection.forbidden(), times=12)
    await stage.play(600)
    tried = [c for c in stage.sim.gate.calls if c.method == "save" and not c.answered]
    assert len(tried) <= 12
    assert any(word.startswith("Hold forbidden") for word in stage.heard.words())
    assert any(c.detail == "GPUHealHeld" for c in stage.sim.gate.made("publish"))
    assert (await stage.play(9000, until="Done"))[-1] == "Done restored"
