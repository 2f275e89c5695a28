"""The way from Alertmanager to the responder, which may lose, double, reorder or delay what it carries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

DEADLINE_S = 10.0


@dataclass(slots=True)
class Delivery:
    """One message as Alertmanager posted it."""

    path: str
    body: bytes
    headers: dict[str, str]


Carrier = Callable[["Relay", Delivery], Awaitable[int]]


@dataclass(slots=True)
class Relay:
    """Listens on a port of its own; `carry` says what becomes of a delivery and what Alertmanager is told."""

    responder: str
    carry: Carrier
    deliveries: list[Delivery] = field(default_factory=list)
    address: str = ""
    _later: set[asyncio.Task[None]] = field(default_factory=set)
    _session: aiohttp.ClientSession | None = None
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S))
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/{path:.*}", self._taken)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        """Nothing is carried any more."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def send(self, delivery: Delivery) -> int:
        """Deliver; 502 when the responder does not answer."""
        assert self._session is not None
        url = f"http://{self.responder}{delivery.path}"
        try:
            async with self._session.post(url, data=delivery.body, headers=delivery.headers) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 502

    def send_later(self, delivery: Delivery, seconds: float) -> None:
        """Deliver after a while; who sent it has been told otherwise by then."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            await self.send(delivery)

        task = asyncio.create_task(wait())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _taken(self, request: web.Request) -> web.Response:
        kept = {k: v for k, v in request.headers.items() if k in {"Authorization", "Content-Type"}}
        delivery = Delivery(path=request.path_qs, body=await request.read(), headers=kept)
        self.deliveries.append(delivery)
        return web.Response(status=await self.carry(self, delivery))


async def faithful(relay: Relay, delivery: Delivery) -> int:
    """Once, at once."""
    return await relay.send(delivery)


async def lost(_relay: Relay, _delivery: Delivery) -> int:
    """Never, and Alertmanager believes that it arrived."""
    return 200


async def doubled(relay: Relay, delivery: Delivery) -> int:
    """Three times."""
    await relay.send(delivery)
    await relay.send(delivery)
    return await relay.send(delivery)


async def late(relay: Relay, delivery: Delivery) -> int:
    """Six seconds after Alertmanager was told that all is well."""
    relay.send_later(delivery, 6.0)
    return 200


def reordered() -> Carrier:
    """Every second one after the one behind it, each of them twice in the end: news first, then the old again."""
    held: list[Delivery] = []

    async def carry(relay: Relay, delivery: Delivery) -> int:
        held.append(delivery)
        if len(held) < 2:
            relay.send_later(delivery, 3.0)
            return 200
        newer, older = held.pop(), held.pop()
        await relay.send(newer)
        relay.send_later(older, 0.5)
        return 200

    return carry
