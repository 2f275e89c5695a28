"""The webhook's answers, and who gets in: S02, S03 and S04."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from tests.responder.shell.scripted import StillClock, no_problem
from tests.responder.shell.standins import Crowd

from gpuheal_responder.shell.http import webhook as subject
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.webhook import Intake, Web
from gpuheal_responder.shell.kube.review import SCRAPE
from gpuheal_responder.shell.process.reload import Tokens
from gpuheal_responder.shell.telemetry import Telemetry

TOKEN = {"Authorization": "Bearer old-secret"}


@dataclass
class World:
    """A web layer under test, what it woke, and the knobs around it."""

    folder: Path
    woken: list[str] = field(default_factory=list)
    refusing: str = ""
    unready: str = ""
    arrivals: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    audit: io.StringIO = field(default_factory=io.StringIO)
    people: Crowd = field(default_factory=Crowd)
    client: TestClient[Any, Any] = field(init=False)
    telemetry: Telemetry = field(init=False)

    def intake(self) -> Intake:
        """Return what the web layer is given."""
        for name in ("old", "new"):
            (self.folder / name).write_text(f"{name}-secret\n")
        self.telemetry = Telemetry(cluster="prod", clock=StillClock(), audit=self.audit)
        return Intake(
            wake=lambda: self.woken.append("woken"),
            refusing=self._refusing,
            unready=lambda: self.unready,
            telemetry=self.telemetry,
            admission=Admission(self.people),
            webhook_tokens=Tokens([self.folder / "old", self.folder / "new"], no_problem),
        )

    def _refusing(self) -> str:
        self.arrivals.release()
        return self.refusing

    async def post(self, body: bytes | str, headers: dict[str, str] | None = None) -> ClientResponse:
        """Post to the webhook with the valid token, unless other headers are given."""
        data = io.BytesIO(body.encode() if isinstance(body, str) else body)
        return await self.client.post("/webhook", data=data, headers=TOKEN if headers is None else headers)

    def count(self, name: str, **labels: str) -> float:
        """Return a counter's value."""
        return self.telemetry.registry.get_sample_value(name, labels) or 0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A running web layer."""
    made = World(tmp_path)
    app = web.Application()
    Web(made.intake()).add_to(app)
    async with TestClient(TestServer(app)) as client:
        made.client = client
        yield made


def message(*alerts: object, **more: Any) -> str:
    """Alertmanager's webhook message with these alerts."""
    return json.dumps({"version": "4", "groupKey": "{}:{}", "status": "firing", "alerts": alerts, **more})


def alert(status: str = "firing", **labels: str) -> dict[str, Any]:
    """One alert of a message."""
    return {"status": status, "labels": {"alertname": "GPUFellOffBus", **labels}, "annotations": {}}


async def test_s02_a_delivery_wakes_us(world: World) -> None:
    """Firing and resolved alerts alike; the answer is 200; keep-alive stays."""
    answer = await world.post(message(alert(node="n1"), alert("resolved", node="n2"), alert()))
    assert answer.status == 200
    assert world.woken == ["woken"]
    assert answer.headers.get("Connection") != "close"
    assert world.count("gpuheal_deliveries_total", answer="200") == 1


async def test_s10_the_dead_mans_alert_is_a_delivery_like_any_other(world: World) -> None:
    """Whoever has the token could send it, and Alertmanager repeats it after Prometheus has died: it only wakes."""
    await world.post(message({"status": "firing", "labels": {"alertname": "GPUHealWatchdog"}}))
    assert world.woken == ["woken"]


@pytest.mark.parametrize("reason", ["starting", "overloaded"])
async def test_s02_not_now_is_503_and_closes(world: World, reason: str) -> None:
    """Alertmanager retries a 503 within a second; the closed connection lets it reach another replica."""
    world.refusing = reason
    answer = await world.post(message(alert(node="n1")))
    assert (answer.status, await answer.text()) == (503, f"{reason}\n")
    assert answer.headers["Connection"] == "close"
    assert world.woken == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": "3", "alerts": []}',
        b'{"alerts": []}',
        b'{"version": "4", "alerts": {}}',
        b"\xff\xfe",
        b"[" * 50_000,
    ],
)
async def test_s02_what_is_not_alertmanagers_is_400(world: World, body: bytes) -> None:
    """Anything but a webhook message of version 4 is the sender's mistake, however deep it nests."""
    answer = await world.post(body)
    assert answer.status == 400
    assert world.woken == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (message(alert(node="n1"), {"status": "pending", "labels": {}}), "delivery-unusable"),
        (message({"status": [], "labels": {}}), "delivery-unusable"),
        (message({"status": {}, "labels": {}}), "delivery-unusable"),
        (message([]), "delivery-unusable"),
        (message(alert(**{f"l{i}": "x" for i in range(100)})), "delivery-unusable"),
        (message(alert(node="x" * 5000)), "delivery-unusable"),
        (message(alert(node="n1"), note=[0] * 100_000), "delivery-too-complex"),
        (message(alert(node="n1"), note="x" * subject.LARGEST_BODY), "delivery-too-large"),
    ],
)
async def test_s02_a_poison_message_of_alertmanagers_ends_with_200(world: World, body: str, reason: str) -> None:
    """A 4xx would come again at every group interval for ever; the dead letter is counted and a look made instead."""
    answer = await world.post(body)
    assert answer.status == 200
    assert world.count("gpuheal_dead_letters_total", reason=reason) == 1
    assert world.woken == ["woken"]


