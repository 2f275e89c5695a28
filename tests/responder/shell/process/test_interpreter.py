"""The interpreter's settings while a responder runs, and that they end with it."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref

import pytest

from gpuheal_responder.shell.process import interpreter as subject


class Circle:
    """An object that refers to itself: only a full collection frees it once it is old."""

    def __init__(self) -> None:
        self.itself = self


async def test_full_collections_come_by_the_clock_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No amount of new objects sets one off, but circles are freed all the same."""
    monkeypatch.setattr(subject, "COLLECT_EVERY_S", 0.02)
    running = subject.Interpreter()
    (task,) = running.start()
    assert running.start() == (task,)
    circle = Circle()
    freed = weakref.ref(circle)
    gc.collect(1)  # it is old now
    del circle
    full = gc.get_stats()[2]["collections"]
    kept = [[n] for n in range(200_000)]
    assert gc.get_stats()[2]["collections"] == full
    assert len(kept) == 200_000
    assert freed() is not None
    deadline = time.monotonic() + 10
    while freed() is not None and time.monotonic() < deadline:  # noqa: ASYNC110  # the collector tells nobody
        await asyncio.sleep(0.005)
    await running.stop()
    assert freed() is None


async def test_stopping_restores_what_was_before() -> None:
    """Tests and the lab run responders in a process of their own; a second stop changes nothing."""
    before = (gc.get_threshold(), sys.getswitchinterval())
    running = subject.Interpreter()
    running.start()
    assert gc.get_threshold() == (*before[0][:2], subject.NEVER)
    assert sys.getswitchinterval() == pytest.approx(subject.SWITCH_S)
    assert gc.get_freeze_count() > 0
    await running.stop()
    await running.stop()
    assert (gc.get_threshold(), sys.getswitchinterval()) == before
    assert gc.get_freeze_count() == 0
