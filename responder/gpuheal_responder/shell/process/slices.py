"""Long work on the event loop, cut into slices: webhooks and lease renewals must not wait for a fleet to be counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")
SLICE_S = 0.01
"""A fifth of the 50 ms that the loop may stand still."""


async def sliced(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield the items in order; whenever 10 ms have passed, all others that wait for the loop run first."""
    began = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - began > SLICE_S:
            await asyncio.sleep(0)
            began = time.monotonic()
