"""The stall monitor notices what blocks the event loop, and the longest stall is remembered for a minute or two."""

from __future__ import annotations

import asyncio
import select
import time

import pytest

from gpuheal_responder.shell.process.stall import WINDOW_S, Longest, StallMonitor

BLOCK_S = 0.2
DEADLINE_S = 10.0


class Heard:
    """What the monitor told."""

    def __init__(self) -> None:
        self.delays: list[tuple[float, float]] = []
        self.news = asyncio.Event()

    def __call__(self, wall: float, cpu: float) -> None:
        self.delays.append((wall, cpu))
        self.news.set()

    async def next(self) -> None:
        """Wait for one more."""
        self.news.clear()
        await asyncio.wait_for(self.news.wait(), DEADLINE_S)


@pytest.mark.parametrize("computing", [True, False])
async def test_a_blocked_loop_is_told(computing: bool) -> None:
    """A stall is told with its length, and with what of it was computed rather than waited."""
    heard = Heard()
    monitor = StallMonitor(heard)
    monitor.start()
    await heard.next()
    (compute if computing else wait)(BLOCK_S)
    await heard.next()
    await monitor.stop()
    wall, cpu = max(heard.delays)
    assert wall >= BLOCK_S - 0.02
    assert (cpu >= BLOCK_S - 0.05) if computing else (cpu < BLOCK_S / 2)


def compute(seconds: float) -> None:
    """Use that much CPU time."""
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


def wait(seconds: float) -> None:
    """Block the thread without computing."""
    select.select([], [], [], seconds)


async def test_the_monitor_can_be_stopped_twice() -> None:
    """Stopping ends its task; a second time changes nothing."""
    monitor = StallMonitor(lambda wall, cpu: None)
    (task,) = monitor.start()
    assert monitor.start() == (task,)
    await monitor.stop()
    await monitor.stop()
    assert task.done()


class Hand:
    """A clock moved by hand."""

    at = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.at


@pytest.mark.parametrize(
    ("passed", "shown"), [(0, 3.0), (WINDOW_S - 1, 3.0), (WINDOW_S + 1, 3.0), (2 * WINDOW_S + 1, 0.0)]
)
def test_the_longest_stall_is_shown_for_a_minute_and_forgotten_after_two(passed: float, shown: float) -> None:
    """However often it is asked for."""
    hand = Hand()
    longest = Longest(hand)
    for value in (1.0, 3.0, 2.0):
        longest.add(value)
    hand.at += passed
    assert longest.value() == shown
    assert longest.value() == shown


def test_after_a_long_silence_nothing_old_is_shown() -> None:
    """Values of several windows ago are gone, and new ones count at once."""
    hand = Hand()
    longest = Longest(hand)
    longest.add(3.0)
    hand.at += 10 * WINDOW_S
    longest.add(0.5)
    assert longest.value() == 0.5
