"""One place that watches every long-lived task. If one ends by itself, the process must not live on without it.

A task that has met a bug never comes back: the rest would answer probes for ever and heal nothing. So the whole process
ends with the reason in its log, the Lease is given back, and Kubernetes starts it anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Knows the long-lived tasks by name, and why the first one that ended by itself did so."""

    failed: Callable[[], None] = lambda: None
    """Called once, when the first task has ended by itself."""
    failure: str = ""
    """Which task ended by itself and why; empty while all is well."""
    _watched: set[asyncio.Task[None]] = field(default_factory=set)
    _released: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The names of the tasks that are watched and run."""
        return frozenset(task.get_name() for task in self._watched)

    def watch(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Watch tasks that run until `release`: whichever ends before is a failure, also without an error."""
        for task in tasks:
            self._watched.add(task)
            task.add_done_callback(self._ended)

    def release(self) -> None:
        """Let tasks end from now on: everything is being stopped."""
        self._released = True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._watched.discard(task)
        problem = None if task.cancelled() else task.exception()
        if self._released and problem is None:
            return
        why = "was cancelled" if task.cancelled() else f"{type(problem).__name__}: {problem}" if problem else "returned"
        log.critical("task %s ended unexpectedly: %s", task.get_name(), why, exc_info=problem)
        if not (self._released or self.failure):
            self.failure = f"{task.get_name()}: {why}"
            self.failed()


class LongTask:
    """One task that runs from `start` to `stop`; calling either again changes nothing."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._run = run
        self._name = name
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """True when the task has ended by itself."""
        return self._task is not None and self._task.done()

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin; return the task for the supervisor."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)
        return (self._task,)

    async def stop(self) -> None:
        """End the task and wait until it has ended."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel the task and wait until it has ended, however it ends: errors are the supervisor's to tell."""
    task.cancel()
    await asyncio.wait((task,))
