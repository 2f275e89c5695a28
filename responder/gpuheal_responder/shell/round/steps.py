"""Steps that are under way: each goes on by itself, so a slow one holds up nobody but its own case."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any


class Steps:
    """At most one step per case; a step that ends in anything but an exception of ours ends the round that waits."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}

    def busy(self, case: str) -> bool:
        """Return whether a step of this case is under way."""
        return case in self._running

    def any(self) -> bool:
        """Return whether any step is under way."""
        return bool(self._running)

    def begin(self, case: str, step: Coroutine[Any, Any, None]) -> None:
        """Start the step of a case that has none under way."""
        self._running[case] = asyncio.ensure_future(step)

    async def settle(self, patience: timedelta, wake: asyncio.Event) -> None:
        """Wait until all steps have ended, somebody wakes us, or patience is over; raise what no step should raise."""
        end = asyncio.get_running_loop().time() + patience.total_seconds()
        woken = asyncio.ensure_future(wake.wait())
        try:
            while self._running and not woken.done():
                left = end - asyncio.get_running_loop().time()
                done, _ = await asyncio.wait(
                    [*self._running.values(), woken], timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
                )
                await self._collect()
                if not done:
                    return
        finally:
            woken.cancel()

    async def _collect(self) -> None:
        ended = {name: task for name, task in self._running.items() if task.done()}
        for name in ended:
            del self._running[name]
        for task in ended.values():
            problem = task.exception()
            if problem is not None:
                await self.cancel()
                raise problem

    async def cancel(self) -> None:
        """End all steps where they are: their attempts stay open, and the next look resolves them against the world."""
        running, self._running = list(self._running.values()), {}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
