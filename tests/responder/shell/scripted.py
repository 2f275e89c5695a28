"""A scripted HTTP server, and a clock that stands still."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime

from aiohttp import web

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class StillClock:
    """A clock that shows what it was set to."""

    at: datetime = NOW

    def now(self) -> datetime:
        """Return the time it was set to."""
        return self.at


@dataclass
class Script:
    """Answers by path; what was asked is kept."""

    url: str = ""
    answers: dict[str, object] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    slow_s: float = 0.0
    """How long every answer takes."""
    date: datetime = NOW
    """The server's own clock."""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer as the script says: a callable gets the fields, bytes go out as they are, the rest as JSON."""
        form = await request.post() if request.method == "POST" else request.query
        fields = {key: [str(v) for v in form.getall(key)] for key in form}
        self.asked.append((request.path, fields, dict(request.headers)))
        await asyncio.sleep(self.slow_s)
        if request.path in self.stuck:
            await self.released.wait()
        found = self.answers.get(request.path)
        if callable(found):
            found = found(fields)
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        status = self.statuses.get(request.path, 200 if found is not None else 404)
        return web.Response(body=body, status=status, headers={"Date": format_datetime(self.date, usegmt=True)})


def no_problem(problem: object) -> None:
    """For clients whose files never change in the test."""
    raise AssertionError(problem)


MakeScript = Callable[[], Awaitable[Script]]
