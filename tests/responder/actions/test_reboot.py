"""A reboot that was asked for and has not happened is taken back when its case ends."""

from __future__ import annotations

import pytest
from tests.responder.stage import LADDER, Stage

from gpuheal_lab.fleet import injection
from gpuheal_responder.core.case import Result
from gpuheal_responder.core.undo import TAINT_KEY
from gpuheal_responder.errors import Permanent


def untaint(stage: Stage, name: str) -> None:
    """A person takes the node back."""

    def change(raw: dict[str, object]) -> None:
        spec = raw["spec"]
        assert isinstance(spec, dict)
        spec["taints"] = [t for t in spec.get("taints", []) if t["key"] != TAINT_KEY]

    stage.sim.edit(name, change)


async def waiting() -> tuple[Stage, str]:
    """Return a stage on which a reboot was asked for and waits, as with a Job whose pod has not started."""
    stage = Stage()
    stage.sim.machines.waits = True
    name = stage.break_gpu()
    await stage.play(30, until="Wait reboot")
    assert len(stage.sim.gate.made("reboot")) == 1
    return stage, name


async def test_a_node_taken_back_is_not_rebooted_afterwards() -> None:
    """A person takes the node back before the reboot has begun: it never begins."""
    stage, name = await waiting()
    untaint(stage, name)
    assert (await stage.play(10, until="Done"))[-1] == "Done taken-over"
    (operation,) = {c.detail.partition(" ")[2] for c in stage.sim.gate.made("reboot")}
    assert stage.sim.machines.carry_out(operation) is False
    assert stage.sim.machines.reboots == []


async def test_a_case_ends_although_its_provider_is_not_configured_any_more() -> None:
    """Nobody can take the reboot back then; the case is not kept open for ever on that account."""
    stage, name = await waiting()
    stage.sim.gate.fail_next("withdraw", Permanent("unknown-provider", "provider 'lab' is not configured"))
    untaint(stage, name)
    await stage.play(10, until="Done")
    assert stage.only_case().result is Result.TAKEN_OVER


async def test_a_withdrawal_that_fails_for_now_is_made_again_before_the_case_ends() -> None:
    """An API server that does not answer delays the end of the case."""
    stage, name = await waiting()
    stage.sim.gate.fail_next("withdraw", injection.server_error(), times=2)
    untaint(stage, name)
    await stage.play(20, until="Done")
    assert stage.only_case().result is Result.TAKEN_OVER
    assert len(stage.sim.gate.made("withdraw")) == 1


async def test_a_reboot_given_up_at_its_deadline_does_not_come_after_the_case() -> None:
    """A failed attempt may be carried out late: it is taken back too when a person takes the node."""
    stage, name = await waiting()
    await stage.play(150, until="Escalate")
    untaint(stage, name)
    await stage.play(10, until="Done")
    assert stage.only_case().result is Result.TAKEN_OVER
    assert not any(stage.sim.machines.carry_out(c.detail.partition(" ")[2]) for c in stage.sim.gate.made("reboot"))
    assert stage.sim.machines.reboots == []


async def test_what_has_happened_is_not_withdrawn() -> None:
    """A reboot that was seen to have happened leaves nothing to take back."""
    stage = Stage()
    stage.break_gpu()
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert stage.sim.gate.made("withdraw") == []


@pytest.mark.parametrize("named", [{"provider": "lab"}, {}])
async def test_who_was_asked_is_told(named: dict[str, str]) -> None:
    """A policy that names no provider means the site's default one, and the timeline says which that was."""
    stage = Stage(steps=[*LADDER[:3], {"reboot": named}, *LADDER[4:]])
    stage.sim.machines.waits = True
    stage.break_gpu()
    await stage.play(30, until="Act reboot")
    (cure,) = (a for a in stage.only_case().attempts if a.cure)
    assert (cure.provider, cure.detail) == ("lab", "provider lab")
