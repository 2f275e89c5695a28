"""A running responder's own routes, for people who may approve but may not write Remediations themselves."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from gpuheal_responder.core.reason import Reason
from gpuheal_responder.errors import ConfigError, ObserveError, Permanent

if TYPE_CHECKING:
    from aiohttp import StreamReader

DEADLINE_S = 15.0
BUSY_S = 0.5
LARGEST_ANSWER = 4 * 1024 * 1024
NOT_LEADER = f'"{Reason.NOT_LEADER}"'
"""In an answer of a replica that does not lead: asking it again is of no use."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a responder to ask."""
    group = parser.add_argument_group("via a running responder", "instead of using the Kubernetes API directly")
    group.add_argument("--server", metavar="URL", help="the responder's URL, such as https://gpuheal:9940")
    group.add_argument("--token-file", type=Path, help="file with your Kubernetes token (from `kubectl create token`)")
    group.add_argument("--ca-file", type=Path, help="CA certificate for the responder's server certificate")


def checked(server: str) -> str:
    """Return the address of the responder without a slash at the end; ConfigError if a token sent there could be read.

    Plain HTTP is taken to this machine itself only, where `kubectl port-forward` listens.
    """
    try:
        url = urlsplit(server)
        host = url.hostname or ""
    except ValueError:
        url, host = urlsplit(""), ""
    if url.scheme not in ("http", "https") or not host or "@" in url.netloc or url.query or url.fragment:
        raise ConfigError("--server", "", f"{server!r} is not an https:// URL")
    if url.scheme == "http" and not _is_here(host):
        raise ConfigError(
            "--server", "", "your token could be intercepted", "use https://, or http://127.0.0.1 with a port-forward"
        )
    return server.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def post(args: argparse.Namespace, case: str, verb: str, fields: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the responder's answer; Permanent when it refuses, ObserveError when it can't be reached."""
    return await _ask(args, "POST", f"/v1/cases/{quote(case, safe='')}/{verb}", dict(fields))


async def get(args: argparse.Namespace, path: str) -> Mapping[str, Any]:
    """Return what the responder has at `path`; Permanent when it refuses, ObserveError when it can't be reached."""
    return await _ask(args, "GET", path, None)


async def _ask(args: argparse.Namespace, method: str, path: str, body: Mapping[str, str] | None) -> Mapping[str, Any]:
    import aiohttp

    from gpuheal_responder.shell.process.reload import read_secret

    if args.token_file is None:
        raise ConfigError("--server", "", "requires --token-file", "the token identifies you")
    server = checked(args.server)
    try:
        context = ssl.create_default_context(cafile=args.ca_file) if args.ca_file else True
    except (OSError, ssl.SSLError) as problem:
        raise ConfigError(str(args.ca_file), "", f"no usable certificates: {problem}") from None
    headers = {"Authorization": f"Bearer {read_secret(args.token_file)}"}
    url = f"{server}{path}"
    limit = aiohttp.ClientTimeout(total=DEADLINE_S)
    end = time.monotonic() + DEADLINE_S
    try:
        async with aiohttp.ClientSession(timeout=limit) as session:
            while True:
                async with session.request(
                    method, url, json=body, headers=headers, ssl=context, allow_redirects=False
                ) as answer:
                    text = (await _read(answer.content)).decode(errors="replace")
                    status = answer.status
                if status != 503 or NOT_LEADER in text or time.monotonic() > end:
                    break
                await asyncio.sleep(BUSY_S)  # others' tokens are being reviewed; an approval may well be sent twice
    except (TimeoutError, aiohttp.ClientError) as problem:
        raise ObserveError("responder", f"{server}: {str(problem) or 'timed out'}") from None
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    if status != 200 or not isinstance(said, dict):
        told = said.get("message", "") if isinstance(said, dict) else ""
        raise Permanent(Reason.REFUSED, f"{server} answered {status}: {told or text.strip()[:300]}")
    return said


async def _read(content: StreamReader) -> bytes:
    """Return the body, up to its largest size."""
    found = bytearray()
    async for chunk in content.iter_chunked(64 * 1024):
        found += chunk
        if len(found) >= LARGEST_ANSWER:
            break
    return bytes(found[:LARGEST_ANSWER])
