"""What an attempt was begun under stays what it was, whatever settings and policies say while it is under way: S16."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.responder.stage import LADDER, Stage, policies

from gpuheal_lab.fleet import injection
from gpuheal_lab.fleet.injection import Call, Killed
from gpuheal_responder.core.case import AttemptState, Result
from gpuheal_responder.core.undo import TAINT_KEY

ANY: tuple[object, ...] = (*LADDER[:3], {"reboot": {"deadline": "2m"}}, *LADDER[4:])
"""The ladder with a reboot by whoever is the site's default."""
TWICE: tuple[object, ...] = (*LADDER[:4], {"reboot": {"provider": "job", "deadline": "2m"}}, *LADDER[4:])


async def killed_after_the_call(steps: tuple[object, ...] = ANY) -> tuple[Stage, str]:
    """Return a stage whose responder died between asking for a reboot and recording it; nothing has rebooted yet."""
    stage = Stage(steps=steps)
    stage.sim.machines.waits = True

    def die(call: Call) -> None:
        if call.method == "reboot":
            raise Killed

    stage.sim.gate.on_call.append(die)
    name = stage.break_gpu()
    with pytest.raises(Killed):
        await stage.play(30)
    stage.sim.gate.on_call.remove(die)
    (cure,) = (a for a in stage.only_case().attempts if a.cure)
    assert cure.state is AttemptState.INTENT
    stage.boot()
    return stage, name


def asked(stage: Stage) -> list[str]:
    """Return whom the reboots were asked of."""
    return [call.detail.partition(" ")[0] for call in stage.sim.gate.made("reboot")]


async def second(stage: Stage) -> None:
    """Play until the first reboot's time is up, the cooldown is over, and the second was asked for."""
    await stage.play(150, until="Hold reboot-2 cooldown")
    stage.advance(1800)
    await stage.play(5)
    assert asked(stage) == ["lab", "job"]


async def happens(stage: Stage) -> list[str]:
    """Let every reboot that was asked for happen now; return what the responder says until the node is given back."""
    for call in stage.sim.gate.made("reboot"):
        stage.sim.machines.carry_out(call.detail.partition(" ")[2])
    return await stage.play(until="Done")


async def test_s16_who_was_asked_is_asked_again_whatever_the_default_is_now() -> None:
    """The site's default provider changes over a crash: the one that got the call is asked, and nobody else reboots."""
    stage, name = await killed_after_the_call()
    stage.sim.machines.default = "job"
    await stage.play(20)
    assert asked(stage) == ["lab"]
    assert (await happens(stage))[-1] == "Done restored"
    assert stage.sim.fleet[name].boots == 2


async def test_s16_a_policy_that_names_another_provider_reaches_no_operation_under_way() -> None:
    """The policy's provider changes over a crash: the operation under way is looked up where it was asked for."""
    stage, name = await killed_after_the_call(LADDER)
    stage.policies = policies("enforce", [*LADDER[:3], {"reboot": {"provider": "job", "deadline": "2m"}}, *LADDER[4:]])
    await stage.play(20)
    assert asked(stage) == ["lab"]
    await happens(stage)
    assert stage.sim.fleet[name].boots == 2


async def test_s16_a_provider_that_is_gone_is_a_hold_and_never_a_no() -> None:
    """Nobody can be asked any more: people are told, no other cure begins, however long that takes."""
    stage, name = await killed_after_the_call(TWICE)
    stage.sim.machines.names = ("job",)
    assert (await stage.play(5))[-1] == "Hold unknown-provider"
    stage.advance(3600)
    await stage.play(5)
    assert asked(stage) == ["lab"]
    assert stage.heard.words()[-1] == "Hold unknown-provider"
    assert any("lab is not configured" in e.message for e in stage.sim.api.events(name))
    assert (await happens(stage))[-1] == "Done restored"
    assert stage.sim.fleet[name].boots == 2


