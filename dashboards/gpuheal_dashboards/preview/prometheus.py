"""A Prometheus as the preview asks it: every call has a deadline and every answer a size."""

from __future__ import annotations

import http.client
import json
import math
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from gpuheal_responder.core.duration import people_duration

MOST_BYTES = 32 * 1024 * 1024
"""The largest answer that is read."""
GRACE_S = 2.0
"""How much longer than the query itself may take its answer is waited for."""

Labels = Mapping[str, str]


class PreviewError(Exception):
    """What keeps the preview from being made, in a line for people."""


class QueryError(PreviewError):
    """One query has no answer; others may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One series of an instant vector."""

    labels: Labels
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series over time: Unix seconds and values."""

    labels: Labels
    points: Sequence[tuple[float, float]]


class _Here(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: whoever is named there must not get our token."""

    def redirect_request(self, *_: object) -> None:
        """Return no request, which makes the redirect an error of its code."""


@dataclass(slots=True, kw_only=True)
class Prometheus:
    """The HTTP API at `url`; `timeout_s` bounds each query, `deadline` (time.monotonic) all of them together."""

    url: str
    timeout_s: float = 20.0
    deadline: float = math.inf
    headers: Mapping[str, str] = field(default_factory=dict)
    context: ssl.SSLContext | None = None

    def instant(self, expr: str, at: float) -> list[Sample]:
        """Return the instant vector; a scalar is one sample without labels."""
        data = self._get("query", query=expr, time=f"{at:.3f}", timeout=self._timeout())
        if data["resultType"] == "scalar":
            return [Sample(labels={}, value=float(data["result"][1]))]
        return [Sample(labels=_named(row), value=float(row["value"][1])) for row in data["result"]]

    def over(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """Return the range vector."""
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        data = self._get("query_range", query=expr, timeout=self._timeout(), **times)
        return [
            Series(labels=_named(row), points=[(float(at), float(value)) for at, value in row["values"]])
            for row in data["result"]
        ]

    def values(self, label: str, metric: str, start: float, end: float) -> list[str]:
        """Return the values of a label on the series of a selector, as Grafana's `label_values` asks for them."""
        path = f"label/{urllib.parse.quote(label, safe='')}/values"
        found = self._get(path, start=f"{start:.3f}", end=f"{end:.3f}", **{"match[]": metric})
        return sorted(str(value) for value in found)

    def _timeout(self) -> str:
        return f"{max(1, round(self.timeout_s * 1000))}ms"

    def _opener(self) -> urllib.request.OpenerDirector:
        return urllib.request.build_opener(_Here, urllib.request.HTTPSHandler(context=self.context))

    def _get(self, path: str, **asked: str) -> Any:
        left = min(self.timeout_s + GRACE_S, self.deadline - time.monotonic())
        if left <= 0:
            raise QueryError("not asked: the time for the whole page is used up")
        body = urllib.parse.urlencode(asked).encode()
        address = f"{self.url.rstrip('/')}/api/v1/{path}"
        get = path.startswith("label/")  # the others go by POST: an expression may be longer than an address may be
        asked_for = urllib.request.Request(  # noqa: S310  # the command admits http and https only
            f"{address}?{body.decode()}" if get else address,
            data=None if get else body,
            headers=dict(self.headers),
        )
        try:
            with self._opener().open(asked_for, timeout=left) as answer:
                return _data(_read(answer, time.monotonic() + left))
        except urllib.error.HTTPError as refused:
            with refused:
                raise QueryError(_refusal(refused.code, refused.read(MOST_BYTES))) from None
        except TimeoutError:
            raise QueryError(f"no answer within {people_duration(timedelta(seconds=left))}") from None
        except (OSError, http.client.HTTPException) as problem:
            reason = getattr(problem, "reason", problem)
            if isinstance(reason, TimeoutError):
                raise QueryError(f"no answer within {people_duration(timedelta(seconds=left))}") from None
            raise QueryError(f"no connection: {reason}") from None


def _read(answer: http.client.HTTPResponse, until: float) -> bytes:
    """Return the body; one that is too long, or trickles in, is refused."""
    parts: list[bytes] = []
    size = 0
    while part := answer.read1(1 << 16):
        size += len(part)
        parts.append(part)
        if size > MOST_BYTES:
            raise QueryError(f"the answer is larger than {MOST_BYTES >> 20} MiB")
        if time.monotonic() > until:
            raise QueryError("the answer did not end in time")
    return b"".join(parts)


def _data(body: bytes) -> Any:
    try:
        answer = json.loads(body)
        if answer["status"] != "success":
            raise QueryError(str(answer.get("error", "refused")))
        return answer["data"]
    except (ValueError, KeyError, TypeError):
        raise QueryError("the answer is not that of a Prometheus") from None


def _refusal(code: int, body: bytes) -> str:
    try:
        told = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        told = http.client.responses.get(code, "refused")
    return f"HTTP {code}: {told[:300]}"


def _named(row: Mapping[str, Any]) -> Labels:
    return {name: value for name, value in row["metric"].items() if name != "__name__"}
