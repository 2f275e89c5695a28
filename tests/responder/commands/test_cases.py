"""`gpuheal cases`: the table people read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from gpuheal_responder.commands.cases import WIDEST, as_json, as_table
from gpuheal_responder.core.case import Case
from gpuheal_responder.ports import Stored
from gpuheal_responder.shell.kube.remediations import Kept

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ROW = {
    "case": "gpu-17-1",
    "target": "gpu-17/GPU-7d1e",
    "fault": "gpu-fell-off-bus",
    "state": "held",
    "step": "drain",
    "next": "alert-silenced",
    "blockedBy": "alert-silenced: ada: rack move",
    "since": "2026-03-01T11:57:00Z",
}


def test_a_row_says_what_blocks_and_since_when() -> None:
    """Columns in the order of `kubectl get remediations`, `since` as a span."""
    row = {**ROW, "fault": "gpu-thermal"}
    assert as_table([row], NOW) == (
        "CASE      TARGET           FAULT        STATE  STEP   NEXT            BLOCKED-BY                      SINCE\n"
        "gpu-17-1  gpu-17/GPU-7d1e  gpu-thermal  held   drain  alert-silenced  alert-silenced: ada: rack move  3m"
    )


def test_no_cases_is_said() -> None:
    """An empty list is not an empty screen."""
    assert as_table([], NOW) == "no cases"


@pytest.mark.parametrize(
    ("span", "shown"),
    [
        (timedelta(seconds=-3), "0s"),
        (timedelta(seconds=59), "59s"),
        (timedelta(minutes=60), "1h"),
        (timedelta(hours=50), "2d"),
    ],
)
def test_spans_are_short(span: timedelta, shown: str) -> None:
    """One number and one unit, never negative."""
    assert as_table([{**ROW, "since": (NOW - span).isoformat()}], NOW).split()[-1] == shown


def test_long_and_missing_texts_keep_the_table_in_shape() -> None:
    """A long blocker is cut, a missing value is a dash."""
    (_, line) = as_table([{"case": "c", "blockedBy": "x" * 500}], NOW).splitlines()
    assert line.split() == ["c", "-", "-", "-", "-", "-", "x" * (WIDEST - 1) + "…", "-"]


def test_json_has_everything_in_full() -> None:
    """One object per line, for scripts."""
    case = Case(name="gpu-17-1", node="gpu-17", opened_at=NOW, policy="p")
    kept = Kept(stored=Stored(case=case, version="1"), decisions=(), shown={"state": "held"})
    first, second = as_json([kept, kept]).splitlines()
    assert first == second
    found = json.loads(first)
    assert (found["name"], found["openedAt"], found["shown"]) == ("gpu-17-1", "2026-03-01T12:00:00Z", {"state": "held"})
