"""Levels: how they begin, grow, end and survive."""

from __future__ import annotations

import json

import pytest

from gpuheal_exporters.catalogue.resolution import Resolution
from gpuheal_exporters.node.latch import LatchStore, XidKey

KEY = XidKey("GPU-1", "0000:3b:00", "48")
ALERT, RESET = Resolution(action="alert", basis="x"), Resolution(action="gpu_reset", basis="y")


def store(limit: int = 8) -> LatchStore[XidKey]:
    return LatchStore(XidKey, limit)


def test_a_level_keeps_first_last_count_worst_and_first_cause() -> None:
    """Events in any order leave earliest and latest time, their number, the worst resolution and the first cause."""
    latches = store()
    latches.record(KEY, 10.0, ALERT, cause="79")
    latches.record(KEY, 30.0, RESET, cause="48")
    latches.record(KEY, 5.0, ALERT)
    entry = latches.get(KEY)
    assert entry is not None
    assert (entry.first, entry.last, entry.count, entry.total) == (5.0, 30.0, 3, 3)
    assert (entry.resolution, entry.cause) == (RESET, "79")


def test_only_levels_without_a_later_event_are_cleared() -> None:
    """`until` is the time up to which evidence is settled: an event after it keeps the level."""
    latches = store()
    latches.record(KEY, 10.0)
    assert latches.clear(lambda key: True, 9.9) == 0
    assert latches.clear(lambda key: key.xid == "79", 10.0) == 0
    assert latches.clear(lambda key: True, 10.0) == 1
    assert latches.clear(lambda key: True, 10.0) == 0


def test_a_new_event_after_clearing_begins_a_new_level() -> None:
    """First, count, resolution and cause begin anew; the total goes on."""
    latches = store()
    latches.record(KEY, 10.0, RESET, cause="79")
    latches.clear(lambda key: True, 10.0)
    latches.record(KEY, 20.0, ALERT)
    entry = latches.get(KEY)
    assert entry is not None
    assert (entry.first, entry.count, entry.total, entry.resolution, entry.cause) == (20.0, 1, 2, ALERT, "")


def test_an_event_can_be_counted_without_a_level() -> None:
    """With latch=False only the total moves."""
    latches = store()
    entry = latches.record(KEY, 10.0, latch=False)
    assert entry is not None
    assert (entry.total, entry.latched) == (1, False)


def test_the_number_of_keys_is_bounded() -> None:
    """Beyond the limit new keys are dropped and counted; known ones go on."""
    latches = store(limit=2)
    for code in ("1", "2", "3", "4", "1"):
        latches.record(KEY._replace(xid=code), 1.0)
    assert (len(latches), latches.overflow) == (2, 2)


@pytest.mark.parametrize(
    ("known", "unknown", "want"),
    [
        (True, True, (2, True, 2, 10.0, 20.0)),
        (True, False, (2, True, 1, 10.0, 10.0)),
        (False, True, (2, True, 1, 20.0, 20.0)),
    ],
)
def test_levels_without_a_uuid_join_those_of_the_gpu(known: bool, unknown: bool, want: tuple[object, ...]) -> None:
    """Once the UUID of an address is known, what was kept under the address alone is merged into the GPU's level."""
    latches = store()
    anonymous = KEY._replace(gpu_uuid="")
    latches.record(KEY, 10.0, latch=known)
    latches.record(anonymous, 20.0, latch=unknown)
    latches.adopt(lambda pci: "GPU-1" if pci == "0000:3b:00" else "")
    entry = latches.get(KEY)
    assert entry is not None
    assert (entry.total, entry.latched, entry.count, entry.first, entry.last) == want
    assert latches.get(anonymous) is None


def test_dump_and_load_are_inverse() -> None:
    """What was dumped as JSON is the same store again."""
    latches, again = store(), store()
    latches.record(KEY, 10.0, RESET, cause="79")
    latches.record(KEY._replace(xid="63"), 11.0, latch=False)
    again.hold(again.parse(json.loads(json.dumps(latches.dump()))))
    assert list(again.items()) == list(latches.items())


@pytest.mark.parametrize(
    "broken",
    [[{}], [{"key": ["a"]}], [{"key": 3, "total": 1}], {}, [{"key": ["", "0000:3b:00", "79x"]}], [{"key": [1, 2, 3]}]],
)
def test_a_foreign_document_is_refused(broken: object) -> None:
    """Loading anything else raises and leaves the store as it was."""
    latches = store()
    latches.record(KEY, 10.0)
    with pytest.raises((KeyError, ValueError)):
        latches.parse(broken)
    assert len(latches) == 1
