"""One HTTP server we ask: authentication, TLS, deadline and size limit in one place."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64encode
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from gpuheal_responder.config.settings import ClientTls, Endpoint
from gpuheal_responder.errors import ConfigError, ObserveError
from gpuheal_responder.shell.process.reload import Watched, read_secret

LARGEST_BODY = 64 * 1024 * 1024
BIG_BODY = 256 * 1024
"""json.loads takes about 10 ms per MiB: bigger ones are read in a thread, one after the other, for it holds the
interpreter all that time and what it makes keeps the garbage collector busy."""
MOST_ADDRESSES = 32

UNUSABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading an answer raises when it has not the shape that was expected."""
KEPT_S = 75.0
"""How long an idle connection is kept: longer than the longest time between two looks, so that it stays the same."""

T = TypeVar("T")


class Client:
    """Asks one server; every failure is an ObserveError that names `source`."""

    def __init__(
        self, endpoint: Endpoint, *, source: str, on_problem: Callable[[ConfigError], None], connections: int = 100
    ) -> None:
        """Read the files the endpoint names; ConfigError when one can't be used. Connects on the first request."""
        self._endpoint = endpoint
        self._connections = connections
        self._source = source
        self._timeout = endpoint.timeout.total_seconds()
        self._session: aiohttp.ClientSession | None = None
        self._one_at_a_time = asyncio.Lock()
        url = urlsplit(endpoint.url)
        self.host = url.hostname or ""
        self.port = url.port or (443 if url.scheme == "https" else 80)
        self._scheme, self._netloc, self._prefix = url.scheme, url.netloc, url.path.rstrip("/")
        self._headers = _authorization(endpoint, on_problem)
        self._tls = _tls(endpoint.tls, on_problem) if url.scheme == "https" else None

    async def addresses(self) -> Sequence[str]:
        """Return every address that the host name resolves to, sorted."""
        try:
            async with asyncio.timeout(self._timeout):
                found = await asyncio.get_running_loop().getaddrinfo(self.host, self.port, proto=6)
        except (OSError, TimeoutError) as problem:
            raise ObserveError(self._source, f"{self.host} cannot be resolved: {_said(problem)}") from None
        return sorted({str(sockaddr[0]) for *_, sockaddr in found})[:MOST_ADDRESSES]

    async def get(
        self, path: str, read: Callable[[bytes], T], query: Sequence[tuple[str, str]] = (), at: str = ""
    ) -> T:
        """Return what `read` makes of the body of a 200; `at` is one address of the host, when it has several.

        `read` runs in a thread for big bodies; what of UNUSABLE it raises means an answer we can't use.
        """
        found, _ = await self._ask("GET", path, read, at=at, params=query)
        return found

    async def get_dated(self, path: str, read: Callable[[bytes], T], at: str = "") -> tuple[T, datetime | None]:
        """Return as `get`, and the server's clock by the header Date (whole seconds), or None if it sent none."""
        return await self._ask("GET", path, read, at=at)

    async def post(self, path: str, read: Callable[[bytes], T], form: Mapping[str, str]) -> T:
        """Return what `read` makes of the body of a 200 to a form."""
        found, _ = await self._ask("POST", path, read, at="", data=form)
        return found

    async def close(self) -> None:
        """All connections are closed. Repeatable."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T],
        *,
        at: str,
        params: Sequence[tuple[str, str]] = (),
        data: Mapping[str, str] | None = None,
    ) -> tuple[T, datetime | None]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=KEPT_S),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        host = f"[{at}]:{self.port}" if ":" in at else f"{at}:{self.port}"
        headers = dict(self._headers())
        headers["Host"] = self._netloc
        headers["Accept-Encoding"] = "identity"  # what inflates would do so in the event loop, and without a bound
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.request(
                    method,
                    f"{self._scheme}://{host if at else self._netloc}{self._prefix}{path}",
                    params=list(params),
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    ssl=self._tls.current() if self._tls else True,
                    server_hostname=(self._endpoint.tls.server_name or self.host) if self._tls else None,
                ) as answer,
            ):
                body = await self._body(answer)
                if answer.status != 200:
                    raise ObserveError(self._source, f"HTTP {answer.status}: {_excerpt(body)}")
                if "Content-Encoding" in answer.headers:
                    raise ValueError("response is compressed although an uncompressed one was requested")
                date = _date(answer.headers.get("Date", ""))
                if len(body) <= BIG_BODY:
                    return read(body), date
                async with self._one_at_a_time:
                    return await asyncio.to_thread(read, body), date
        except TimeoutError:
            raise ObserveError(self._source, f"no response within {self._timeout:g}s") from None
        except (aiohttp.ClientError, OSError) as problem:
            raise ObserveError(self._source, _said(problem)) from None
        except UNUSABLE as problem:
            raise ObserveError(self._source, f"invalid response to {path}: {_said(problem)}") from None

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        chunks, size = [], 0
        async for chunk in answer.content.iter_chunked(256 * 1024):
            size += len(chunk)
            if size > LARGEST_BODY:
                raise ObserveError(self._source, f"response larger than {LARGEST_BODY} bytes")
            chunks.append(chunk)
        return b"".join(chunks)


def _authorization(endpoint: Endpoint, on_problem: Callable[[ConfigError], None]) -> Callable[[], Mapping[str, str]]:
    if endpoint.bearer_token_file is not None:
        file = endpoint.bearer_token_file
        token = Watched((file,), lambda: read_secret(file), on_problem)
        return lambda: {"Authorization": f"Bearer {token.current()}"}
    if endpoint.basic_auth is not None:
        user, secret = endpoint.basic_auth.username, endpoint.basic_auth.password_file
        password = Watched((secret,), lambda: read_secret(secret), on_problem)
        return lambda: {"Authorization": f"Basic {b64encode(f'{user}:{password.current()}'.encode()).decode()}"}
    return dict


def _tls(tls: ClientTls, on_problem: Callable[[ConfigError], None]) -> Watched[ssl.SSLContext]:
    files = [f for f in (tls.ca_file, tls.cert_file, tls.key_file) if f is not None]

    def make() -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=tls.ca_file)
            if tls.cert_file is not None:
                context.load_cert_chain(tls.cert_file, tls.key_file)
        except (OSError, ssl.SSLError) as problem:
            raise ConfigError(" ".join(map(str, files)), "", f"cannot load certificates: {problem}") from None
        return context

    return Watched(files, make, on_problem)


async def together(*asked: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return all results in order; the first ObserveError ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in asked]
    except ExceptionGroup as failed:
        raise next((e for e in failed.exceptions if not isinstance(e, ObserveError)), failed.exceptions[0]) from None
    return [task.result() for task in tasks]


def decoded(body: bytes) -> object:
    """Return the JSON document of a body; ValueError when it is none."""
    document: object = json.loads(body)
    return document


def _date(header: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(header)
    except (ValueError, IndexError, OverflowError):
        return None
    return found if found.tzinfo is not None else None


def _excerpt(body: bytes) -> str:
    return " ".join(body[:300].decode(errors="replace").split())


def _said(problem: BaseException) -> str:
    text = str(problem)
    return f"{type(problem).__name__}: {text[:300]}" if text else type(problem).__name__
