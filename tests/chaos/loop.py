"""An event loop whose time is the simulation's: nothing sleeps; who waits for a timer alone makes the time pass."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Everybody waits for something that can never happen."""


class Selector(selectors.SelectSelector):
    """Never blocks: where a real loop would sleep, the simulated time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.sleep: Callable[[float], None] = lambda _: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return no event; nothing in this world comes from a socket."""
        if timeout is None:
            raise Deadlock("nothing is ready, and no timer is set")
        if timeout > 0:
            self.sleep(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop's `seconds` move when they are moved, and when nothing but a timer could happen; then `idle` is told."""

    def __init__(self) -> None:
        self.seconds = 0.0
        selector = Selector()
        super().__init__(selector)
        selector.sleep = self._sleep
        self.idle: Callable[[float], None] = lambda _: None

    def _sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.idle(seconds)

    def time(self) -> float:
        """Return the simulated time."""
        return self.seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run it at once, in the caller's thread: a thread's timing could not be repeated."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as problem:  # noqa: BLE001 - the future carries it to who waits
            done.set_exception(problem)
        return done


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Return what the coroutine returns, run on a loop of its own; tasks left over are cancelled."""
    loop = VirtualLoop()
    loop.set_exception_handler(lambda _loop, _context: None)
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main(loop))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        for task in left:
            with suppress(BaseException):
                loop.run_until_complete(task)
        asyncio.set_event_loop(None)
        loop.close()
