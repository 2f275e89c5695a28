"""What a machine is remembered to have been through, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Attempt, AttemptState, Case, Result
from gpuheal_responder.core.history import (
    KEPT_FOR,
    MOST_CURES,
    MOST_FAULTS,
    MOST_MARKS,
    NOTHING,
    Escalation,
    History,
    PastAttempt,
    TakenFault,
    absorb,
    machine_of,
    shared,
)
from gpuheal_responder.core.phase import Phase

NOW = datetime(2026, 1, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
CASE = Case(name="n1-1", node="n1", opened_at=NOW - HOUR, policy="p")
DONE = replace(CASE, closed_at=NOW, result=Result.RESTORED)


def attempt(operation: str = "o1", **more: Any) -> Attempt:
    """Return a reboot that began an hour ago and has ended now."""
    first: dict[str, Any] = {
        "step": "reboot",
        "action": "reboot",
        "phase": Phase.CURE,
        "state": AttemptState.SUCCEEDED,
        "started_at": NOW - HOUR,
        "ended_at": NOW,
    }
    return Attempt(operation=operation, **(first | more))


def fault(slug: str, since: datetime, gpu: str | None = None) -> Fault:
    """Return a fault since a moment."""
    return Fault(slug=slug, target=Target(node="n1", gpu_uuid=gpu), severity=Severity.CRITICAL, since=since)


def with_attempts(*attempts: Attempt) -> History:
    """Return the history of a machine that had one case with these attempts."""
    return absorb(NOTHING, replace(CASE, attempts=attempts), NOW)


def test_a_cure_is_remembered_with_its_target_and_times() -> None:
    """As it is now: what was open when it was absorbed last is replaced when it has ended."""
    begun = attempt(target="GPU-1", state=AttemptState.RUNNING, ended_at=None)
    before = with_attempts(begun)
    past = PastAttempt(operation="o1", action="reboot", target="GPU-1", started_at=NOW - HOUR)
    assert before.cures == (past,)
    assert past.last_at == NOW - HOUR
    after = absorb(before, replace(CASE, attempts=(replace(begun, state=AttemptState.FAILED, ended_at=NOW),)), NOW)
    assert after.cures == (replace(past, ended_at=NOW),)
    assert after.cures[0].last_at == NOW


@pytest.mark.parametrize("change", [{"phase": p} for p in Phase if p is not Phase.CURE] + [{"foreign": True}])
def test_only_our_own_cures_are_cures(change: dict[str, Any]) -> None:
    """Neither what marks, empties or proves, nor what others did to the machine, is counted against it."""
    assert with_attempts(attempt(**change)).cures == ()


@pytest.mark.parametrize(
    ("started", "ended", "kept"),
    [
        (KEPT_FOR - TICK, None, True),
        (KEPT_FOR, None, False),
        (KEPT_FOR + HOUR, HOUR, True),
        (KEPT_FOR + HOUR, KEPT_FOR - TICK, True),
        (KEPT_FOR + HOUR, KEPT_FOR, False),
    ],
)
def test_a_cure_is_forgotten_a_week_after_its_last_moment(
    started: timedelta, ended: timedelta | None, kept: bool
) -> None:
    """Its end counts where it is known, else its beginning."""
    one = attempt(started_at=NOW - started, ended_at=None if ended is None else NOW - ended)
    assert bool(with_attempts(one).cures) is kept


def test_a_mark_is_the_first_containing_step_of_a_case() -> None:
    """Taint and condition of one case are one mark; one that is not made yet is none."""
    first = attempt("a", step="taint", phase=Phase.CONTAIN, started_at=NOW - 2 * HOUR)
    second = attempt("b", step="condition", phase=Phase.CONTAIN, started_at=NOW - HOUR)
    opened = replace(first, state=AttemptState.INTENT)
    assert with_attempts(first, second).marks == (NOW - 2 * HOUR,)
    assert with_attempts(opened, second).marks == (NOW - HOUR,)
    assert with_attempts(opened).marks == ()
    assert with_attempts(attempt("c")).marks == ()


@pytest.mark.parametrize(("age", "kept"), [(KEPT_FOR - TICK, True), (KEPT_FOR, False)])
def test_a_mark_is_forgotten_after_a_week(age: timedelta, kept: bool) -> None:
    """Of a case that stands, and of the history as it was."""
    at = NOW - age
    assert bool(with_attempts(attempt(phase=Phase.CONTAIN, started_at=at)).marks) is kept
    assert bool(absorb(History(marks=(at,)), CASE, NOW).marks) is kept


def test_marks_of_several_cases_are_in_order_and_each_once() -> None:
    """A case that is absorbed at every look counts as one mark."""
    late = replace(CASE, attempts=(attempt(phase=Phase.CONTAIN, started_at=NOW - HOUR),))
    early = replace(CASE, name="n1-0", attempts=(attempt(phase=Phase.CONTAIN, started_at=NOW - 2 * HOUR),))
    found = NOTHING
    for case in (late, early, late):
        found = absorb(found, case, NOW)
    assert found.marks == (NOW - 2 * HOUR, NOW - HOUR)


def test_the_oldest_goes_where_there_is_too_much() -> None:
    """Of cures and marks a fixed number is kept: the newest, by their last moment."""
    many = MOST_CURES + 1
    ended = [
        attempt(f"o{i:02}", started_at=NOW - 2 * HOUR, ended_at=NOW - i * timedelta(minutes=1)) for i in range(many)
    ]
    assert [c.operation for c in with_attempts(*ended).cures] == [f"o{i:02}" for i in reversed(range(MOST_CURES))]
    marks = tuple(NOW - i * timedelta(minutes=1) for i in range(MOST_MARKS + 1))
    assert absorb(History(marks=marks), CASE, NOW).marks == tuple(sorted(marks))[1:]


@pytest.mark.parametrize(
    ("result", "settles", "takes"),
    [
        (Result.RESTORED, True, False),
        (Result.TAKEN_OVER, True, True),
        (Result.REVERTED, True, True),
        (Result.CLEARED, False, False),
        (Result.GONE, False, False),
        (None, False, False),
    ],
)
def test_proof_and_people_settle_and_only_people_take(result: Result | None, settles: bool, takes: bool) -> None:
    """A message that stopped coming settles nothing."""
    found = absorb(NOTHING, replace(DONE, result=result), NOW)
    assert (found.settled_at == NOW, found.taken_at == NOW) == (settles, takes)
    if not settles:
        assert found.settled_at is None
    if not takes:
        assert (found.taken_at, found.taken) == (None, ())


def test_evidence_is_settled_until_the_proof_and_not_until_the_object_was_closed() -> None:
    """`settled_at` of the case counts where it has one."""
    assert absorb(NOTHING, replace(DONE, settled_at=NOW - HOUR), NOW).settled_at == NOW - HOUR
    assert absorb(NOTHING, replace(DONE, closed_at=None), NOW).settled_at is None
    before = History(settled_at=NOW, taken_at=NOW)
    assert absorb(before, replace(DONE, closed_at=None, result=Result.TAKEN_OVER), NOW) == before


@pytest.mark.parametrize(("known", "found"), [(NOW - HOUR, NOW), (NOW, NOW), (NOW + HOUR, NOW + HOUR)])
def test_an_older_case_unsettles_nothing(known: datetime, found: datetime) -> None:
    """The latest settlement stands, in whatever order cases are absorbed."""
    assert absorb(History(settled_at=known), DONE, NOW).settled_at == found


def test_what_stood_when_a_person_took_the_machine_is_remembered() -> None:
    """Each fault and GPU once; what began at that very moment had not been seen by the person."""
    faults = (
        fault("a", NOW - HOUR, "GPU-1"),
        replace(fault("a", NOW - HOUR, "GPU-1"), alertname="Again"),
        fault("a", NOW - TICK, "GPU-2"),
        fault("b", NOW),
    )
    taken = absorb(NOTHING, replace(DONE, result=Result.TAKEN_OVER, faults=faults), NOW)
    assert taken.taken == (TakenFault(slug="a", gpu_uuid="GPU-1"), TakenFault(slug="a", gpu_uuid="GPU-2"))


@pytest.mark.parametrize(("before", "replaced"), [(NOW - HOUR, True), (NOW, True), (NOW + TICK, False)])
def test_the_last_taking_counts(before: datetime, replaced: bool) -> None:
    """A later one replaces what stood, an older one does not."""
    old = History(taken_at=before, taken=(TakenFault(slug="old"),), settled_at=before)
    case = replace(DONE, result=Result.REVERTED, faults=(fault("new", NOW - HOUR),))
    assert absorb(old, case, NOW).taken == (TakenFault(slug="new" if replaced else "old"),)
    assert absorb(old, case, NOW).taken_at == max(before, NOW)


def test_so_many_faults_are_remembered_and_no_more() -> None:
    """A storm of faults fills no object."""
    faults = tuple(fault(f"f{i}", NOW - HOUR) for i in range(MOST_FAULTS + 5))
    taken = absorb(NOTHING, replace(DONE, result=Result.TAKEN_OVER, faults=faults), NOW)
    assert [t.slug for t in taken.taken] == [f"f{i}" for i in range(MOST_FAULTS)]


OURS, THEIRS = Escalation(case="n1-1", reason="x"), Escalation(case="n1-0", reason="y")


@pytest.mark.parametrize(
    ("known", "escalated", "closed", "found"),
    [
        (None, "", False, None),
        (None, "x", False, OURS),
        (THEIRS, "x", False, OURS),
        (OURS, "", False, OURS),
        (THEIRS, "", False, THEIRS),
        (OURS, "x", True, None),
        (OURS, "", True, None),
        (THEIRS, "x", True, THEIRS),
        (None, "x", True, None),
    ],
)
def test_an_escalation_ends_with_its_case_only(
    known: Escalation | None, escalated: str, closed: bool, found: Escalation | None
) -> None:
    """An object that was deleted and made again from the undo record is still with people; a closed case is not."""
    case = replace(CASE, escalated=escalated, closed_at=NOW if closed else None)
    assert absorb(History(escalated=known), case, NOW).escalated == found


def test_a_machine_is_its_system_uuid_unless_others_tell_the_same() -> None:
    """A board's default UUID names nobody; then the node's name has to do."""
    assert machine_of("u1", "n1") == "u1"
    assert machine_of("", "n1") == "n1"
    assert shared(["u1", "u2", "u1", "u3", "u3", "u3"]) == {"u1", "u3"}
    assert shared(["u1", "u2"]) == frozenset()


TIMES = st.integers(0, 10 * 24).map(lambda hours: NOW - timedelta(hours=hours))
ATTEMPTS = st.builds(
    Attempt,
    step=st.sampled_from(["taint", "reboot"]),
    action=st.just("a"),
    phase=st.sampled_from(Phase),
    operation=st.sampled_from("abcdef"),
    state=st.sampled_from(AttemptState),
    started_at=TIMES,
    ended_at=st.none() | TIMES,
    foreign=st.booleans(),
)
CASES = st.builds(
    Case,
    name=st.sampled_from(["n1-1", "n1-2"]),
    node=st.just("n1"),
    opened_at=TIMES,
    policy=st.just("p"),
    faults=st.lists(st.builds(fault, st.sampled_from("xyz"), TIMES), max_size=3).map(tuple),
    attempts=st.lists(ATTEMPTS, max_size=6).map(tuple),
    escalated=st.sampled_from(["", "stuck"]),
    closed_at=st.none() | TIMES,
    settled_at=st.none() | TIMES,
    result=st.none() | st.sampled_from(Result),
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(CASES, min_size=1, max_size=3))
def test_absorbing_again_changes_nothing_and_nothing_grows_without_end(cases: list[Case]) -> None:
    """At every look all open cases are absorbed; deleting one afterwards takes nothing away."""
    found = NOTHING
    for case in cases:
        found = absorb(found, case, NOW)
        assert absorb(found, case, NOW) == found
    assert list(found.marks) == sorted(set(found.marks))
    assert len({c.operation for c in found.cures}) == len(found.cures) <= MOST_CURES
    assert all(NOW - c.last_at < KEPT_FOR for c in found.cures)
    wanted = [
        c.settled_at or c.closed_at for c in cases if c.result in {Result.RESTORED, Result.TAKEN_OVER, Result.REVERTED}
    ]
    assert found.settled_at == max((at for at in wanted if at is not None), default=None)
