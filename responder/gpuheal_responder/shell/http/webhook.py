"""The HTTP server: the webhook, health, metrics. A request does nothing but authenticate, parse, wake and answer.

Answers to Alertmanager (its notify/util.go retries 5xx within seconds; any 4xx ends the flush and the same body comes
again at every group interval, blocking the alerts that share its group):
200 understood, or Alertmanager's but of no use (counted as a dead letter; the next look at the API sees the alerts all
the same) · 400 not Alertmanager's JSON · 401 no valid token or certificate · 503 starting, overloaded, or the body came
too slowly. Never 429.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from gpuheal_responder.core.payload import check
from gpuheal_responder.core.reason import DeadLetterReason
from gpuheal_responder.errors import ObserveError, PayloadError
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.credentials import bearer, certificate_names, refused
from gpuheal_responder.shell.kube.review import SCRAPE, Denial
from gpuheal_responder.shell.process.reload import Tokens
from gpuheal_responder.shell.telemetry import CONTENT_TYPE, Telemetry

LARGEST_BODY = 4 * 1024 * 1024
LARGEST_DRAINED = 16 * 1024 * 1024
MOST_UNDER_WAY = 256
MOST_BYTES_UNDER_WAY = 32 * 1024 * 1024
BODY_DEADLINE_S = 10.0
MOST_SIGNS = 64_000
"""Commas and opening brackets of one body: json.loads holds the interpreter, and this many take it less than 50 ms."""
BIG_BODY = 64 * 1024


class Unusable(Exception):
    """A message of Alertmanager's that can't be used, and why."""

    def __init__(self, reason: DeadLetterReason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What the web layer needs of the rest of the application."""

    wake: Callable[[], None]
    """Called for every delivery of Alertmanager's; must not block."""

    refusing: Callable[[], str]
    """Why deliveries can't be taken now (`starting`, `overloaded`), or an empty text."""

    unready: Callable[[], str]
    """Why this replica is not ready, or an empty text."""

    telemetry: Telemetry
    """Where deliveries are counted."""

    admission: Admission
    """Who may read metrics with a Kubernetes token."""

    webhook_tokens: Tokens | None = None
    """Tokens of the webhook's sender."""

    metrics_tokens: Tokens | None = None
    """Tokens of /metrics; None = Kubernetes tokens."""

    client_names: frozenset[str] = frozenset()
    """Names of client certificates that may post to the webhook."""


class Web:
    """The routes that machines use."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._under_way = 0
        self._bytes = 0
        self._one_at_a_time = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application."""
        app.router.add_post("/webhook", self._webhook)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reason = self._intake.unready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        tokens = self._intake.metrics_tokens
        if tokens is not None:
            denial = None if tokens.admit(bearer(request)) else Denial(status=401, message="unknown token")
        else:
            try:
                found = await self._intake.admission.admit(request, SCRAPE)
            except ObserveError as problem:
                return web.Response(text=f"{problem}\n", status=503, headers={"Retry-After": "1"})
            denial = found if isinstance(found, Denial) else None
        if denial is not None:
            return refused(denial)
        text = await asyncio.to_thread(self._intake.telemetry.text)  # thousands of cases may stand in it
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _webhook(self, request: web.Request) -> web.Response:
        began = asyncio.get_running_loop().time()
        answer = await self._answer(request)
        if answer.status not in {200, 400}:
            answer.force_close()  # a kept connection would tie Alertmanager to a replica that can't serve it
        self._intake.telemetry.delivered(answer.status, asyncio.get_running_loop().time() - began)
        return answer

    async def _answer(self, request: web.Request) -> web.Response:
        if not self._authentic(request):
            return refused(Denial(status=401, message="no valid token or client certificate"))
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return web.Response(text="compressed request bodies are not accepted\n", status=400)
        expected = min(request.content_length or LARGEST_BODY, LARGEST_BODY)
        refusing = self._intake.refusing() or self._full(expected)
        if refusing:
            return web.Response(text=f"{refusing}\n", status=503)
        self._under_way += 1
        self._bytes += expected
        try:
            return await self._take(request)
        finally:
            self._under_way -= 1
            self._bytes -= expected

    async def _take(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_DEADLINE_S):
                body = await _read(request)
            if len(body) > BIG_BODY:
                async with (
                    self._one_at_a_time
                ):  # each holds the interpreter for a while; several would hold it in a row
                    await asyncio.to_thread(understand, body)
            else:
                understand(body)
        except TimeoutError:
            return web.Response(text=f"the request body took longer than {BODY_DEADLINE_S:g}s\n", status=503)
        except PayloadError as problem:
            return web.Response(text=f"{problem}\n", status=400)
        except Unusable as problem:
            self._intake.telemetry.dead_letter(problem.reason, str(problem))
            self._intake.wake()
            return web.Response(text=f"rejected: {problem}\n")
        self._intake.wake()
        return web.Response(text="ok\n")

    def _authentic(self, request: web.Request) -> bool:
        names = self._intake.client_names
        if names and not names.isdisjoint(certificate_names(request)):
            return True
        tokens = self._intake.webhook_tokens
        return tokens is not None and tokens.admit(bearer(request))

    def _full(self, expected: int) -> str:
        full = self._under_way >= MOST_UNDER_WAY or self._bytes + expected > MOST_BYTES_UNDER_WAY
        return "overloaded" if full else ""


def understand(body: bytes) -> None:
    """Return if the body is Alertmanager's; PayloadError if it is not, Unusable if it is but is of no use."""
    if sum(body.count(sign) for sign in (b",", b"{", b"[")) > MOST_SIGNS:
        raise Unusable(DeadLetterReason.DELIVERY_TOO_COMPLEX, f"more than {MOST_SIGNS} values in one message")
    try:
        check(body)
    except PayloadError as problem:
        if _alertmanagers(body):
            raise Unusable(DeadLetterReason.DELIVERY_UNUSABLE, str(problem)) from None
        raise


def _alertmanagers(body: bytes) -> bool:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and raw.get("version") == "4" and isinstance(raw.get("alerts"), list)


async def _read(request: web.Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size <= LARGEST_BODY:
            chunks.append(chunk)
        elif size > LARGEST_DRAINED:
            break
    if size > LARGEST_BODY:
        raise Unusable(DeadLetterReason.DELIVERY_TOO_LARGE, f"message larger than {LARGEST_BODY} bytes")
    return b"".join(chunks)
