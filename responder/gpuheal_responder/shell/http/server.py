"""Listening: the socket, TLS with certificates that may be renewed while we run, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gpuheal_responder.config.settings import Listen, ServerTls
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.http.people import CaseApi
from gpuheal_responder.shell.http.webhook import Web
from gpuheal_responder.shell.process.reload import Watched
from gpuheal_responder.shell.process.supervisor import Supervisor, end

LARGEST_REQUEST = 64 * 1024  # of people; the webhook reads its own, larger bodies by itself
LOOK_AT_CERTIFICATES_S = 30.0
SHUTDOWN_S = 5.0
ASK_DEADLINE_S = 30.0
IDLE_S = 120.0


def application(web_routes: Web, case_routes: CaseApi) -> web.Application:
    """Return the application with all routes."""
    app = web.Application(client_max_size=LARGEST_REQUEST)
    web_routes.add_to(app)
    case_routes.add_to(app)
    return app


def tls_context(tls: ServerTls) -> ssl.SSLContext:
    """Return the context of our certificate; client certificates are verified if shown. ConfigError if unusable."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
        if tls.client_ca_file is not None:
            context.load_verify_locations(cafile=tls.client_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL  # health probes of the kubelet show none
    except (OSError, ssl.SSLError) as problem:
        raise ConfigError(str(tls.cert_file), "", f"no usable certificate: {problem}") from None
    return context


@contextlib.asynccontextmanager
async def listening(
    app: web.Application,
    listen: Listen,
    on_problem: Callable[[ConfigError], None],
    supervisor: Supervisor | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """The application is served while the context lasts; gives the address it listens on.

    `supervisor` watches the task that renews certificates. ConfigError if the address or the certificate can't be used.
    """
    context = tls_context(listen.tls) if listen.tls is not None else None
    silent: set[RequestHandler] = set()

    async def hear(request: web.Request, _response: web.StreamResponse) -> None:
        silent.discard(request.protocol)

    app.on_response_prepare.append(hear)
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S, keepalive_timeout=IDLE_S
    )
    await runner.setup()
    renewing = site = None
    try:
        try:
            site = await asyncio.get_running_loop().create_server(
                _impatient(runner, silent), listen.host, listen.port, ssl=context, backlog=512
            )
        except OSError as problem:
            raise ConfigError(
                "settings", "listen", f"cannot listen on {listen.host}:{listen.port}: {problem}"
            ) from None
        if listen.tls is not None and context is not None:
            renewing = asyncio.create_task(_renew(context, listen.tls, on_problem), name="certificates")
            if supervisor is not None:
                supervisor.watch((renewing,))
        host, port = site.sockets[0].getsockname()[:2]
        yield host, port
    finally:
        if site is not None:
            site.close()
        if renewing is not None:
            await end(renewing)
        await runner.cleanup()


def _impatient(runner: web.AppRunner, silent: set[RequestHandler]) -> Callable[[], asyncio.Protocol]:
    """Make aiohttp's protocols, but end connections that got no answer in time because they asked nothing.

    aiohttp waits for it for ever, so strangers could hold every file descriptor we may have.
    """
    server = runner.server
    assert server is not None

    def end_if_silent(protocol: RequestHandler) -> None:
        if protocol in silent:
            silent.remove(protocol)
            if protocol.transport is not None:
                protocol.transport.abort()

    def make() -> asyncio.Protocol:
        protocol = server()
        silent.add(protocol)
        asyncio.get_running_loop().call_later(ASK_DEADLINE_S, end_if_silent, protocol)
        return protocol

    return make


async def _renew(live: ssl.SSLContext, tls: ServerTls, on_problem: Callable[[ConfigError], None]) -> None:
    """Load a renewed certificate into the live context, after a fresh one has shown that it is usable."""
    watched = Watched((tls.cert_file, tls.key_file), lambda: tls_context(tls), on_problem)
    known = watched.current()
    while True:
        await asyncio.sleep(LOOK_AT_CERTIFICATES_S)
        fresh = watched.current()
        if fresh is not known:
            try:
                live.load_cert_chain(tls.cert_file, tls.key_file)
            except (OSError, ssl.SSLError) as problem:  # replaced again meanwhile: the next look finds the new one
                on_problem(ConfigError(str(tls.cert_file), "", str(problem)))
            else:
                known = fresh
