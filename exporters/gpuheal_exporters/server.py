"""HTTP of the exporter: /metrics, /events, /v1/acknowledge and /healthz on prometheus_client's own WSGI server."""

from __future__ import annotations

import hmac
import json
import math
import socket
import socketserver
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from gpuheal_exporters.connections import REQUEST_SECONDS, Connections
from gpuheal_exporters.metrics.exposition import CONTENT_TYPE, render
from gpuheal_exporters.node.state import NodeExporterState

MAX_BODY = 16 * 1024
MAX_AHEAD_SECONDS = 3600.0  # an `until` further ahead is a mistake, mostly milliseconds
_STATUS = {
    200: "200 OK",
    400: "400 Bad Request",
    401: "401 Unauthorized",
    403: "403 Forbidden",
    404: "404 Not Found",
    405: "405 Method Not Allowed",
    413: "413 Content Too Large",
    503: "503 Service Unavailable",
}

StartResponse = Callable[[str, list[tuple[str, str]]], object]
Environ = Mapping[str, Any]


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, problem: str) -> None:
        self.status = status
        super().__init__(problem)


class App:
    """The WSGI application of one node.

    With a token file /v1/acknowledge and /events need `Authorization: Bearer TOKEN`; the file is read for every
    request, so a rotated token holds at once. Without one /events is open and nothing can be acknowledged.
    """

    def __init__(
        self,
        *,
        state: NodeExporterState,
        collector: Collector,
        token_file: Path | None = None,
        persist: Callable[[], bool] = lambda: True,
        healthy: Callable[[], bool] = lambda: True,
        outcomes: dict[str, int] | None = None,
    ) -> None:
        self._collector = collector
        self._state = state
        self._token_file = token_file
        self._persist = persist
        self._healthy = healthy
        self.outcomes = {} if outcomes is None else outcomes

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        route = (environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""))
        try:
            if route == ("GET", "/metrics"):
                return self._metrics(start_response)
            status, document = self._route(route, environ)
        except Refused as refused:
            status, document = refused.status, {"error": str(refused)}
        body = json.dumps(document).encode() + b"\n"
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        if status == 401:
            headers.append(("WWW-Authenticate", "Bearer"))
        start_response(_STATUS[status], headers)
        return [body]

    def _metrics(self, start_response: StartResponse) -> Iterable[bytes]:
        body = render(self._collector)
        start_response(_STATUS[200], [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body)))])
        return [body]

    def _route(self, route: tuple[str, str], environ: Environ) -> tuple[int, dict[str, Any]]:
        methods = {"/metrics": "GET", "/healthz": "GET", "/events": "GET", "/v1/acknowledge": "POST"}
        method, path = route
        if path not in methods:
            raise Refused(404, "not found; available: /metrics, /events, /v1/acknowledge and /healthz")
        if method != methods[path]:
            raise Refused(405, f"use {methods[path]}")
        if path == "/healthz":
            healthy = self._healthy()
            return (200 if healthy else 503), {"healthy": healthy}
        if path == "/events":
            if self._token_file is not None:
                self._authenticate(environ)
            with self._state.lock:
                return 200, {"boot_id": self._state.boot_id, "events": self._state.events.dump()}
        return self._acknowledge(environ)

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def _authenticate(self, environ: Environ) -> None:
        if self._token_file is None:
            raise Refused(403, "acknowledgement is disabled: the exporter was started without --token-file")
        try:
            token = self._token_file.read_bytes().strip()
        except OSError as error:
            raise Refused(503, f"the token file cannot be read: {error.strerror}") from None
        scheme, _, given = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        if (
            not token
            or scheme.lower() != "bearer"
            or not hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
        ):
            raise Refused(401, "a valid bearer token is required")

    def _acknowledge(self, environ: Environ) -> tuple[int, dict[str, Any]]:
        try:
            self._authenticate(environ)
        except Refused:
            self._count("unauthorized")
            raise
        try:
            wanted = parse_acknowledgement(_body(environ), self._state.clock())
        except Refused:
            self._count("invalid")
            raise
        cleared = self._state.acknowledge(**wanted)
        self._count("accepted")
        return 200, {"cleared": cleared, "persisted": self._persist()}


def _body(environ: Environ) -> bytes:
    text = environ.get("CONTENT_LENGTH") or ""
    if not text.isdigit():
        raise Refused(400, "a Content-Length header is required")
    length = int(text)
    if length > MAX_BODY:
        raise Refused(413, f"request body larger than {MAX_BODY} bytes")
    try:
        body: bytes = environ["wsgi.input"].read(length)
    except OSError:
        raise Refused(400, "timed out reading the request body") from None
    return body


def _code(document: Mapping[str, Any], key: str) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Refused(400, f"{key}: not a code")
    return value


def parse_acknowledgement(body: bytes, now: float) -> dict[str, Any]:
    """Return the arguments of `NodeExporterState.acknowledge` in a request body; Refused with what is wrong."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the request body is not JSON") from None
    if not isinstance(document, dict):
        raise Refused(400, "the request body is not a JSON object")
    unknown = sorted(set(document) - {"gpu_uuid", "xid", "sxid", "until"})
    if unknown:
        raise Refused(400, f"unknown keys: {', '.join(unknown)[:200]}")
    until = document.get("until")
    if isinstance(until, bool) or not isinstance(until, int | float) or not math.isfinite(until) or until < 0:
        raise Refused(400, "until: expected Unix seconds")
    if until > now + MAX_AHEAD_SECONDS:
        raise Refused(400, "until: more than 1h in the future (expected Unix seconds, not milliseconds)")
    uuid = document.get("gpu_uuid")
    if uuid is not None and (not isinstance(uuid, str) or not uuid or len(uuid) > 80):
        raise Refused(400, "gpu_uuid: not a UUID")
    xid, sxid = _code(document, "xid"), _code(document, "sxid")
    if sxid is not None and (xid is not None or uuid is not None):
        raise Refused(400, "sxid: belongs to a switch and cannot be combined with other fields")
    return {"until": float(until), "gpu_uuid": uuid, "xid": xid, "sxid": sxid}


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS  # a peer that says nothing for so long is cut off

    def parse_request(self) -> bool:
        """Read the request's head; the connection is safe from being cut off for another from here on."""
        parsed: bool = super().parse_request()
        assert isinstance(self.server, _Server)
        self.server.connections.answering(self.connection)
        return parsed

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of the overridden method
        """Write no access log: scrapes come every few seconds."""


class _Server(ThreadingWSGIServer):
    """A thread for each connection, within the bounds of `Connections`."""

    request_queue_size = 64

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.connections = Connections()
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Bind without the reverse look-up of the base class, which can take seconds where DNS is slow."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the connection to a thread, or close it at once if there is no room."""
        if not self.connections.admit(request, str(client_address[0]), time.monotonic()):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self.connections.release(request)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release(request)

    def service_actions(self) -> None:
        """Cut off who is over time; called at least twice a second."""
        self.connections.expire(time.monotonic())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a peer that went away: it is no event of ours."""


def serve(app: App, host: str, port: int) -> WSGIServer:
    """Return a bound server that `serve_forever` runs; port 0 picks a free one. OSError if the address is taken."""
    kind = type("_Server", (_Server,), {"address_family": socket.AF_INET6}) if ":" in host else _Server
    return make_server(host, port, app, kind, _Handler)
