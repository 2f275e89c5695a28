"""Listening: the routes, TLS with certificates and authorities that may be renewed while we run, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from gpuheal_responder.config.settings import Listen, ServerTls
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.http.door import Door
from gpuheal_responder.shell.http.people import CaseApi
from gpuheal_responder.shell.http.webhook import Web
from gpuheal_responder.shell.process.reload import Watched
from gpuheal_responder.shell.process.supervisor import Supervisor, end

LARGEST_REQUEST = 64 * 1024  # of people; the webhook reads its own, larger bodies by itself
LOOK_AT_CERTIFICATES_S = 30.0
SHUTDOWN_S = 5.0


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
        raise ConfigError(str(tls.cert_file), "", f"cannot load the certificate: {problem}") from None
    return context


@contextlib.asynccontextmanager
async def listening(
    app: web.Application,
    listen: Listen,
    on_problem: Callable[[ConfigError], None],
    supervisor: Supervisor | None = None,
    ended: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[tuple[str, int]]:
    """Serve the application while the context lasts; give the address it listens on.

    `supervisor` watches the tasks that accept connections and renew certificates. ConfigError if the address or the
    certificate can't be used. `ended` is told why a connection was ended that had asked nothing.
    """
    context = _watched(listen.tls, on_problem) if listen.tls is not None else None
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
    door = Door(runner, context.current() if context is not None else None, ended)

    app.on_response_prepare.append(door.heard)
    await runner.setup()
    tasks: list[asyncio.Task[None]] = []
    try:
        try:
            host, port = await door.open(listen.host, listen.port)
        except OSError as problem:
            raise ConfigError(
                "settings", "listen", f"cannot listen on {listen.host}:{listen.port}: {problem}"
            ) from None
        tasks += door.listen()
        if context is not None:
            tasks.append(asyncio.create_task(_renew(door, context), name="certificates"))
        if supervisor is not None:
            supervisor.watch(tasks)
        yield host, port
    finally:
        for task in tasks:
            await end(task)
        door.close()
        await runner.cleanup()


def _watched(tls: ServerTls, on_problem: Callable[[ConfigError], None]) -> Watched[ssl.SSLContext]:
    files = [file for file in (tls.cert_file, tls.key_file, tls.client_ca_file) if file is not None]
    return Watched(files, lambda: tls_context(tls), on_problem)


async def _renew(door: Door, context: Watched[ssl.SSLContext]) -> None:
    """Show a renewed certificate, and believe only a renewed authority, as soon as a whole context can be made of them.

    A context is never mended in place: OpenSSL adds authorities to one and takes none away, and it resumes sessions.
    """
    while True:
        await asyncio.sleep(LOOK_AT_CERTIFICATES_S)
        fresh = context.current()
        if fresh is not door.context:
            door.renew(fresh)
