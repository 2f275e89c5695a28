"""Time of the simulation: the wall's, or one that moves only when a test says so, and things that happen later."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
MOST_EVENTS = 1_000_000


class Clock(Protocol):
    """Time, as an argument."""

    def now(self) -> datetime:
        """The current time in UTC."""
        ...


class WallClock:
    """The machine's own time, for the demo and the HTTP server."""

    def now(self) -> datetime:
        """The current time in UTC."""
        return datetime.now(UTC)


class ManualClock:
    """A time that stands still until it is moved, for tests without sleeping."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start

    def now(self) -> datetime:
        """The time it was last moved to."""
        return self._now

    def move(self, span: timedelta) -> None:
        """The time is `span` later; raises ValueError for a negative span."""
        if span < timedelta(0):
            raise ValueError(f"time does not go back ({span})")
        self._now += span


class Schedule:
    """What happens later. Nothing runs by itself: `catch_up` runs all that is due, each at its own time, in order.

    As the simulated world can only be seen through calls that catch up first, this cannot be told from things that
    happen by themselves, with a wall clock or a manual one.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._count = 0
        self._queue: list[tuple[datetime, int, Callable[[], None]]] = []
        self._running: datetime | None = None

    def now(self) -> datetime:
        """The time of the event that runs at this moment, else the clock's."""
        return self._running or self.clock.now()

    def after(self, delay: timedelta, run: Callable[[], None]) -> None:
        """`run()` is called once `delay` has gone by, counted from the event that runs now, else from now."""
        self._count += 1
        heapq.heappush(self._queue, (self.now() + delay, self._count, run))

    def catch_up(self) -> None:
        """Everything that is due has happened, also what it led to. Calls from within an event do nothing."""
        if self._running is not None:
            return
        now = self.clock.now()
        for _ in range(MOST_EVENTS):
            if not self._queue or self._queue[0][0] > now:
                return
            at, _number, run = heapq.heappop(self._queue)
            self._running = at
            try:
                run()
            finally:
                self._running = None
        raise RuntimeError(f"more than {MOST_EVENTS} events were due at once")

    def next_at(self) -> datetime | None:
        """When the next event is due, or None."""
        return self._queue[0][0] if self._queue else None
