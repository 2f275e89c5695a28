"""A scripted HTTP server for the shell's clients to ask."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.responder.shell.scripted import MakeScript, Script


@pytest.fixture
async def make_script() -> AsyncIterator[MakeScript]:
    """`await make_script()` gives a scripted server that listens on loopback until the test ends."""
    servers: list[tuple[TestServer, Script]] = []

    async def make() -> Script:
        script = Script()
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", script.answer)
        server = TestServer(app)
        await server.start_server()
        script.url = str(server.make_url("")).rstrip("/")
        servers.append((server, script))
        return script

    yield make
    for server, script in servers:
        script.released.set()
        await server.close()
