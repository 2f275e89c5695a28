"""Invariants of approvals: S17."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.responder.stage import LADDER, Stage, policies

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.case import Approval
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.opening import open_case
from gpuheal_responder.core.state import CaseState, state_of
from gpuheal_responder.core.undo import HOLD_ANNOTATION
from gpuheal_responder.core.verdict import Hold
from gpuheal_responder.core.world import World


async def approve(stage: Stage, step: str, evidence: str, lasts: timedelta = timedelta(hours=1)) -> None:
    """Store a person's approval, as the HTTP route does."""
    (stored,) = await stage.sim.remediations.list()
    approval = Approval(step=step, evidence=evidence, by="ann", expires_at=stage.sim.now() + lasts)
    await stage.sim.remediations.approve(stored, (*stored.case.approvals, approval))


async def test_s17_propose_contains_and_waits_for_a_person() -> None:
    """In propose mode the node is contained, then a bound approval is asked for; with it the case goes on."""
    stage = Stage(mode="propose")
    stage.break_gpu()
    said = await stage.play(10)
    assert said[-1] == "Hold reboot approval-needed"
    _, hold = stage.heard.verdicts[-1]
    evidence = hold.refusals[0].blockers[0]  # type: ignore[union-attr]
    await approve(stage, "reboot", evidence)
    assert (await stage.play(until="Done"))[-1] == "Done restored"


async def test_s17_an_approval_for_other_evidence_or_expired_counts_for_nothing() -> None:
    """An approval binds step, evidence and time."""
    stage = Stage(mode="propose")
    stage.break_gpu()
    await stage.play(10)
    evidence = stage.heard.verdicts[-1][1].refusals[0].blockers[0]  # type: ignore[union-attr]
    await approve(stage, "reboot", evidence, lasts=timedelta(seconds=-1))
    assert (await stage.play(5))[-1] == "Hold reboot approval-expired"
    await approve(stage, "reboot", "0123456789ab")
    assert (await stage.play(5))[-1] == "Hold reboot approval-mismatch"
    assert stage.sim.machines.reboots == []


@pytest.mark.parametrize(
    ("given", "lasts", "counts"),
    [
        (timedelta(0), timedelta(hours=24), True),
        (timedelta(minutes=4), timedelta(hours=1), True),
        (timedelta(minutes=6), timedelta(hours=1), False),
        (timedelta(hours=-25), timedelta(days=365), False),
        (timedelta(hours=-23), timedelta(days=365), True),
        (None, timedelta(hours=23), True),
        (None, timedelta(days=365), False),
    ],
)
async def test_s17_no_approval_outlasts_a_day_whatever_it_says(
    given: timedelta | None, lasts: timedelta, counts: bool
) -> None:
    """One for a year counts for a day from when it was given; one of the future, or undated and long, not at all."""
    stage = Stage(mode="propose")
    stage.break_gpu()
    assert (await stage.play(10))[-1] == "Hold reboot approval-needed"
    evidence = stage.heard.verdicts[-1][1].refusals[0].blockers[0]  # type: ignore[union-attr]
    (stored,) = await stage.sim.remediations.list()
    now = stage.sim.now()
    at = None if given is None else now + given
    yes = Approval(step="reboot", evidence=evidence, by="ann", given_at=at, expires_at=now + lasts)
    await stage.sim.remediations.approve(stored, (yes,))
    said = await stage.play(5)
    assert ("Act reboot" in said) is counts
    assert counts or said[-1] in {"Hold reboot approval-expired", "Hold reboot approval-overlong"}


async def test_s17_an_approval_that_runs_out_while_it_waits_is_told_and_does_nothing() -> None:
    """A person holds the node for longer than the approval lasts: nothing is done afterwards, and an Event says why."""
    stage = Stage(mode="propose")
    name = stage.break_gpu()
    await stage.play(10)
    evidence = stage.heard.verdicts[-1][1].refusals[0].blockers[0]  # type: ignore[union-attr]
    stage.sim.edit(name, lambda raw: raw["metadata"].setdefault("annotations", {}).update({HOLD_ANNOTATION: "bob"}))
    await approve(stage, "reboot", evidence, lasts=timedelta(minutes=10))
    await stage.play(3)
    stage.advance(600)
    stage.sim.edit(name, lambda raw: raw["metadata"]["annotations"].pop(HOLD_ANNOTATION))
    assert (await stage.play(5))[-1] == "Hold reboot approval-expired"
    case, verdict = stage.heard.verdicts[-1]
    assert state_of(case, verdict) is CaseState.PENDING
    assert any("the approval by ann expired at" in e.message for e in stage.sim.api.events(name))
    assert stage.sim.machines.reboots == []


def test_s17_the_digest_changes_with_the_evidence() -> None:
    """Another boot of the machine is other evidence."""
    stage = Stage()
    node = stage.sim.specs[stage.names[0]]
    (policy,) = policies()
    seen = Node(name=node.name, uid="u", boot_id="a")
    case = open_case(seen, (), policy, World(now=stage.sim.now(), node=seen), {})
    one = ev.digest(case, "reboot", None, World(now=stage.sim.now(), node=seen))
    two = ev.digest(case, "reboot", None, World(now=stage.sim.now(), node=replace(seen, boot_id="b")))
    assert one != two


async def test_s17_an_approval_binds_the_steps_parameters() -> None:
    """A yes to a step is none to what a changed policy makes of it."""
    stage = Stage(mode="propose")
    stage.break_gpu()
    assert (await stage.play(10))[-1] == "Hold reboot approval-needed"
    verdict = stage.heard.verdicts[-1][1]
    assert isinstance(verdict, Hold)
    (stored,) = await stage.sim.remediations.list()
    expires_at = stage.sim.now() + timedelta(hours=1)
    yes = Approval(step="reboot", evidence=verdict.refusals[0].blockers[-1], by="ann", expires_at=expires_at)
    await stage.sim.remediations.approve(stored, (yes,))
    other = [{"reboot": {"provider": "job", "deadline": "2m"}} if "reboot" in step else step for step in LADDER]
    stage.policies = policies("propose", other)
    assert (await stage.play(5))[-1] == "Hold reboot approval-mismatch"
    stage.policies = policies("propose")
    assert "Act reboot" in await stage.play(5)
