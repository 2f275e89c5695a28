"""Talking to the API server: configuration and transport of the `kubernetes` package, JSON as it comes, one error type.

Its models are never decoded (ten times slower, and they block the loop). Every call has a deadline over the whole
exchange. `reading` and `changing` turn `ApiError` into the project's own error tree.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from gpuheal_responder.core.reason import Reason
from gpuheal_responder.errors import ConfigError, ObserveError, Permanent, Transient

JSON = "application/json"
NO_CLUSTER = "give --kubeconfig, set $KUBECONFIG, or run in a pod"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
"""Asks for the object's metadata only: https://kubernetes.io/docs/reference/using-api/api-concepts/"""

DEADLINE = timedelta(seconds=10)
GOODBYE_S = 0.25
"""What aiohttp advises to wait: https://docs.aiohttp.org/en/stable/client_advanced.html#graceful-shutdown"""
USER_AGENT = "gpuheal"
NOT_LEADER = "NotLeader"
"""Reason of a request that was never sent, because it would change something and we do not lead."""
MAX_LINE_BYTES = 8 * 1024 * 1024
"""A watch event larger than this is not Kubernetes' (etcd's objects end at 1.5 MiB)."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause of a Status: its reason and the server's words."""

    reason: str
    message: str


class ApiError(Exception):
    """The API server said no, or nothing; `status` is 0 when it did not answer."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        causes: Sequence[Cause] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = tuple(causes)
        self.retry_after = retry_after
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")

    def cause(self, reason: str) -> Cause | None:
        """Return the first cause with this reason, or None."""
        return next((c for c in self.causes if c.reason == reason), None)


class Api:
    """One connection pool to one API server; close it with `close`.

    `deadline` is that of every call which names none.
    """

    def __init__(self, client: ApiClient, deadline: timedelta = DEADLINE) -> None:
        self._client = client
        self._deadline = deadline
        self._lingering = False
        self._may_write: Callable[[], bool] | None = None
        client.user_agent = USER_AGENT

    def fenced(self, may_write: Callable[[], bool]) -> Api:
        """Return the same connection for one who may change something only while `may_write` says so.

        What a person asks for with a token of their own is not held back. Close the first one only.
        """
        found = Api(self._client, self._deadline)
        found._may_write = may_write
        return found

    async def close(self) -> None:
        """Close all connections; repeatable."""
        await self._client.close()
        if self._lingering:  # a request was broken off: let its connection's TLS goodbye end
            self._lingering = False
            await asyncio.sleep(GOODBYE_S)

    async def get(
        self, path: str, query: Mapping[str, object] | None = None, *, deadline: timedelta | None = None
    ) -> Any:
        """Return the JSON at `path`; ApiError otherwise."""
        return await self.call("GET", path, query=query, deadline=deadline)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        query: Mapping[str, object] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        deadline: timedelta | None = None,
        token: str = "",
    ) -> Any:
        """Return the JSON that the server answers with a 2xx status; ApiError otherwise.

        `token` is shown instead of our own credentials: what a person asks us for is done as that person.
        """
        if method != "GET" and not token and self._may_write is not None and not self._may_write():
            raise ApiError(
                0, NOT_LEADER, f"{method} {path}: not sent, because another replica may be the leader by now"
            )
        limit = aiohttp.ClientTimeout(total=(deadline or self._deadline).total_seconds())
        async with self._exchange(method, path, query, body, content_type, accept, limit, token) as response:
            text = await response.read()
            return json.loads(text) if text else None

    async def lines(self, path: str, *, silence: timedelta, query: Mapping[str, object]) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a streamed answer; ApiError when it breaks or is silent for longer than `silence`.

        The first item is an empty line, as soon as the server has answered at all.
        """
        limit = aiohttp.ClientTimeout(
            total=None, sock_connect=self._deadline.total_seconds(), sock_read=silence.total_seconds()
        )
        async with self._exchange("GET", path, query, None, JSON, JSON, limit) as response:
            yield b""
            rest = b""
            async for chunk in response.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line
                if len(rest) > MAX_LINE_BYTES:
                    raise ApiError(0, "LineTooLong", f"{path}: a line of more than {MAX_LINE_BYTES} bytes")

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        body: Mapping[str, Any] | Sequence[Any] | None,
        content_type: str,
        accept: str,
        limit: aiohttp.ClientTimeout,
        token: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        given = {key: value for key, value in (query or {}).items() if value not in (None, "")}
        headers = {"Accept": accept, "Content-Type": content_type}
        ended = False
        try:
            _, url, headers, _, _ = await self._client.param_serialize(
                method, path, header_params=headers, auth_settings=["BearerToken"]
            )
            if token:
                headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
                headers["Authorization"] = f"Bearer {token}"
            answer = await self._client.call_api(
                method, f"{url}?{urlencode(given)}" if given else url, headers, body, _request_timeout=limit
            )
            async with answer.response as response:
                try:
                    if response.status >= 300:
                        raise _refused(response, await response.read())
                    yield response
                finally:
                    ended = _abort(response)
        except TimeoutError:
            raise ApiError(0, "Timeout", f"{method} {path}: timed out") from None
        except (aiohttp.ClientError, OSError) as problem:
            raise ApiError(0, type(problem).__name__, f"{method} {path}: {problem}") from problem
        except kube_config.ConfigException as problem:
            raise ApiError(0, "Credentials", str(problem)) from problem
        except ValueError as problem:
            raise ApiError(0, "NotJSON", f"{method} {path}: {problem}") from problem
        finally:
            self._lingering |= not ended


