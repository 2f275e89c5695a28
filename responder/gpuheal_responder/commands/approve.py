"""`gpuheal approve`: a person's yes to one step on one evidence."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from datetime import timedelta

from gpuheal_responder.commands import remote
from gpuheal_responder.commands.connection import add_arguments, connected, may_approve, remediations_of, whoami
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.errors import Permanent


def main(argv: Sequence[str]) -> int:
    """Store the approval; Permanent when the case, the step or the right is missing."""
    parser = argparse.ArgumentParser(
        prog="gpuheal approve",
        description="Approve a proposed step. The BLOCKED-BY column of `gpuheal cases` shows the evidence.",
    )
    parser.add_argument("case", help="name of the case or its node")
    parser.add_argument("--step", required=True, help="step to approve, such as reboot")
    parser.add_argument(
        "--evidence",
        required=True,
        help="evidence ID shown with the proposal; the approval is void once the evidence changes",
    )
    parser.add_argument(
        "--for", dest="span", type=_span, default=timedelta(hours=1), help="validity, such as 30m (default: 1h)"
    )
    add_arguments(parser)
    remote.add_arguments(parser)
    return asyncio.run(_approve(parser.parse_args(argv)))


async def _approve(args: argparse.Namespace) -> int:
    from gpuheal_responder.core.duration import format_duration
    from gpuheal_responder.shell.build import WallClock
    from gpuheal_responder.shell.http import approval as desk

    if args.server:
        fields = {"step": args.step, "evidence": args.evidence, "for": format_duration(args.span)}
        said = await remote.post(args, args.case, "approve", fields)
        print(f"{said['case']}: {said['approved']} approved by {said['by']}")
        return 0
    async with connected(args) as api, remediations_of(api) as remediations:
        name = (await desk.find(remediations, args.case)).case.name
        if not await may_approve(api, name):
            raise Permanent(
                Reason.FORBIDDEN,
                "you are not allowed to create remediations/approve; ask for the ClusterRole gpuheal-approver",
            )
        by = await whoami(api)
        asked = {"name": name, "step": args.step, "evidence": args.evidence, "by": by, "span": args.span}
        case = await desk.approve(remediations, WallClock(), **asked)
        given = case.approvals[-1]
        print(f"{case.name}: {given.step} approved by {by} until {given.expires_at.isoformat(timespec='seconds')}")
    return 0


def _span(text: str) -> timedelta:
    from gpuheal_responder.core.duration import parse_duration

    try:
        return parse_duration(text)
    except (ValueError, OverflowError) as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
