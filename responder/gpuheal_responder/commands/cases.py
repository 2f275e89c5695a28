"""`gpuheal cases`: the cases, as `kubectl get remediations` shows them."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpuheal_responder.commands import remote
from gpuheal_responder.commands.connection import add_arguments, connected, remediations_of

if TYPE_CHECKING:
    from gpuheal_responder.ports import Unreadable
    from gpuheal_responder.shell.kube.remediations import Kept

COLUMNS = ("case", "target", "fault", "state", "step", "next", "blockedBy", "since")
HEADS = ("CASE", "TARGET", "FAULT", "STATE", "STEP", "NEXT", "BLOCKED-BY", "SINCE")
IGNORED_HEADS = ("NODE", "FAULTS", "REASON", "MESSAGE")
WIDEST = 60


def main(argv: Sequence[str]) -> int:
    """Print the open cases, or all; ObserveError when they can't be listed."""
    parser = argparse.ArgumentParser(
        prog="gpuheal cases", description="List remediation cases: fault, state, current step, next step and blockers."
    )
    parser.add_argument("--all", action="store_true", help="include closed cases")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, untruncated")
    parser.add_argument(
        "--ignored", action="store_true", help="list faults that open no case, and why (requires --server)"
    )
    add_arguments(parser)
    remote.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.ignored != bool(args.server):
        parser.error(
            "--ignored and --server must be used together: only a running responder knows which faults it ignores"
        )
    return asyncio.run(_ignored(args) if args.ignored else _list(args))


async def _ignored(args: argparse.Namespace) -> int:
    answer = await remote.get(args, "/v1/ignored")
    listed = answer.get("ignored")
    found = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    print("\n".join(json.dumps(entry) for entry in found) if args.json else as_ignored(found))
    if answer.get("more"):
        print(f"gpuheal: {answer['more']} more nodes are not listed", file=sys.stderr)
    return 0


def as_ignored(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the faults that open no case as columns; the reason comes before the sentence that explains it."""
    if not found:
        return "no faults are ignored"
    rows = [
        (e.get("node", ""), ", ".join(map(str, e.get("faults") or ())), e.get("reason", ""), e.get("message", ""))
        for e in found
    ]
    return _columns([IGNORED_HEADS, *(tuple(str(text) or "-" for text in row) for row in rows)])


def _columns(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


async def _list(args: argparse.Namespace) -> int:
    async with connected(args) as api, remediations_of(api) as remediations:
        found = [kept for kept in remediations.kept() if args.all or kept.stored.case.closed_at is None]
        found.sort(key=lambda kept: (kept.stored.case.opened_at, kept.stored.case.name))
        print(as_json(found) if args.json else as_table([_row(kept) for kept in found], datetime.now(UTC)))
        for line in problems(found, await remediations.unreadable()):
            print(f"gpuheal: {line}", file=sys.stderr)
    return 0


def problems(found: Sequence[Kept], unreadable: Sequence[Unreadable]) -> Sequence[str]:
    """Return a line for each case that this version cannot read, in full or at all."""
    parts = [(kept.stored.case.name, kept.stored.unread) for kept in found if kept.stored.unread]
    lines = [f"{name}: parts cannot be read: {'; '.join(unread)}" for name, unread in parts]
    return [*lines, *(f"{i.name} (node {i.node or 'unknown'}): cannot be read: {i.problem}" for i in unreadable)]


def _row(kept: Kept) -> Mapping[str, str]:
    return {"case": kept.stored.case.name, **kept.shown}


def as_json(found: Sequence[Kept]) -> str:
    """Return one JSON object per line: the case and what people see of it."""
    from gpuheal_responder.shell.record import dump_case

    def line(kept: Kept) -> Mapping[str, Any]:
        return {**dump_case(kept.stored.case), "shown": dict(kept.shown)}

    return "\n".join(json.dumps(line(kept)) for kept in found)


def as_table(rows: Sequence[Mapping[str, str]], now: datetime) -> str:
    """Return the rows as columns; long texts are cut, and `since` becomes a span such as 3m."""
    if not rows:
        return "no cases"
    cells: list[tuple[str, ...]] = [HEADS]
    for row in rows:
        shown = {**row, "since": _age(row.get("since", ""), now)}
        cells.append(tuple(_cut(shown.get(column, "") or "-") for column in COLUMNS))
    return _columns(cells)


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _age(text: str, now: datetime) -> str:
    try:
        seconds = int((now - datetime.fromisoformat(text)).total_seconds())
    except (ValueError, TypeError):
        return text
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"
