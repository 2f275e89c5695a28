"""Settings of the Python interpreter that keep the event loop from standing still.

Full garbage collections walk every object, and a large answer that is being decoded would set off several: they are
made once a minute instead, and what was loaded at the start is left out. Objects that refer to each other in no circle,
as nearly all of ours, are freed at once as ever. Threads that compute give way sooner than by default, for the loop
asks for the interpreter anew after every read and write.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from gpuheal_responder.shell.process.supervisor import LongTask

COLLECT_EVERY_S = 60.0
NEVER = 2**31 - 1
SWITCH_S = 0.0005
"""Python's default is 5 ms: https://docs.python.org/3/library/sys.html#sys.setswitchinterval"""


@dataclass(frozen=True, slots=True)
class _Before:
    """What was set before."""

    thresholds: tuple[int, int, int]
    switch_s: float


class Interpreter:
    """The settings are in force from `start` to `stop`."""

    def __init__(self) -> None:
        self._task = LongTask(self._run, "garbage collector")
        self._before: _Before | None = None

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Set them; return the task that collects garbage."""
        if self._before is None:
            self._before = _Before(gc.get_threshold(), sys.getswitchinterval())
            gc.collect()
            gc.freeze()
            gc.set_threshold(*self._before.thresholds[:2], NEVER)
            sys.setswitchinterval(SWITCH_S)
        return self._task.start()

    async def stop(self) -> None:
        """Set what was set before; repeatable."""
        await self._task.stop()
        if self._before is not None:
            gc.set_threshold(*self._before.thresholds)
            gc.unfreeze()
            sys.setswitchinterval(self._before.switch_s)
            self._before = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_EVERY_S)
            gc.collect()
