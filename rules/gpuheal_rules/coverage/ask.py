"""Asks a Prometheus what it has: a few instant queries, each with a deadline and a bound on the answer."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpuheal_rules.coverage.seen import Seen
from gpuheal_rules.errors import ConfigError
from gpuheal_rules.groups.memory import SINCE

DEADLINE_S = 30.0
LARGEST_ANSWER = 16 * 1024 * 1024
SAID = 300
"""Characters of an answer that was refused which are told."""


class Unreachable(Exception):
    """Prometheus gave no usable answer; the text says why."""


def checked(url: str, token: bool) -> str:
    """Return the address without a slash at the end; ConfigError when it is none, or a token could be read there."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("--prometheus", "", f"{url!r} is not an http:// or https:// address")
    if token and parts.scheme == "http" and not _is_here(host):
        raise ConfigError("--prometheus", "", "the token could be intercepted", "use https://, or a port-forward")
    return url.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def ask(
    url: str,
    names: Sequence[str],
    labels: frozenset[str],
    gauges: Sequence[str],
    *,
    token_file: Path | None = None,
    ca_file: Path | None = None,
) -> Seen:
    """Return what the Prometheus has of these metrics; Unreachable when one of the queries has no whole answer.

    `gauges` are those of which one wants to know whether they are 0 everywhere.
    """
    import aiohttp

    server = checked(url, token_file is not None)
    headers = {"Authorization": f"Bearer {_secret(token_file)}"} if token_file else {}
    try:
        context = ssl.create_default_context(cafile=ca_file) if ca_file else True
    except (OSError, ssl.SSLError) as problem:
        raise ConfigError(str(ca_file), "", f"no usable certificates: {problem}") from None
    limit = aiohttp.ClientTimeout(total=DEADLINE_S)
    any_of = f'__name__=~"{"|".join(sorted(names))}"'
    try:
        async with aiohttp.ClientSession(timeout=limit, headers=headers) as session:

            async def query(expr: str) -> list[tuple[dict[str, str], float]]:
                async with session.post(
                    f"{server}/api/v1/query", data={"query": expr}, ssl=context, allow_redirects=False
                ) as answer:
                    return _rows(answer.status, await _body(answer.content))

            jobs: dict[str, set[str]] = {}
            for row, _value in await query(f"group by (__name__, job) ({{{any_of}}})"):
                jobs.setdefault(row.get("__name__", ""), set()).add(row.get("job", ""))
            having: dict[str, frozenset[str]] = {}
            lacking: dict[str, frozenset[str]] = {}
            for label in sorted(labels):
                for found, sign in ((having, "!="), (lacking, "=")):
                    rows = await query(f'group by (__name__) ({{{any_of}, {label}{sign}""}})')
                    found[label] = frozenset(row.get("__name__", "") for row, _value in rows)
            shown = f'__name__=~"{"|".join(gauges)}"'
            zero = await query(f"max by (__name__) ({{{shown}}}) == 0")
            age = await query(f'time() - max({SINCE}{{job=""}})')
    except (TimeoutError, aiohttp.ClientError) as problem:
        raise Unreachable(f"{server}: {str(problem) or 'timed out'}") from None
    return Seen(
        jobs={name: frozenset(of) for name, of in jobs.items()},
        labelled=True,
        having=having,
        lacking=lacking,
        zero=frozenset(row.get("__name__", "") for row, _value in zero),
        remembers=age[0][1] if age else None,
    )


def _secret(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(str(path), "", f"cannot be read: {problem}") from None
    if not text or not text.isprintable() or " " in text:
        raise ConfigError(str(path), "", "contains no token", "one line, without blanks")
    return text


async def _body(content: Any) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise Unreachable(f"the answer is larger than {LARGEST_ANSWER // 1024**2} MiB")
    return bytes(body)


def _rows(status: int, body: bytes) -> list[tuple[dict[str, str], float]]:
    """Return labels and value of the series of an instant vector; Unreachable for anything but a whole answer."""
    try:
        answer = json.loads(body)
        if status != 200 or answer["status"] != "success":
            raise Unreachable(f"it answered {status}: {str(answer.get('error', ''))[:SAID]}")
        if answer.get("warnings"):
            raise Unreachable(f"the answer may be partial: {str(answer['warnings'])[:SAID]}")
        return [(dict(series["metric"]), float(series["value"][1])) for series in answer["data"]["result"]]
    except (ValueError, LookupError, TypeError, AttributeError):
        said = body[:SAID].decode(errors="replace").strip()
        raise Unreachable(f"it answered {status}, and not as Prometheus does: {said!r}") from None