async def connect(
    kubeconfig: Path | None = None, context: str = "", *, connections: int = 100, deadline: timedelta = DEADLINE
) -> Api:
    """Return an Api of the cluster that the kubeconfig names, or of the one this pod runs in.

    ConfigError when there is neither. Service account tokens are read anew as they are rotated.
    """
    settings = Configuration(connection_pool_maxsize=connections)
    _must_exist(kubeconfig)
    try:
        if kubeconfig is None:
            kube_config.load_incluster_config(client_configuration=settings)
        else:
            await kube_config.load_kube_config(
                config_file=str(kubeconfig),
                context=context or None,
                client_configuration=settings,
                persist_config=False,
            )
    except (kube_config.ConfigException, yaml.YAMLError, OSError, ValueError) as problem:
        raise ConfigError(str(kubeconfig or "in-cluster configuration"), "", str(problem), NO_CLUSTER) from problem
    return Api(ApiClient(settings), deadline)


def _must_exist(kubeconfig: Path | None) -> None:
    """Raise ConfigError for a kubeconfig that is not there; $KUBECONFIG may list several."""
    if kubeconfig is not None and os.pathsep not in str(kubeconfig) and not kubeconfig.is_file():
        raise ConfigError(str(kubeconfig), "", "no such file", NO_CLUSTER)


def _abort(response: aiohttp.ClientResponse) -> bool:
    """Cut the connection of an answer that was not read to its end; return False if it is being closed already.

    Closing it begins a TLS goodbye that nobody waits for, to a server that may be gone.
    """
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
        return True
    return response.content.at_eof()


def _refused(response: aiohttp.ClientResponse, text: bytes) -> ApiError:
    try:
        raw = json.loads(text)
    except ValueError:
        raw = None
    status: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    details = status.get("details") or {}
    causes = [Cause(str(c.get("reason", "")), str(c.get("message", ""))) for c in details.get("causes") or ()]
    message = str(status.get("message") or text[:300].decode(errors="replace"))
    return ApiError(
        response.status,
        str(status.get("reason") or response.reason),
        message,
        causes,
        _retry_after(response.headers.get("Retry-After", "")),
    )


def _retry_after(text: str) -> timedelta | None:
    return timedelta(seconds=min(int(text), 60)) if text.isdecimal() else None


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise ObserveError for any ApiError inside."""
    try:
        yield
    except ApiError as problem:
        raise ObserveError("kubernetes", f"{what}: {problem}") from problem


@contextmanager
def changing(what: str) -> Iterator[None]:
    """Raise Transient or Permanent for any ApiError inside, as the error tree says who must act.

    401 is Transient: a rotated token is read anew within a minute.
    """
    try:
        yield
    except ApiError as problem:
        words = f"{what}: {problem}"
        match problem.status:
            case 0 if problem.reason == NOT_LEADER:
                raise Transient(Reason.NOT_LEADER, words) from problem
            case 403:
                raise Permanent(Reason.FORBIDDEN, words) from problem
            case 404:
                raise Permanent(Reason.NOT_FOUND, words) from problem
            case 409:
                raise Transient(Reason.CONFLICT, words, timedelta(seconds=1)) from problem
            case 429:
                raise Transient(Reason.THROTTLED, words, problem.retry_after or timedelta(seconds=2)) from problem
            case status if status == 0 or status == 401 or status >= 500:
                raise Transient(Reason.API_UNAVAILABLE, words, problem.retry_after or timedelta(seconds=5)) from problem
            case _:
                raise Permanent(Reason.REJECTED, words) from problem