async def test_s02_never_429(world: World) -> None:
    """Not even the requests beyond the most that may be under way are answered with 429 (no retry would follow)."""
    never = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"version": "4",'
        await never.wait()
        yield b' "alerts": []}'

    most = subject.MOST_BYTES_UNDER_WAY // subject.LARGEST_BODY
    waiting = [asyncio.create_task(world.client.post("/webhook", data=slow(), headers=TOKEN)) for _ in range(most)]
    for _ in range(most):
        await world.arrivals.acquire()
    answer = await world.client.post("/webhook", data=slow_once(), headers=TOKEN)
    assert (answer.status, await answer.text()) == (503, "overloaded\n")
    never.set()
    assert {(await task).status for task in waiting} == {200}


async def slow_once() -> AsyncIterator[bytes]:
    """A body whose size is not announced."""
    yield message().encode()


async def test_s03_a_slow_body_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that dribbles its body is answered 503 and disconnected, so it holds nothing for long."""
    monkeypatch.setattr(subject, "BODY_DEADLINE_S", 0.05)
    never = asyncio.Event()

    async def dribble() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    answer = await world.client.post("/webhook", data=dribble(), headers=TOKEN)
    assert answer.status == 503
    assert answer.headers["Connection"] == "close"
    never.set()


async def test_s03_compressed_bodies_are_not_taken(world: World) -> None:
    """A small compressed body could unfold into a huge one; Alertmanager sends none."""
    answer = await world.client.post("/webhook", data=b"x", headers={**TOKEN, "Content-Encoding": "gzip"})
    assert answer.status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic old-secret"},
        {"Authorization": "old-secret"},
        {"Authorization": "Bearer old-secret2"},
    ],
)
async def test_s04_without_a_valid_token_nothing_is_read(world: World, headers: dict[str, str]) -> None:
    """401 comes before the body is looked at, and the connection is closed."""
    answer = await world.post(message(alert(node="n1")), headers)
    assert answer.status == 401
    assert answer.headers["Connection"] == "close"
    assert world.woken == []


async def test_s04_all_token_files_are_valid_and_read_again(world: World) -> None:
    """During a rotation both tokens are valid; a rewritten file counts from the next request on."""
    assert (await world.post(message(), {"Authorization": "Bearer new-secret"})).status == 200
    (world.folder / "old").write_text("rotated-secret\n")
    assert (await world.post(message())).status == 401
    assert (await world.post(message(), {"Authorization": "bearer rotated-secret"})).status == 200


async def test_s04_metrics_need_a_token_with_the_right(world: World) -> None:
    """/metrics is for Kubernetes tokens that may `get` it; health is for everybody."""
    world.people.known = {"prom": ("prometheus", frozenset({SCRAPE})), "ada": ("ada", frozenset())}
    statuses = [
        (await world.client.get("/metrics", headers={"Authorization": f"Bearer {token}"})).status
        for token in ("prom", "ada", "nobody", "old-secret")
    ]
    assert statuses == [200, 403, 401, 401]
    world.people.broken = True
    assert (await world.client.get("/metrics", headers={"Authorization": "Bearer prom"})).status == 503


async def test_metrics_are_prometheus_text(world: World) -> None:
    """Prometheus recognises the format by its content type."""
    world.people.known = {"prom": ("prometheus", frozenset({SCRAPE}))}
    answer = await world.client.get("/metrics", headers={"Authorization": "Bearer prom"})
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert "gpuheal_leader 0.0" in await answer.text()


async def test_health_says_alive_and_ready(world: World) -> None:
    """/healthz says the process serves, /readyz whether it should get traffic, and why not."""
    assert (await world.client.get("/healthz")).status == 200
    assert (await world.client.get("/readyz")).status == 200
    world.unready = "nodes not listed yet"
    answer = await world.client.get("/readyz")
    assert (answer.status, await answer.text()) == (503, "nodes not listed yet\n")
    assert (await world.client.get("/healthz")).status == 200


@pytest.mark.parametrize("path", ["/webhook", "/v1/alerts", "/", "/webhook/../metrics"])
async def test_nothing_else_is_served(world: World, path: str) -> None:
    """The webhook takes POST only, and there are no other doors."""
    answer = await world.client.get(path)
    assert answer.status in {401, 404, 405}
