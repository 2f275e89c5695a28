"""`gpuheal hold`: keep gpuheal's hands off a node, or let go again."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from gpuheal_responder.commands import remote
from gpuheal_responder.commands.connection import add_arguments, connected, whoami


def main(argv: Sequence[str]) -> int:
    """Put or remove the annotation `gpu.health/hold`; Permanent when there is no such node."""
    parser = argparse.ArgumentParser(
        prog="gpuheal hold",
        description="Put a node on hold (annotation gpu.health/hold): its case stops at the next safe point, and no "
        "new step starts.",
    )
    parser.add_argument("node", help="node name")
    parser.add_argument("--reason", default="", help="reason, stored in the annotation for others to read")
    parser.add_argument("--release", action="store_true", help="remove the hold")
    add_arguments(parser)
    remote.add_arguments(parser)
    return asyncio.run(_hold(parser.parse_args(argv)))


async def _hold(args: argparse.Namespace) -> int:
    from gpuheal_responder.shell.http.approval import KubeHolds

    if args.server and not args.release:
        said = await remote.post(args, args.node, "hold", {"reason": args.reason})
        print(f"{said['held']}: held ({said['by']})")
        return 0
    async with connected(args) as api:
        if args.release:
            await KubeHolds(api).put(args.node, None)
            print(f"{args.node}: released")
            return 0
        by = await whoami(api)
        text = f"{by}: {args.reason}" if args.reason else by
        await KubeHolds(api).put(args.node, text)
        print(f"{args.node}: held ({text})")
    return 0
