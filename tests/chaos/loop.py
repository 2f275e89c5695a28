"""An event loop whose time is the simulation's: timers fire when the simulated clock says so, and nothing sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Inline(Executor):
    """Runs what is submitted at once, in the caller's thread: a thread's timing could not be repeated."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Return a future that is done."""
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as problem:  # noqa: BLE001 - the future carries it to who waits
            done.set_exception(problem)
        return done


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop's seconds stand still until `seconds` is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._inline = Inline()

    def time(self) -> float:
        """Return the simulated time."""
        return self.seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run it at once."""
        return asyncio.wrap_future(self._inline.submit(func, *args), loop=self)


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
