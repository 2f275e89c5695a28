"""How long the event loop stands still: everything else of us waits meanwhile, webhooks and lease renewals too.

Beside the delay stands how much of it this process has computed. The rest is want of CPU: a limit, or a busy machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from gpuheal_responder.shell.process.supervisor import LongTask

PERIOD_S = 0.01
"""How exact a stall is measured; this many timers cost about 0.3 % of a core."""
WINDOW_S = 60.0


class StallMonitor:
    """A timer that tells how late it was woken, from `start` to `stop`."""

    def __init__(self, told: Callable[[float, float], None]) -> None:
        """Tell every delay in seconds to `told`, and how much of it was CPU time of this process."""
        self._told = told
        self._task = LongTask(self._run, "stall monitor")

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to measure; return the task that does."""
        return self._task.start()

    async def stop(self) -> None:
        """End; repeatable."""
        await self._task.stop()

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, spent = now() + PERIOD_S, time.process_time()
            await asyncio.sleep(PERIOD_S)
            delay = max(0.0, now() - due)
            self._told(delay, min(delay, time.process_time() - spent))


class Longest:
    """The largest of the values of the last minute or two, so that scrapers further apart than a stall see it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take the time in seconds from `clock`."""
        self._clock = clock
        self._until = clock() + WINDOW_S
        self._now = self._before = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        self._turn()
        self._now = max(self._now, value)

    def value(self) -> float:
        """Return the largest value of this window and the one before it."""
        self._turn()
        return max(self._now, self._before)

    def _turn(self) -> None:
        now = self._clock()
        if now >= self._until:
            self._before = self._now if now < self._until + WINDOW_S else 0.0
            self._now, self._until = 0.0, now + WINDOW_S
