"""An action that survives its node, added by its own file and a line in the registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.responder.actions.replace import Vendor, action
from tests.responder.stage import LADDER, Stage, policies

from gpuheal_lab.fleet.injection import Killed
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_responder.actions.action import Action
from gpuheal_responder.commands import explain
from gpuheal_responder.core.case import AttemptState, Result
from gpuheal_responder.core.history import machine_of

LASTING = fell_off_bus(cured_by=frozenset())
STEPS: tuple[object, ...] = (*LADDER[:3], "replace", *LADDER[4:])
Register = Callable[[Action], None]


def staged(register: Register, **vendor: bool) -> tuple[Stage, Vendor, str]:
    """Return a stage whose policy replaces machines, who replaces them, and the machine that is broken."""
    stage = Stage(nodes=4)
    found = Vendor(stage, **vendor)
    register(action(found))
    stage.policies = policies("enforce", STEPS)
    stage.sim.workloads.deployment("web", replicas=1, nodes=(stage.names[0],))
    stage.advance(3)
    machine = stage.sim.fleet[stage.names[0]].spec.system_uuid
    stage.break_gpu(fault=LASTING)
    return stage, found, machine


async def vanish(stage: Stage) -> None:
    """Play until the node is gone."""
    for _ in range(60):
        await stage.round()
        stage.advance()
        if stage.names[0] not in stage.sim.api.nodes:
            return
    raise AssertionError("the node never vanished")


async def test_another_machine_ends_the_case(register: Register) -> None:
    """The Node object goes, the case waits; another machine takes the name, and the old one's case is over."""
    stage, vendor, _ = staged(register)
    await vanish(stage)
    await stage.round()
    assert stage.heard.words()[-1] == "Wait replace replacing"
    assert (await stage.play(60, until="Done"))[-1] == "Done machine-replaced"
    assert stage.only_case().result is Result.GONE
    assert next(a for a in stage.only_case().attempts if a.cure).state is AttemptState.SUCCEEDED
    assert vendor.asked == [stage.names[0]]
    calls = len(stage.sim.gate.calls)
    await stage.play(10)
    assert len(stage.sim.gate.calls) == calls


async def test_the_replaced_machine_keeps_its_past_and_the_new_one_has_none(register: Register) -> None:
    """The replacement counts in the history of the machine that left, not of the one that came."""
    stage, _, machine = staged(register)
    await stage.play(60, until="Done")
    histories = await stage.sim.histories.all()
    (cure,) = histories[machine_of(machine, stage.names[0])].cures
    assert (cure.action, cure.ended_at is not None) == ("replace", True)
    assert set(histories) == {machine}


async def test_a_vanished_node_uses_budget(register: Register) -> None:
    """While the replacement is under way the pool counts a node out of service, though no Node object says so."""
    stage, _, _ = staged(register)
    await vanish(stage)
    stage.break_gpu(node=1, fault=LASTING)
    await stage.play(3)
    words = stage.heard.words()
    assert [w for w in words if w.startswith("Hold")], words
    assert any(w.endswith("pool-budget") for w in words), words


async def test_no_machine_goes_to_people(register: Register) -> None:
    """Nothing comes in the old one's place: people are told once, and the case stays open until a machine is there."""
    stage, _, machine = staged(register, delivers=False)
    said = await stage.play(60, until="Escalate")
    assert said[-1] == "Escalate replace-failed"
    await stage.play(10)
    case = stage.only_case()
    assert (case.closed_at, case.escalated) == (None, "replace-failed")
    assert stage.heard.words().count("Escalate replace-failed") == 1
    assert set(await stage.sim.histories.all()) == {machine}
    stage.sim.swap(stage.names[0])
    assert (await stage.play(10, until="Done"))[-1] == "Done machine-replaced"


async def test_the_old_machine_put_back_is_handled_anew(register: Register) -> None:
    """The replacement failed and the old machine came back: its case ends, and its fault is a case of its own."""
    stage, vendor, machine = staged(register, delivers=False, rejoins=True)
    await stage.play(30, until="Done node-recreated")
    assert "Done node-recreated" in stage.heard.words()
    stage.sim.fleet[stage.names[0]].switch_on()
    assert (await stage.play(30, until="cooldown"))[-1].endswith("cooldown")
    assert len(vendor.asked) == 1
    assert machine in await stage.sim.histories.all()


@pytest.mark.parametrize("delivers", [True, False])
async def test_killed_at_every_boundary_the_end_is_the_same(register: Register, delivers: bool) -> None:
    """A responder killed on either side of any changing call asks for one machine, and ends as if it had lived."""
    end = "Done" if delivers else "Escalate"
    stage, _, _ = staged(register, delivers=delivers)
    stage.sim.gate.kill_at(None)
    await stage.play(until=end)
    count = stage.sim.gate.crossings
    assert count > 20
    for crossing in range(count):
        stage, vendor, _ = staged(register, delivers=delivers)
        stage.sim.gate.kill_at(crossing)
        killed = 0
        for _ in range(60):
            try:
                await stage.round()
            except Killed:
                killed += 1
                stage.boot()
            if killed and any(c.closed_at or c.escalated for c in stage.cases()):
                break
            stage.advance()
        case = stage.only_case()
        assert killed == 1, crossing
        assert vendor.asked == [stage.names[0]], crossing
        assert (case.result, case.escalated) == ((Result.GONE, "") if delivers else (None, "replace-failed")), crossing
        assert len([a for a in case.attempts if a.cure]) == 1, crossing


async def test_explain_replays_every_decision(
    register: Register, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stored decision decides the same again, those without a Node included."""
    stage, _, _ = staged(register)
    await stage.play(60, until="Done")
    (records,) = stage.sim.remediations.decisions.values()
    policy, record = tmp_path / "policy.yaml", tmp_path / "record.json"
    policy.write_text(
        "policies: [{name: fell-off-bus, mode: enforce, match: {faults: [gpu-fell-off-bus]}, "
        f"steps: {json.dumps(list(STEPS))}}}]"
    )
    for found in records:
        record.write_text(json.dumps(found))
        assert explain.main(["--record", str(record), "--policies", str(policy)]) == 0
    said = capsys.readouterr().out
    assert said.count("same verdict") == len(records)
    assert "replayed wait: replace (replacing)" in said
