"""The undo record: written and read back, and undoing means exactly what was done."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpuheal_responder.core.node import Condition, Node, Taint, UndoRecord, Unreadable
from gpuheal_responder.core.undo import (
    LONGEST_KEPT,
    REVERSES,
    conditioned,
    cordoned,
    dump,
    intact,
    load,
    mark,
    paused,
    release,
    reverse,
    tainted,
    taints_of,
    without,
)

DATA = Path(__file__).parents[1] / "data" / "previous"

OURS = Taint(key="gpu.health/unhealthy", value="true")
THEIRS = Taint(key="team", value="a", effect="NoExecute")
RECORD = UndoRecord(
    case="n1-1",
    owner="gpuheal",
    at=datetime(2026, 1, 1, tzinfo=UTC),
    policy="p",
    faults=("gpu-fell-off-bus",),
    changes=(
        conditioned("GPUHealthy", Condition(type="GPUHealthy", status="True", reason="r", message="m")),
        tainted(OURS),
        cordoned(),
        paused("site/operand", "true", "false"),
    ),
    system_uuid="s",
    node_uid="u",
    boot_id="b",
    gpus=("GPU-1",),
)
NODE = Node(name="n1", uid="u", taints=(THEIRS,), labels={"site/operand": "false"})


def marked() -> Node:
    """Return the node after the marks."""
    marks = mark(NODE, RECORD)
    return replace(NODE, taints=marks.taints, unschedulable=bool(marks.unschedulable), undo=marks.undo)


def test_a_record_reads_back() -> None:
    """Nothing is lost on the way through the annotation."""
    assert load(dump(RECORD)) == RECORD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"version": 3}',
        '{"version": 2}',
        '{"version": 1}',
        "null",
        "[" * 100_000,
        dump(RECORD)[:100],
        dump(RECORD).replace('"version":2', '"version":3'),
        dump(RECORD).replace('"kind":"cordon"', '"kind":"teleport"'),
        dump(RECORD).replace("+00:00", ""),
        dump(RECORD).replace('"changes":[', '"changes":[7,'),
    ],
)
def test_s18_a_text_that_is_no_record_is_unreadable_and_never_none(text: str) -> None:
    """A later version's record, a damaged one, or one with a change we cannot reverse is a state of its own."""
    found = load(text)
    assert isinstance(found, Unreadable)
    assert found.problem
    assert len(found.text) <= LONGEST_KEPT


def test_a_record_of_the_first_version_reads_as_its_changes() -> None:
    """What version 1 wrote is undone exactly by this one: a rolling update finds its own marks again."""
    record = load((DATA / "undo-v1.json").read_text(encoding="utf-8"))
    assert isinstance(record, UndoRecord)
    assert [c.kind for c in record.changes] == ["taint", "cordon", "condition"]
    (ours,) = taints_of(record)
    back = reverse(replace(NODE, taints=(THEIRS, ours), unschedulable=True, undo=record), record)
    assert (back.taints, back.lift_cordon) == ((THEIRS,), True)
    assert back.put == [Condition(type="GPUHealthy", status="True", reason="Ok", message="all well")]


def test_every_kind_of_change_has_a_reverse() -> None:
    """Undoing puts a node back exactly, whatever was there before and in whatever order the changes were made."""
    assert {c.kind for c in RECORD.changes} == REVERSES.keys()
    back = reverse(marked(), RECORD)
    assert (back.taints, back.lift_cordon, back.remove) == ((THEIRS,), True, [])
    assert back.put == [Condition(type="GPUHealthy", status="True", reason="r", message="m")]
    assert back.labels == {"site/operand": "true"}


def test_marking_adds_and_keeps() -> None:
    """Foreign taints stay in place, ours comes once."""
    assert mark(NODE, RECORD).taints == (THEIRS, OURS)
    assert mark(marked(), RECORD).taints == (THEIRS, OURS)
    assert intact(marked())


def test_release_undoes_only_ours() -> None:
    """The foreign taint stays; our cordon goes."""
    marks = release(marked())
    assert (marks.taints, marks.unschedulable, marks.undo) == ((THEIRS,), False, None)


def test_release_leaves_a_cordon_that_was_there_before() -> None:
    """What we did not do is not undone."""
    before = replace(marked(), undo=without(RECORD, "cordon"))
    assert release(before).unschedulable is None


def test_release_without_a_record_changes_nothing() -> None:
    """A node without our record keeps its taints and its cordon."""
    assert release(NODE).taints == NODE.taints
    assert release(NODE).unschedulable is None


@pytest.mark.parametrize("change", [{"taints": (THEIRS,)}, {"unschedulable": False}, {"undo": None}])
def test_marks_that_a_person_lifted_are_not_intact(change: dict[str, object]) -> None:
    """A lifted taint or cordon is seen, whichever of the two it is."""
    assert not intact(replace(marked(), **change))  # type: ignore[arg-type]
