"""A small proxy before the API server that can refuse, cut and swallow requests."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from gpuheal_lab.controlplane.plane import ControlPlane

Matcher = Callable[[web.Request], bool]


@dataclass
class Fault:
    """What to do with the next `times` requests that match; a status of 0 cuts the connection unanswered."""

    matches: Matcher
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    """Let the API server do it first, then lose the answer."""


class Proxy:
    """Plain HTTP on loopback; `faults` are tried in order, then the request is passed on."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self.down = False
        self.mute = False
        """Watches stay open but nothing passes through them."""
        self._streams: set[asyncio.Task[object]] = set()
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(self._plane.ca_file)), limit=0)
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Cut everything and end."""
        self.cut()
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.sleep(0.25)  # requests that were broken off before their answer: the TLS goodbye takes a moment

    def cut(self) -> None:
        """Every request under way, watches too, is broken off."""
        for task in list(self._streams):
            task.cancel()

    def fail(self, matches: Matcher, status: int, times: int = 1, *, after: bool = False, **headers: str) -> Fault:
        """Answer so the next matching requests."""
        fault = Fault(matches, status, times, {k.replace("_", "-"): v for k, v in headers.items()}, after)
        self.faults.append(fault)
        return fault

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path_qs))
        if self.down:
            return self._broken(request)
        fault = next((f for f in self.faults if f.times > 0 and f.matches(request)), None)
        if fault is not None:
            fault.times -= 1
            if fault.after:
                await self._pass_on(request, quiet=True)
            if fault.status == 0:
                return self._broken(request)
            return web.json_response(
                {"kind": "Status", "status": "Failure", "message": "injected", "code": fault.status},
                status=fault.status,
                headers=fault.headers,
            )
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            return await self._pass_on(request)
        except aiohttp.ClientError:
            return self._broken(request)
        except asyncio.CancelledError:
            self._broken(request)
            raise
        finally:
            self._streams.discard(task)

    @staticmethod
    def _broken(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    async def _pass_on(self, request: web.Request, *, quiet: bool = False) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k in {"Authorization", "Content-Type", "Accept"}}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.request(
            request.method,
            self._plane.url + request.raw_path,
            data=await request.read(),
            headers=headers,
            timeout=timeout,
        ) as answer:
            try:
                return await self._relay(request, answer, quiet=quiet)
            finally:
                # A TLS goodbye that nobody waits for would outlive the test.
                if answer.connection is not None and answer.connection.transport is not None:
                    answer.connection.transport.abort()

    async def _relay(self, request: web.Request, answer: aiohttp.ClientResponse, *, quiet: bool) -> web.StreamResponse:
        if quiet:
            await answer.read()
            return web.Response()
        kept = {k: v for k, v in answer.headers.items() if k in {"Content-Type", "Retry-After"}}
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            async for chunk in answer.content.iter_any():
                if not (self.mute and "watch=1" in request.path_qs):
                    await response.write(chunk)
            await response.write_eof()
        return response


def is_watch(request: web.Request) -> bool:
    """Whether the request opens a watch."""
    return "watch=1" in request.path_qs


def is_list(request: web.Request) -> bool:
    """Whether the request is a page of a LIST."""
    return request.method == "GET" and "limit=" in request.path_qs


def is_write(request: web.Request) -> bool:
    """Whether the request changes something."""
    return request.method in {"POST", "PUT", "PATCH", "DELETE"}
