"""Who may change anything: the leader, once its own picture has caught up with what was written before it led.

A new leader reads the cases of the last one, but its watch of the nodes may lag behind them: a contained node would
look as if somebody had taken our marks off. So it asks the API server how far it is, and decides nothing before its
watches are there. Every write goes through the same question, right before it is sent: a replica that stalled between
looking and writing finds that it does not lead any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Protocol

from gpuheal_responder.shell.kube.api import ApiError
from gpuheal_responder.shell.process.supervisor import LongTask

RETRY_S = 1.0
NEVER = -1

log = logging.getLogger(__name__)


class Leads(Protocol):
    """The election, as far as the fence asks."""

    term: int

    @property
    def is_leader(self) -> bool:
        """True while nobody else can lead."""
        ...


class Follower(Protocol):
    """A cache that can be told to catch up."""

    async def catch_up(self) -> None:
        """Return once all that had happened before is heard of; ApiError when that cannot be."""
        ...


class Fence:
    """Runs from `start` to `stop`; `moved` tells it of every change in the election that it was given by `guard`."""

    def __init__(self) -> None:
        self._election: Leads | None = None
        self._followers: Sequence[Follower] = ()
        self._caught_up = NEVER
        self._moved = asyncio.Event()
        self._task = LongTask(self._run, "fence")

    def guard(self, election: Leads, followers: Sequence[Follower]) -> None:
        """Take part in this election with these caches."""
        self._election, self._followers = election, followers

    def may_act(self) -> bool:
        """Return whether we lead, and see all that was written before we did."""
        election = self._election
        return election is not None and election.is_leader and election.term == self._caught_up

    def moved(self) -> None:
        """Hear that the election has moved."""
        self._moved.set()

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to watch the election; return the task that does."""
        return self._task.start()

    async def stop(self) -> None:
        """Let nothing through any more; repeatable."""
        await self._task.stop()
        self._caught_up = NEVER

    async def _run(self) -> None:
        while True:
            waiting = RETRY_S if self._behind() else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), waiting)
            self._moved.clear()
            if self._behind():
                await self._catch_up()

    def _behind(self) -> bool:
        election = self._election
        return election is not None and election.is_leader and election.term != self._caught_up

    async def _catch_up(self) -> None:
        """Open the fence for the term in which this began; another one has to catch up anew."""
        assert self._election is not None
        term = self._election.term
        try:
            await asyncio.gather(*(follower.catch_up() for follower in self._followers))
        except ApiError as problem:
            log.warning("elected leader, but not in sync yet: %s", problem)
            return
        self._caught_up = term