async def test_s16_a_provider_that_comes_back_is_asked() -> None:
    """The provider is configured again: it says what became of the operation, and the case goes on."""
    stage, _ = await killed_after_the_call()
    stage.sim.machines.names = ("job",)
    await stage.play(5)
    stage.sim.machines.names = ("lab", "job")
    assert (await stage.play(5))[-1] == "Wait reboot rebooting"
    assert (await happens(stage))[-1] == "Done restored"
    assert asked(stage) == ["lab"]


async def test_s16_a_person_ends_a_case_whose_provider_is_gone() -> None:
    """Nobody can take the reboot back either; the case does not stay open on that account."""
    stage, name = await killed_after_the_call()
    stage.sim.machines.names = ("job",)
    await stage.play(5)
    stage.sim.edit(
        name, lambda raw: raw["spec"].update(taints=[t for t in raw["spec"]["taints"] if t["key"] != TAINT_KEY])
    )
    await stage.play(5, until="Done")
    assert stage.only_case().result is Result.TAKEN_OVER


async def test_s16_nobody_is_evicted_for_a_reboot_that_nobody_can_be_asked_for() -> None:
    """The policy's provider is not configured: that is told before the drain, and no attempt is counted for it."""
    stage = Stage()
    stage.sim.machines.names = ("job",)
    stage.sim.workloads.deployment("web", replicas=1, nodes=(stage.names[0],))
    stage.advance(3)
    stage.break_gpu()
    assert (await stage.play(20))[-1] == "Hold drain unknown-provider"
    assert stage.sim.gate.made("evict") == []
    stage.sim.machines.names = ("lab",)
    assert (await stage.play(until="Done"))[-1] == "Done restored"


async def test_s16_an_attempt_that_tells_no_provider_is_looked_up_as_the_policy_says() -> None:
    """An earlier version did not store whom it asked: its open attempts go on with whoever is named today."""
    stage, name = await killed_after_the_call()
    (stored,) = await stage.sim.remediations.list()
    attempts = tuple(replace(a, provider="", deadline_at=None) for a in stored.case.attempts)
    await stage.sim.remediations.save(replace(stored, case=replace(stored.case, attempts=attempts)), None)
    assert (await stage.play(5))[-1] == "Wait reboot rebooting"
    await happens(stage)
    assert asked(stage) == ["lab"]
    assert stage.sim.fleet[name].boots == 2


async def test_s16_a_deadline_that_is_shortened_ends_no_cure_under_way() -> None:
    """A cure has the time that it was given when it began; the next one has what the policy says now."""
    stage, _ = await killed_after_the_call()
    stage.policies = policies("enforce", [*LADDER[:3], {"reboot": {"deadline": "1s"}}, *LADDER[4:]])
    assert (await stage.play(30))[-1] == "Wait reboot rebooting"
    assert (await happens(stage))[-1] == "Done restored"


async def test_s16_a_cure_that_is_given_up_is_taken_back_before_the_next_one() -> None:
    """The first reboot's time is up: it is withdrawn, so the second is the only one that ever happens."""
    stage, name = await killed_after_the_call(TWICE)
    await second(stage)
    assert (await happens(stage))[-1] == "Done restored"
    assert stage.sim.fleet[name].boots == 2


async def test_s16_a_cure_that_cannot_be_taken_back_yet_lets_no_other_begin() -> None:
    """The withdrawal fails for a while: nothing else is begun, and people are told; then it goes on."""
    stage, name = await killed_after_the_call(TWICE)
    stage.sim.gate.fail_next("withdraw", injection.server_error(), times=8)
    await stage.play(135)
    assert asked(stage) == ["lab"]
    await second(stage)
    await happens(stage)
    assert stage.sim.fleet[name].boots == 2


async def test_s16_people_who_take_over_are_surprised_by_no_late_reboot() -> None:
    """A reboot that was given up is taken back before people are told that they have to look."""
    stage, _ = await killed_after_the_call()
    await stage.play(200, until="Escalate")
    stage.sim.machines.carry_out(stage.sim.gate.made("reboot")[0].detail.partition(" ")[2])
    assert stage.sim.machines.reboots == []
