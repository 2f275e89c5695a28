"""Is the way from Prometheus to us whole? While it isn't, nothing disruptive begins, and people are told from outside.

The dead man's alert GPUHealWatchdog has to arrive again and again, by the webhook or in Alertmanager's list; three
silent intervals freeze. After the pipeline is well again a quiet time passes before it thaws. An external URL is pinged
while all is well, so that somebody else notices when we die.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp

from gpuheal_responder.errors import ConfigError
from gpuheal_responder.ports import Clock
from gpuheal_responder.shell.process.reload import read_secret

log = logging.getLogger(__name__)

SILENT_INTERVALS = 3
PING_DEADLINE = timedelta(seconds=10)


@dataclass(slots=True, kw_only=True)
class Pipeline:
    """Knows why nothing disruptive may begin, or that it may."""

    clock: Clock
    interval: timedelta
    thaw: timedelta
    prometheus: Callable[[], Awaitable[str]]
    """Why Prometheus cannot be trusted at this moment, or an empty text."""
    told: Callable[[str], None] = lambda _: None
    """Told the answer of every look, for a metric."""
    _beat_at: datetime | None = None
    _began_at: datetime | None = None
    _trouble_at: datetime | None = None
    _trouble: str = field(default="")

    def beat(self, at: datetime | None = None) -> None:
        """Record that the dead man's alert arrived just now, or that Alertmanager last got it at `at`."""
        at = at or self.clock.now()
        self._beat_at = at if self._beat_at is None else max(self._beat_at, at)

    async def frozen(self) -> str:
        """Return why nothing disruptive may begin, or an empty text; `told` hears it too."""
        reason = await self._reason()
        self.told(reason)
        return reason

    async def _reason(self) -> str:
        """Return the reason of this moment.

        After trouble the reason stays, as thawing, until the pipeline has been well for the whole thaw time. Waiting
        for the first heartbeat after our own start freezes as well, but needs no thaw.
        """
        now = self.clock.now()
        if self._began_at is None:
            self._began_at = now
        if self._beat_at is None and now - self._began_at <= SILENT_INTERVALS * self.interval:
            return "watchdog-awaited: GPUHealWatchdog has not arrived since we started"
        since = self._beat_at or self._began_at
        trouble = ""
        if now - since > SILENT_INTERVALS * self.interval:
            trouble = f"watchdog-silent: GPUHealWatchdog last arrived at {since.isoformat(timespec='seconds')}"
        trouble = trouble or await self.prometheus()
        if trouble:
            self._trouble, self._trouble_at = trouble, now
            return trouble
        if self._trouble_at is not None and now - self._trouble_at < self.thaw:
            return f"thawing: {self._trouble}"
        return ""


async def ping_while_well(file: Path, pipeline: Pipeline, interval: timedelta, stop: asyncio.Event) -> None:
    """Ping the URL in `file` once an interval while nothing is frozen, until `stop` is set. Failures are logged."""
    limit = aiohttp.ClientTimeout(total=PING_DEADLINE.total_seconds())
    async with aiohttp.ClientSession(timeout=limit) as session:
        while not stop.is_set():
            if not await pipeline.frozen():
                try:
                    async with session.get(read_secret(file)) as answer:
                        if answer.status >= 400:
                            log.warning("dead man's URL answered %d", answer.status)
                except (TimeoutError, aiohttp.ClientError, ConfigError) as problem:
                    log.warning("dead man's URL: %s", type(problem).__name__)
            try:
                await asyncio.wait_for(stop.wait(), interval.total_seconds())
            except TimeoutError:
                continue
