"""The timeline tells each step's begin, what keeps it and its end once, and keeps full reasons for the JSON."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gpuheal_lab.demo.timeline import Timeline
from gpuheal_responder.actions import SPECS
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.step import Due, Step
from gpuheal_responder.core.verdict import Hold, Refusal

AT = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
GPU = "GPU-0425708d-bf8a-57b8-8a4c-e28ea74cbd36"


def case(*attempts: Attempt) -> Case:
    return Case(name="c", node="n", opened_at=AT, policy="p", attempts=attempts)


def attempt(state: AttemptState, reason: str = "", detail: str = "") -> Attempt:
    ended = AT + 3 * SECOND if state in {AttemptState.SUCCEEDED, AttemptState.FAILED} else None
    return Attempt(
        step="drain",
        action="drain",
        phase=Phase.EMPTY,
        operation="c-drain-1",
        state=state,
        started_at=AT + SECOND,
        ended_at=ended,
        reason=reason,
        detail=detail,
    )


def test_step_is_told_when_it_begins_waits_and_ends() -> None:
    """Four looks at one attempt give three lines: begin, what keeps it, end with its duration."""
    said: list[str] = []
    timeline = Timeline(said.append)
    timeline.at_once("kernel line", AT, "Xid 79")
    running = attempt(AttemptState.RUNNING, "eviction-blocked", "web blocked by budget web")
    timeline.follow(case(attempt(AttemptState.INTENT)))
    timeline.follow(case(running))
    timeline.follow(case(replace(running, detail="web blocked by budget web, still")))
    timeline.follow(case(attempt(AttemptState.SUCCEEDED, "empty")))
    timeline.follow(case(attempt(AttemptState.SUCCEEDED, "empty")))
    told = said[1:]
    assert ["Eviction API" in told[0], "blocked by budget" in told[1], "took 2.0 s" in told[2]] == [True] * 3
    assert len(told) == 3
    assert told[2].startswith("   3.00 s")


def test_what_holds_a_step_is_told_once() -> None:
    """Each refusal of a hold is a line; the same hold at the next look is none, the next hold is told again."""
    said: list[str] = []
    timeline = Timeline(said.append)
    step = Step(key="drain", spec=SPECS["drain"], params=None, deadline=SECOND)
    silenced = Refusal(guard="signal", reason="alert-silenced", message="silenced by ann")
    paused = Refusal(guard="permission", reason="paused", message="rack work")
    for refusals in ((silenced, paused), (silenced, paused), (paused,)):
        timeline.held(Hold(due=Due(step=step), refusals=refusals))
    timeline.held(None)
    timeline.held(Hold(due=Due(step=step), refusals=(paused,)))
    assert ["ann" in said[0], "rack work" in said[1], "paused" in said[2], "paused" in said[3]] == [True] * 4
    assert len(said) == 4


def test_steps_are_data_with_full_reasons() -> None:
    """The JSON of a step has name, times and the whole reason; what has not ended has no end."""
    timeline = Timeline(lambda _: None)
    timeline.follow(case(attempt(AttemptState.FAILED, "drain-deadline", f"{GPU} " * 9)))
    (step,) = timeline.ordered()
    assert step.as_json() == {
        "name": "drain",
        "started_at": "2026-01-05T08:00:01+00:00",
        "ended_at": "2026-01-05T08:00:03+00:00",
        "reason": f"failed: drain-deadline: {f'{GPU} ' * 9}",
    }
    timeline.follow(case(attempt(AttemptState.RUNNING, "pods-leaving")))
    assert timeline.ordered()[0].as_json()["ended_at"] is None


def test_long_lines_are_cut_and_uuids_shortened() -> None:
    """A line shows the first part of a UUID and ends in an ellipsis when it is too long."""
    said: list[str] = []
    Timeline(said.append).at_once("verify", AT, f"{GPU}: " + "x" * 300)
    assert "GPU-0425708d: xxx" in said[0]
    assert said[0].endswith("…")
    assert len(said[0]) < 150
