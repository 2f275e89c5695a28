"""Every rule is broken by a responder that does just what the rule forbids, and by none that does the same rightly."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.chaos.ending import TELLING, TELLING_BUDGET, TELLING_DARK
from tests.chaos.faults import KINDS
from tests.chaos.observer import TAINT
from tests.chaos.rogue import LONG, Rogue, broken_by
from tests.chaos.rules import RULES
from tests.chaos.sources import alert
from tests.chaos.world import Setup

from gpuheal_lab.fleet.objects import put_condition, remove_taint
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.world import NodeLock

GENERATED = Path(__file__).resolve().parents[2] / "rules" / "generated" / "gpuheal.rules.yaml"
NEVER = datetime(2026, 1, 1, tzinfo=UTC)
Story = Callable[[Rogue], Awaitable[None]]
STORIES: dict[str, tuple[Story, Setup]] = {}


def breaks(rule: str, **setup: object) -> Callable[[Story], Story]:
    """Register a story that has to break the rule."""

    def keep(story: Story) -> Story:
        STORIES[rule] = (story, Setup(**setup))  # type: ignore[arg-type]
        return story

    return keep


async def sick(w: Rogue, node: int = 0, fault: str = "dead") -> None:
    """Break a GPU, and let everybody see it."""
    await w.break_gpu(node=node, gpu=0, fault=fault)
    await w.pass_time(10)


async def in_care(w: Rogue, node: int = 0, fault: str = "dead") -> None:
    """Let a node be sick and rightly contained."""
    await sick(w, node, fault)
    await w.contain(node)


@breaks("E-sick-untold")
async def _(w: Rogue) -> None:
    await sick(w)
    await w.calm()


@breaks("L-never-contained")
async def _(w: Rogue) -> None:
    await sick(w)
    await w.calm()


@breaks("E-standing-still")
async def _(w: Rogue) -> None:
    await in_care(w)
    await w.stand()


@breaks("E-unbounded-tries")
async def _(w: Rogue) -> None:
    await w.forbid("mark")
    for _ in range(70):
        with pytest.raises(Exception, match="403"):
            await w.contain()
    await w.stand()


@breaks("S06-contained-well")
async def _(w: Rogue) -> None:
    await w.contain()


def against(kind: str, stop: Callable[[Rogue], Awaitable[None]]) -> None:
    """Register a story that reboots a sick node although people said stop."""

    async def story(w: Rogue) -> None:
        await in_care(w)
        await stop(w)
        await w.have_rebooted()

    STORIES[f"S07-against-{kind}"] = (story, Setup())


against("frozen", lambda w: w.freeze(True))
against("held", lambda w: w.hold(0, True))
against("locked", lambda w: w.foreign_lock(0, 100))
against("mode-observe", lambda w: w.set_mode("observe"))
against("opted-out", lambda w: w.opt_out(0, True))
against("paused", lambda w: w.pause(True))
against("policy-gone", lambda w: w.set_policy("gone"))
against("unconfirmed", lambda w: w.witnesses(1))
against("unproven", lambda w: w.identities(1))
against("silenced", lambda w: w.silence(0, True))


@breaks("S08-restored-sick")
async def _(w: Rogue) -> None:
    await in_care(w)
    await w.release()


@breaks("S09-rebooted-well")
async def _(w: Rogue) -> None:
    await w.have_rebooted()


@breaks("S10-foreign-watchdog")
async def _(w: Rogue) -> None:
    await w.set_watchdog("foreign")
    w._beat(w.truth_now())


async def burst(w: Rogue, nodes: tuple[int, ...]) -> None:
    """Let several nodes fall sick at once, and one of them be rebooted."""
    for node in nodes:
        await w.break_gpu(node=node, gpu=0, fault="dead")
    await w.pass_time(10)
    await w.contain(nodes[0])
    await w.have_rebooted(nodes[0])


@breaks("S11-burst-pool")
async def _(w: Rogue) -> None:
    await burst(w, (0, 1, 4, 5, 6))


@breaks("S11-burst-rack")
async def _(w: Rogue) -> None:
    await burst(w, (0, 1, 2))


@breaks("S14-last-of-pool")
async def _(w: Rogue) -> None:
    for node in range(1, 8):
        await w.cordon(node)
    await in_care(w)
    await w.have_rebooted()


@breaks("S14-mark-budget")
async def _(w: Rogue) -> None:
    await in_care(w, 0, "bus")
    await w.cure(0)
    await w.release(0)
    await in_care(w, 1)


async def two_at_once(w: Rogue) -> None:
    """Let two nodes of a small fleet be rebooted at once."""
    for node in (0, 1):
        await in_care(w, node)
    for node in (0, 1):
        await w.have_rebooted(node, f"op-{node}")


STORIES["S14-pool-budget"] = STORIES["S14-rack-budget"] = (two_at_once, Setup())


@breaks("S15-attempts")
async def _(w: Rogue) -> None:
    await in_care(w)
    for number in range(3):
        await w.have_rebooted(0, f"op-{number}")
        await w.pass_time(LONG)


@breaks("S15-cooldown")
async def _(w: Rogue) -> None:
    await in_care(w)
    for number in range(2):
        await w.have_rebooted(0, f"op-{number}")
        await w.pass_time(60)


@breaks("S15-gang")
async def _(w: Rogue) -> None:
    await w.gang("training", [0, 5])
    for node in (0, 5):
        await in_care(w, node)
        await w.evict(node)


@breaks("S16-not-contained")
async def _(w: Rogue) -> None:
    await w.deploy("web", [0], 0)
    await sick(w)
    await w.evict()


@breaks("S16-operation-repeats")
async def _(w: Rogue) -> None:
    await in_care(w)
    await w.have_rebooted()
    await w.pass_time(LONG)
    await w.have_rebooted()


@breaks("S17-unapproved", mode="propose")
async def _(w: Rogue) -> None:
    await in_care(w)
    await w.have_rebooted()


@breaks("S18-foreign-undone")
async def _(w: Rogue) -> None:
    await w.cordon(0)
    await in_care(w, fault="bus")
    await w.cure(0)
    await w.release()


@breaks("S18-left-behind")
async def _(w: Rogue) -> None:
    await in_care(w, fault="bus")
    put = {"kind": "GPUHealthy", "status": "False", "reason": "Bus", "message": "", "at": w.truth_now()}
    await w.write(0, lambda raw: put_condition(raw, **put), "set_conditions")
    await w.cure(0)
    await w.release()
    await w.calm()


@breaks("S18-take-back")
async def _(w: Rogue) -> None:
    await in_care(w)
    await w.uncordon(0)
    await w.have_rebooted()


@breaks("S18-unacknowledged")
async def _(w: Rogue) -> None:
    await in_care(w)
    await w.uncordon(0)
    await w.calm()


@breaks("S19-control-plane")
async def _(w: Rogue) -> None:
    await w.label(0, "node-role.kubernetes.io/control-plane", "x")
    await in_care(w)
    await w.have_rebooted()


@breaks("S19-not-empty")
async def _(w: Rogue) -> None:
    await w.deploy("web", [0], 0)
    await in_care(w)
    await w.have_rebooted()


@breaks("S19-protected")
async def _(w: Rogue) -> None:
    await w.pod("database", 0, True)
    await in_care(w)
    await w.evict()


@breaks("S22-not-leader", replicas=2)
async def _(w: Rogue) -> None:
    await sick(w)
    old, w.leader = w.leader, w.replicas[1].name
    await w.contain(0, by=old)


@breaks("S24-no-world")
async def _(w: Rogue) -> None:
    w.sim.remediations.decisions["a-case"] = [{"verdict": {}}]
    await w.calm()


@breaks("X-exception")
async def _(w: Rogue) -> None:
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        logging.getLogger("gpuheal_responder.somewhere").exception("case failed")


@breaks("E-unbounded-attempts")
async def _(w: Rogue) -> None:
    now = w.truth_now()
    one = Attempt(
        step="taint",
        action="taint",
        phase=Phase.CONTAIN,
        operation="o",
        state=AttemptState.FAILED,
        started_at=now,
        ended_at=now,
    )
    case = Case(name="c", node=w.named(0), opened_at=now, policy="p")
    many = tuple(replace(one, operation=f"o-{n}") for n in range(70))
    await w.sim.remediations.create(replace(case, attempts=many), {"world": {}})
    await w.calm()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_rule(rule: str) -> None:
    """The story that does what the rule forbids breaks it."""
    story, setup = STORIES[rule]
    assert rule in {v.rule for v in broken_by(story, setup)}


def test_people_are_told_by_alerts_that_there_are() -> None:
    """Every alert that the adversary takes for telling people is a generated rule, those of the faults included."""
    alerts = set(re.findall(r"^ *- alert: (\w+)$", GENERATED.read_text(encoding="utf-8"), re.MULTILINE))
    faults = {alert(kind, "n", "g", NEVER, NEVER).labels["alertname"] for kind in KINDS.values()}
    assert {*TELLING.values(), TELLING_DARK, TELLING_BUDGET, *faults} <= alerts


async def unseen(w: Rogue) -> None:
    """Leave a sick node alone whose exporters are away: people are told that nobody sees it."""
    await w.darken(0, on=True)
    await w.break_gpu(node=0, gpu=0, fault="dead")
    await w.stand()


async def rightly(w: Rogue) -> None:
    """Contain a sick node, empty and reboot it, and give it back when it is well."""
    await w.deploy("web", [0], 0)
    await in_care(w, fault="bus")
    await w.evict()
    await w.pass_time(5)
    await w.have_rebooted()
    await w.pass_time(60)
    await w.release()
    await w.calm()


async def taken_back(w: Rogue) -> None:
    """Leave a node to the person who took it back, and say so."""
    await in_care(w)
    await w.remove_taint(0)
    await w.release()
    await w.acts("publish", w.named(0), lambda: None)
    await w.calm()


async def locked(w: Rogue) -> None:
    """Leave a node alone whose taint a person has put there."""
    await w.write(0, lambda raw: remove_taint(raw, TAINT))
    w.sim.cluster.locks[w.named(0)] = NodeLock(holder="other", expires_at=w.truth_now())
    await w.calm()


@pytest.mark.parametrize("story", [rightly, taken_back, locked, unseen])
def test_what_is_right_breaks_nothing(story: Story) -> None:
    """The same acts in their right order break no rule."""
    assert broken_by(story) == []
