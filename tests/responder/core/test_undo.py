"""The undo record: written and read back, and undoing means exactly what was done."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gpuheal_responder.core.node import Condition, Node, Taint, UndoRecord
from gpuheal_responder.core.undo import dump, intact, load, mark, release

OURS = Taint(key="gpu.health/unhealthy", value="true")
THEIRS = Taint(key="team", value="a", effect="NoExecute")
RECORD = UndoRecord(
    case="n1-1",
    owner="gpuheal",
    at=datetime(2026, 1, 1, tzinfo=UTC),
    policy="p",
    faults=("gpu-fell-off-bus",),
    taints=(OURS,),
    cordoned=True,
    conditions=("GPUHealthy",),
    conditions_before=(Condition(type="GPUHealthy", status="True", reason="r", message="m"),),
    system_uuid="s",
    node_uid="u",
    boot_id="b",
    gpus=("GPU-1",),
)
NODE = Node(name="n1", uid="u", taints=(THEIRS,))


def marked() -> Node:
    """Return the node after the marks."""
    marks = mark(NODE, RECORD)
    return replace(NODE, taints=marks.taints, unschedulable=bool(marks.unschedulable), undo=marks.undo)


def test_a_record_reads_back() -> None:
    """Nothing is lost on the way through the annotation."""
    assert load(dump(RECORD)) == RECORD


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"version": 2}', '{"version": 1}', "null"])
def test_a_text_that_is_no_record_is_none(text: str) -> None:
    """Somebody else's annotation, or a later version's, is never half understood."""
    assert load(text) is None


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
    before = replace(marked(), undo=replace(RECORD, cordoned=False))
    assert release(before).unschedulable is None


def test_release_without_a_record_changes_nothing() -> None:
    """A node without our record keeps its taints and its cordon."""
    assert release(NODE).taints == NODE.taints
    assert release(NODE).unschedulable is None


@pytest.mark.parametrize("change", [{"taints": (THEIRS,)}, {"unschedulable": False}, {"undo": None}])
def test_marks_that_a_person_lifted_are_not_intact(change: dict[str, object]) -> None:
    """A lifted taint or cordon is seen, whichever of the two it is."""
    assert not intact(replace(marked(), **change))  # type: ignore[arg-type]
