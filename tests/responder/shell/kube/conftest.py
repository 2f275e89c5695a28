"""A scripted API server on loopback: it keeps what it was asked and answers as told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from gpuheal_responder.shell.kube.api import Api

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    content_type: str
    accept: str
    body: Any


class Told:
    """Answers with `replies` in order, the last one again and again; `asked` is what came."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.replies: list[tuple[int, Json]] = [(200, {})]
        self.leases: dict[str, Json] | None = None
        """A store of Leases with compare-and-swap, used for every path when it is set."""
        self._version = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        body = await request.json() if request.can_read_body else None
        headers = request.headers
        self.asked.append(
            Asked(request.method, request.path, headers.get("Content-Type", ""), headers.get("Accept", ""), body)
        )
        if self.leases is not None:
            return self._lease(request.method, request.path.rpartition("/")[2], body, self.leases)
        status, reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return web.json_response(reply, status=status)

    def _lease(self, method: str, name: str, body: Any, kept: dict[str, Json]) -> web.Response:
        if method == "POST":
            name = body["metadata"]["name"]
        known = kept.get(name)
        if method == "POST" and known is not None:
            return web.json_response({"reason": "AlreadyExists", "message": "exists"}, status=409)
        if method != "POST" and known is None:
            return web.json_response({"reason": "NotFound", "message": "not found"}, status=404)
        if known is not None and method != "GET":
            wanted = body["metadata"]["resourceVersion"]
            if wanted != known["metadata"]["resourceVersion"]:
                return web.json_response({"reason": "Conflict", "message": "modified"}, status=409)
        if method != "GET":
            self._version += 1
            kept[name] = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}
        return web.json_response(kept[name])


@pytest.fixture
def told() -> Told:
    """What the server was asked and will answer."""
    return Told()


@pytest.fixture
async def told_api(told: Told) -> AsyncIterator[Api]:
    """A connection to the scripted server."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", told.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api = Api(ApiClient(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")))
    yield api
    await api.close()
    await runner.cleanup()
