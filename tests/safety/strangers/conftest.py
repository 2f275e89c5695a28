"""The whole web layer on a free port, and strangers who speak to it over raw sockets."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.responder.shell.scripted import StillClock
from tests.responder.shell.standins import Holds, Store

from gpuheal_responder.config.settings import Listen
from gpuheal_responder.shell.http import server
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.people import CaseApi
from gpuheal_responder.shell.http.webhook import Intake, Web
from gpuheal_responder.shell.kube.review import KubePeople, Reviewer
from gpuheal_responder.shell.process.reload import Tokens
from gpuheal_responder.shell.telemetry import Telemetry

TOKEN = "webhook-secret"
PATIENCE_S = 20.0


@dataclass
class House:
    """The web layer, and how long its event loop stood still at worst (CPU of this process, in seconds)."""

    port: int = 0
    worst_s: float = 0.0
    woken: list[str] = field(default_factory=list)
    problems: list[Exception] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Why connections were ended that had asked nothing."""

    async def ask(self, path: str = "/healthz", *, head: str = "", source: str = "127.0.0.1") -> int:
        """Return the status of a GET by itself, asked from an address of this machine."""
        return (await self.timed(path, head=head, source=source))[0]

    async def timed(self, path: str, *, head: str = "", source: str = "127.0.0.1") -> tuple[int, float]:
        """Return the status and the seconds it took."""
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode())
                status = int((await reader.readline()).split()[1])
            finally:
                writer.close()
        return status, time.monotonic() - began


class NoReviewer:
    """An API server that knows nobody."""

    asked = 0

    async def review(self, path: str, body: object) -> dict[str, object]:
        """Return that the token is unknown."""
        self.asked += 1
        return {"status": {"authenticated": False}}


@asynccontextmanager
async def house(folder: Path, *, reviewer: Reviewer | None = None, over_http: bool = False) -> AsyncIterator[House]:
    """The web layer while the context lasts."""
    made, clock = House(), StillClock()
    (folder / "token").write_text(TOKEN)
    telemetry = Telemetry(cluster="", clock=clock, audit=io.StringIO())
    admission = Admission(KubePeople(reviewer=reviewer or NoReviewer(), clock=clock), over_http=over_http)
    intake = Intake(
        wake=lambda: made.woken.append("woken"),
        refusing=str,
        unready=str,
        telemetry=telemetry,
        admission=admission,
        webhook_tokens=Tokens([folder / "token"], made.problems.append),
    )
    cases = CaseApi(admission=admission, remediations=Store(), holds=Holds(), telemetry=telemetry, clock=clock)
    listen = Listen(host="127.0.0.1", port=0, webhook_token_files=(folder / "token",))
    app = server.application(Web(intake), cases)
    async with server.listening(app, listen, made.problems.append, ended=made.ended.append) as (_, made.port):
        watch = asyncio.create_task(_watch(made))
        yield made
        watch.cancel()


async def _watch(made: House) -> None:
    """Measure how late the loop wakes a timer, as far as this process has computed meanwhile."""
    now = asyncio.get_running_loop().time
    while True:
        due, spent = now() + 0.005, time.process_time()
        await asyncio.sleep(0.005)
        made.worst_s = max(made.worst_s, min(now() - due, time.process_time() - spent))
