"""A running responder's own routes, for people who may approve but may not write Remediations themselves."""

from __future__ import annotations

import argparse
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gpuheal_responder.errors import ConfigError, ObserveError, Permanent

DEADLINE_S = 15.0
LARGEST_ANSWER = 64 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a responder to ask."""
    group = parser.add_argument_group("through a running responder", "instead of writing to the API server directly")
    group.add_argument("--server", metavar="URL", help="where the responder listens, such as https://gpuheal:9940")
    group.add_argument(
        "--token-file", type=Path, help="file with your Kubernetes token (`kubectl create token` gives one)"
    )
    group.add_argument("--ca-file", type=Path, help="CA that signed the responder's certificate")


async def post(args: argparse.Namespace, case: str, verb: str, fields: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the responder's answer; Permanent when it refuses, ObserveError when it can't be reached."""
    import aiohttp

    from gpuheal_responder.shell.process.reload import read_secret

    if args.token_file is None:
        raise ConfigError("--server", "", "needs --token-file", "your token says who you are")
    try:
        context = ssl.create_default_context(cafile=args.ca_file) if args.ca_file else True
    except (OSError, ssl.SSLError) as problem:
        raise ConfigError(str(args.ca_file), "", f"no usable certificates: {problem}") from None
    headers = {"Authorization": f"Bearer {read_secret(args.token_file)}"}
    url = f"{args.server.rstrip('/')}/v1/cases/{quote(case, safe='')}/{verb}"
    limit = aiohttp.ClientTimeout(total=DEADLINE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(url, json=dict(fields), headers=headers, ssl=context, allow_redirects=False) as answer,
        ):
            text = (await answer.content.read(LARGEST_ANSWER)).decode(errors="replace")
            status = answer.status
    except (TimeoutError, aiohttp.ClientError) as problem:
        raise ObserveError("responder", f"{args.server}: {problem or 'no answer in time'}") from None
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    if status != 200 or not isinstance(said, dict):
        told = said.get("message", "") if isinstance(said, dict) else ""
        raise Permanent("refused", f"{args.server} answered {status}: {told or text.strip()[:300]}")
    return said
