"""Heal one simulated GPU fault end to end: from the kernel log line to a verified node back in service.

Prometheus, Alertmanager, the generated rules and routes and the responder are real. With --cluster sim (the default)
the cluster and its machines are simulated; with --cluster kube the control plane is real and only the machines are
simulated.
Exit status: 0 if the node is back exactly as it was, 1 if not, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuheal_lab.demo.tour import Plan, Result

DEADLINE_S = 90.0


def main(argv: Sequence[str]) -> int:
    """Show the demo; returns the exit status."""
    args = _parser().parse_args(list(argv))
    from gpuheal_lab.fleet.machine import FAULTS

    if args.fault not in FAULTS:
        print(f"gpuheal demo: unknown fault {args.fault!r}; known: {', '.join(sorted(FAULTS))}", file=sys.stderr)
        return 2
    if not 2 <= args.nodes <= 200 or args.speed <= 0:
        print("gpuheal demo: expected 2 to 200 nodes and a speed greater than 0", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_run(args))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpuheal demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--once", action="store_true", help="exit once the node is healed, instead of keeping the servers running"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the timeline with latencies to FILE")
    parser.add_argument("--nodes", type=int, default=8, help="number of nodes, with 8 GPUs each (default: 8)")
    parser.add_argument("--fault", default="gpu-fell-off-bus", help="fault to inject (default: gpu-fell-off-bus)")
    parser.add_argument(
        "--cluster",
        choices=("sim", "kube"),
        default="sim",
        help="simulated cluster, or real control plane (default: sim)",
    )
    parser.add_argument("--speed", type=float, default=1.0, help="speed-up factor for boot times (default: 1)")
    parser.add_argument(
        "--generation",
        choices=("current", "debian"),
        help="version of Prometheus and Alertmanager (default: the newest available)",
    )
    parser.add_argument("--port", type=int, default=0, help="first of five ports to listen on (default: free ones)")
    return parser


async def _run(args: argparse.Namespace) -> int:
    from gpuheal_lab.servers.process import LabError
    from gpuheal_responder.errors import GpuhealError

    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    ended = False
    try:
        with tempfile.TemporaryDirectory(prefix="gpuheal-demo-", ignore_cleanup_errors=True) as folder:
            result = await _tour(args, Path(folder))
            ended = True
            return 0 if result.ok else 1
    except (LabError, GpuhealError) as problem:
        print(f"gpuheal demo: {problem}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 0 if ended else 130


async def _tour(args: argparse.Namespace, folder: Path) -> Result:
    from gpuheal_lab.demo import tour
    from gpuheal_lab.servers.spec import Generation

    say = _line
    plan: Plan = tour.Plan(
        nodes=args.nodes,
        fault=args.fault,
        cluster=args.cluster,
        speed=args.speed,
        port=args.port,
        generation=Generation(args.generation) if args.generation else None,
        folder=folder,
    )
    async with tour.stage(plan, say) as stage:
        result = await tour.play(stage, say, deadline_s=DEADLINE_S)
        for line in tour.summary(result):
            say(line)
        if args.json is not None:
            args.json.write_text(json.dumps(result.as_json(), indent=2) + "\n", encoding="utf-8")
        if not args.once:
            say("")
            for name, url in result.urls.items():
                say(f"  {name:<13}{url}")
            say("Everything keeps running; press Ctrl-C to stop. Break another GPU with:")
            say(f"  curl -X POST {result.urls['fleet'].removesuffix('/fleet')}/faults -d '{tour.EXAMPLE}'")
            with contextlib.suppress(asyncio.CancelledError):
                await tour.watch(stage, say)
        return result


def _line(text: str) -> None:
    print(text, flush=True)
