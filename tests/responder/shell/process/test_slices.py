"""Long work on the event loop gives way to others."""

from __future__ import annotations

import asyncio
import time

import pytest

from gpuheal_responder.shell.process import slices as subject


def compute(seconds: float) -> None:
    """Hold the loop for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize(("each_s", "turns"), [(0.0, 0), (2 * subject.SLICE_S, 4)])
async def test_others_run_between_slices(each_s: float, turns: int) -> None:
    """Who waits for the loop runs after each item that took longer than a slice; quick items are not held up."""
    heard: list[int] = []

    async def others() -> None:
        while True:
            heard.append(len(seen))
            await asyncio.sleep(0)

    seen: list[int] = []
    waiting = asyncio.create_task(others())
    async for item in subject.sliced(range(4)):
        compute(each_s)
        seen.append(item)
    waiting.cancel()
    assert seen == [0, 1, 2, 3]
    assert len(heard) == turns
