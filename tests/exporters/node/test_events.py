"""The ring of raw events."""

from __future__ import annotations

import json

import pytest

from gpuheal_exporters.node.events import COALESCE_SECONDS, MAX_TEXT, Event, EventRing


def event(at: float, code: str = "45") -> Event:
    return Event(
        at=at,
        last_at=at,
        kind="xid",
        code=code,
        gpu_uuid="GPU-1",
        pci_bus_id="0000:3b:00",
        text="x" * 1000,
        boot_id="b",
        driver_version="570.1",
    )


def test_the_oldest_entries_go_first() -> None:
    """Only the newest `limit` entries stay; numbers go on, so a reader sees what it missed."""
    ring = EventRing(3)
    for number in range(5):
        ring.add((number,), event(float(number)))
    assert [entry["number"] for entry in ring.dump()] == [3, 4, 5]


def test_a_burst_of_equal_events_is_one_entry() -> None:
    """Equal events within the window are counted into the entry they repeat; later or other ones are not."""
    ring = EventRing()
    ring.add(("a",), event(10.0))
    assert ring.repeat(("a",), 10.0 + COALESCE_SECONDS)
    assert ring.repeat(("a",), 10.0 + 2 * COALESCE_SECONDS)
    assert not ring.repeat(("a",), 10.1 + 3 * COALESCE_SECONDS)
    assert not ring.repeat(("b",), 10.0)
    assert not ring.repeat(("a",), 1.0)
    (entry,) = ring.dump()
    assert (entry["repeats"], entry["last_at"]) == (2, 20.0)


def test_texts_are_cut() -> None:
    """No entry holds more of a line than MAX_TEXT characters."""
    ring = EventRing()
    ring.add(("a",), event(1.0))
    assert len(ring.dump()[0]["text"]) == MAX_TEXT


def test_dump_and_load_are_inverse() -> None:
    """A loaded ring dumps the same, and numbers go on after it."""
    ring, again = EventRing(), EventRing()
    for number in range(3):
        ring.add((number,), event(float(number)))
    again.load(json.loads(json.dumps(ring.dump())))
    assert again.dump() == ring.dump()
    again.add((9,), event(9.0))
    assert again.dump()[-1]["number"] == 4


def test_a_foreign_document_is_refused() -> None:
    """Loading anything else raises and leaves the ring as it was."""
    ring = EventRing()
    ring.add(("a",), event(1.0))
    with pytest.raises(KeyError):
        ring.load([{"unknown": 1}])
    assert len(ring) == 1
