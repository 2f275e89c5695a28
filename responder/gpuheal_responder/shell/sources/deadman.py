"""Is the way from Prometheus to us whole? While it isn't, nothing disruptive begins, and people are told from outside.

Prometheus has to send the dead man's alert GPUHealWatchdog of our cluster to Alertmanager again and again; three silent
intervals freeze. When Alertmanager last got it stands in its list. A delivery to our webhook proves less: anybody with
its token could send one, and Alertmanager repeats its own for minutes after Prometheus has died. After the pipeline is
well again a quiet time passes before it thaws. An external URL is pinged while all is well, so that somebody else
notices when we die.
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

    def begin(self) -> None:
        """Begin to wait for the first heartbeat: we lead from now on, and did not listen before."""
        self._began_at = self._beat_at = None

    def beat(self, at: datetime) -> None:
        """Record that Alertmanager last got the dead man's alert at `at`; a time to come counts as now."""
        at = min(at, self.clock.now())
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
            return "watchdog-awaited: no GPUHealWatchdog alert received since the responder started"
        since = self._beat_at or self._began_at
        trouble = ""
        if now - since > SILENT_INTERVALS * self.interval:
            trouble = f"watchdog-silent: last GPUHealWatchdog alert received at {since.isoformat(timespec='seconds')}"
        trouble = trouble or await self.prometheus()
        if trouble:
            self._trouble, self._trouble_at = trouble, now
            return trouble
        if self._trouble_at is not None and now - self._trouble_at < self.thaw:
            return f"thawing: recovering from {self._trouble}"
        return ""


@dataclass(slots=True, kw_only=True)
class Wellbeing:
    """Knows whether somebody outside may be told that all is well.

    Only whoever leads and has lately ended a round well can tell. All others are silent: if nobody leads, or every
    round fails, so is the dead man's URL, and people are called.
    """

    clock: Clock
    leads: Callable[[], bool]
    looked_at: Callable[[], datetime | None]
    """When the last round ended well, leading or not."""
    patience: timedelta
    """How old the last good round may be."""
    pipeline: Pipeline
    _leads_since: datetime | None = None

    async def lacking(self) -> str:
        """Return what is not well, or an empty text."""
        now = self.clock.now()
        if not self.leads():
            self._leads_since = None
            return "this replica is not the leader"
        self._leads_since = self._leads_since or now
        looked_at = self.looked_at()
        if looked_at is None or looked_at < self._leads_since:
            return "no round has succeeded since this replica became the leader"
        if now - looked_at > self.patience:
            return f"the last successful round was at {looked_at.isoformat(timespec='seconds')}"
        return await self.pipeline.frozen()


async def ping_while_well(
    file: Path, lacking: Callable[[], Awaitable[str]], interval: timedelta, stop: asyncio.Event
) -> None:
    """Ping the URL in `file` once an interval while nothing is `lacking`, until `stop` is set.

    Failures are logged: they are what the other side notices.
    """
    limit = aiohttp.ClientTimeout(total=PING_DEADLINE.total_seconds())
    async with aiohttp.ClientSession(timeout=limit) as session:
        while not stop.is_set():
            if not await lacking():
                try:
                    async with session.get(read_secret(file)) as answer:
                        if answer.status >= 400:
                            log.warning("heartbeat URL returned HTTP %d", answer.status)
                except (TimeoutError, OSError, ValueError, aiohttp.ClientError, ConfigError) as problem:
                    log.warning("heartbeat URL: %s", type(problem).__name__)
            try:
                await asyncio.wait_for(stop.wait(), interval.total_seconds())
            except TimeoutError:
                continue
