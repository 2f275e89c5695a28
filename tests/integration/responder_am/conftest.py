"""Real Alertmanagers and Prometheus of both generations, and our web layer for them to post to."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.responder.shell.standins import Crowd, Holds, Store

from gpuheal_lab.servers.find import Generation
from gpuheal_lab.servers.stack import Alertmanager, Stack, webhook_config
from gpuheal_responder.config.settings import Listen
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.http import server
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.people import CaseApi
from gpuheal_responder.shell.http.webhook import Intake, Web
from gpuheal_responder.shell.process.reload import Tokens
from gpuheal_responder.shell.telemetry import Telemetry

TOKEN = "alertmanager-secret"
DEADLINE_S = 40.0


class WallClock:
    """The port Clock."""

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)


def no_problem(problem: ConfigError) -> None:
    """For files that never change."""
    raise problem


async def until(check: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Return the first true value of `check`, polled; AssertionError naming `what` after the deadline."""
    end = time.monotonic() + DEADLINE_S
    found: Any = None
    while time.monotonic() < end:
        found = await check()
        if found:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"waited {DEADLINE_S} s for {what}; last seen: {found!r}")


def alert(name: str = "GPUFellOffBus", *, node: str = "n1", resolved: bool = False, **labels: str) -> dict[str, Any]:
    """An alert as a client posts it to API v2."""
    now = datetime.now(UTC)
    ends = now - timedelta(seconds=1) if resolved else now + timedelta(minutes=5)
    named = {"alertname": name, "fault": "gpu-fell-off-bus", "severity": "critical", "node": node, **labels}
    return {
        "labels": {key: value for key, value in named.items() if value},
        "startsAt": (now - timedelta(minutes=1)).isoformat(),
        "endsAt": ends.isoformat(),
    }


@dataclass
class Receiver:
    """Our web layer, listening; what it woke and how it answered."""

    url: str = ""
    refusing: str = ""
    woken: list[str] = field(default_factory=list)
    answers: list[tuple[int, float]] = field(default_factory=list)
    telemetry: Telemetry = field(init=False)

    def statuses(self) -> list[int]:
        """Return the answers' statuses, oldest first."""
        return [status for status, _ in self.answers]


class Noting(Telemetry):
    """Telemetry that also keeps each answer with its time."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(cluster="", clock=WallClock(), audit=io.StringIO())
        self._receiver = receiver

    def delivered(self, answer: int, seconds: float) -> None:
        """Count and keep."""
        super().delivered(answer, seconds)
        self._receiver.answers.append((answer, time.monotonic()))


@asynccontextmanager
async def receiving(folder: Path) -> AsyncIterator[Receiver]:
    """The web layer on a free port, with one token."""
    made = Receiver()
    (folder / "token").write_text(TOKEN)
    made.telemetry = Noting(made)
    intake = Intake(
        wake=lambda: made.woken.append("woken"),
        refusing=lambda: made.refusing,
        unready=str,
        telemetry=made.telemetry,
        admission=Admission(Crowd()),
        webhook_tokens=Tokens([folder / "token"], no_problem),
    )
    cases = CaseApi(
        admission=Admission(Crowd()), remediations=Store(), holds=Holds(), telemetry=made.telemetry, clock=WallClock()
    )
    listen = Listen(host="127.0.0.1", port=0, webhook_token_files=(folder / "token",))
    async with server.listening(server.application(Web(intake), cases), listen, no_problem) as (host, port):
        made.url = f"http://{host}:{port}/webhook"
        yield made


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    """A listening web layer."""
    async with receiving(tmp_path) as made:
        yield made


@pytest.fixture(params=list(Generation), ids=str, scope="module")
def shared_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of each generation that the tests of a module share."""
    with Stack(tmp_path_factory.mktemp("stack"), request.param) as stack:
        yield stack


@pytest.fixture(scope="module")
def quiet_alertmanager(shared_stack: Stack) -> Alertmanager:
    """An Alertmanager with an inhibition rule, that posts to nobody who listens."""
    config = webhook_config("http://127.0.0.1:9/")
    inhibit = (
        "inhibit_rules:\n- source_matchers: ['alertname=\"UnderRemediation\"']\n"
        "  target_matchers: ['fault=\"gpu-fell-off-bus\"']\n  equal: [node]\n"
    )
    return shared_stack.alertmanager(config=config + inhibit)
