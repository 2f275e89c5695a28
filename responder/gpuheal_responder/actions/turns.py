"""Turns among drains: replicas of one application that run on two nodes are not evicted on each other's account.

Each of two drains sees the other node's replica running and would take it for the one that stays. So evictions of pods
of one owner are made one at a time, and whoever finds that another drain has evicted one since it listed its pods
lists them once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Owner:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    evictions: int = 0
    waiting: int = 0


class Turns:
    """One per process; owners that nobody waits for and that were not evicted lately are forgotten."""

    MOST_OWNERS = 4096

    def __init__(self) -> None:
        self._owners: dict[str, _Owner] = {}

    def count(self, owner: str) -> int:
        """Return how many pods of this owner have been evicted by drains of this process."""
        found = self._owners.get(owner)
        return found.evictions if found is not None else 0

    def counts(self) -> Mapping[str, int]:
        """Return `count` of every owner at this moment."""
        return {name: one.evictions for name, one in self._owners.items()}

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[None]:
        """Hold the owner's turn; on leaving it the eviction made meanwhile is counted."""
        found = self._owners.setdefault(owner, _Owner())
        found.waiting += 1
        try:
            async with found.lock:
                yield
                found.evictions += 1
        finally:
            found.waiting -= 1
            if len(self._owners) > self.MOST_OWNERS:
                self._owners = {name: one for name, one in self._owners.items() if one.waiting}
