"""`gpuheal revert`: undo exactly what the undo records say. It works without a running responder, at uninstall too."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from gpuheal_responder.commands.connection import SYNC, add_arguments, connected
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.errors import ActionError, ObserveError, Permanent, Transient

if TYPE_CHECKING:
    from gpuheal_responder.core.node import Node, UndoRecord
    from gpuheal_responder.ports import Cluster

TRIES = 5
PAUSE_S = 0.2
AT_ONCE = 16


def main(argv: Sequence[str]) -> int:
    """Undo one case or all; exit status 1 if a node could not be reverted, or in a dry run would be."""
    parser = argparse.ArgumentParser(
        prog="gpuheal revert",
        description="Revert gpuheal's changes to nodes: its taints, cordon and conditions, and nothing else. A running "
        "responder then closes the case. It may contain the node again for a new fault; to prevent that, run "
        "`gpuheal hold NODE` first.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("case", nargs="?", help="name of the case or its node")
    what.add_argument("--all", action="store_true", help="all nodes with an undo record")
    parser.add_argument(
        "--dry-run", action="store_true", help="only list what would be reverted; exit status 1 if there is any"
    )
    add_arguments(parser)
    return asyncio.run(_revert(parser.parse_args(argv)))


async def _revert(args: argparse.Namespace) -> int:
    from gpuheal_responder.shell.build import WallClock
    from gpuheal_responder.shell.kube.api import reading
    from gpuheal_responder.shell.kube.cluster import NODES, KubeCluster

    async with connected(args) as api:
        with reading("nodes"):  # following would try again and again what is forbidden
            await api.get(NODES, {"limit": 1})
        cluster = KubeCluster(api, WallClock())
        cluster.start()
        try:
            await cluster.mirror.wait_synced(SYNC)
            nodes = await cluster.nodes()
            names = chosen(nodes, None if args.all else args.case)
            said = planned(nodes, names) if args.dry_run else await revert(cluster, names)
        finally:
            await cluster.stop()
    for line in said.values():
        print(line)
    failed = [node for node, line in said.items() if "NOT REVERTED" in line]
    if failed:
        print(f"gpuheal: {len(failed)} of {len(said)} nodes could not be reverted", file=sys.stderr)
    if not said:
        print("no node has an undo record")
    if args.dry_run and said:
        print(f"gpuheal: {len(said)} nodes are out of service by gpuheal; nothing was changed", file=sys.stderr)
    return 1 if failed or (args.dry_run and said) else 0


def chosen(nodes: Mapping[str, Node], case: str | None) -> Sequence[str]:
    """Return the marked nodes, or the one of this case; Permanent `not-found` if that carries no undo record."""
    from gpuheal_responder.core.undo import UNDO_ANNOTATION

    marked = sorted(
        name for name, node in nodes.items() if node.undo is not None or UNDO_ANNOTATION in node.annotations
    )
    if case is None:
        return marked
    found = [name for name in marked if name == case or _case_of(nodes[name]) == case]
    if not found:
        raise Permanent(Reason.NOT_FOUND, f"no node has an undo record of {case!r}")
    return found


def _case_of(node: Node) -> str:
    return node.record.case if node.record is not None else ""


def _unread(node: Node) -> str:
    """Return why a node has no undo record that can be read."""
    from gpuheal_responder.core.node import Unreadable

    return node.undo.problem if isinstance(node.undo, Unreadable) else "it no longer exists"


def planned(nodes: Mapping[str, Node], names: Sequence[str]) -> Mapping[str, str]:
    """Return by node, in words, what `revert` would undo or could not."""
    return {name: _plan(name, nodes[name]) for name in names}


def _plan(name: str, node: Node) -> str:
    record = node.record
    if record is None:
        return f"{name}: cannot read its undo record: {_unread(node)}"
    faults = ", ".join(record.faults) or "no fault"
    return f"{name}: {faults}; would be: {_undone(record, node)} (case {record.case})"


async def revert(cluster: Cluster, nodes: Sequence[str]) -> Mapping[str, str]:
    """Return by node, in words, what was undone or why not; one node's failure does not stop the others."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> str:
        async with gate:
            try:
                return await _node(cluster, name)
            except (ActionError, ObserveError) as problem:
                return f"{name}: NOT REVERTED: {problem}"

    lines = await asyncio.gather(*(one(name) for name in nodes))
    return dict(zip(nodes, lines, strict=True))


async def _node(cluster: Cluster, name: str) -> str:
    node = await cluster.node(name)
    if node is None:
        return f"{name}: the node no longer exists"
    record = node.record
    if record is None:
        return f"{name}: NOT REVERTED: cannot read its undo record: {_unread(node)}"
    await _again(lambda: _undo(cluster, name))
    await cluster.unlock(name)
    return f"{name}: {_undone(record, node)} (case {record.case})"


async def _again(do: Callable[[], Awaitable[None]]) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            await do()
        except Transient:
            if attempt == TRIES:
                raise
            await asyncio.sleep(PAUSE_S * attempt)  # somebody else writes the same object
        else:
            return


async def _undo(cluster: Cluster, name: str) -> None:
    from gpuheal_responder.actions.restore import undo

    node = await cluster.node(name)
    if node is not None:
        await undo(cluster, node)


def _undone(record: UndoRecord, node: Node) -> str:
    from gpuheal_responder.core.undo import has_cordon, reverse, taints_of

    back = reverse(node, record)
    done = [f"taint {taint.key} removed" for taint in taints_of(record)]
    if has_cordon(record):
        done.append("uncordoned" if back.lift_cordon else "already uncordoned")
    done += [f"label {name}={value} restored" for name, value in back.labels.items()]
    done += [f"condition {c.type} restored" for c in back.put]
    done += [f"condition {kind} removed" for kind in back.remove]
    return ", ".join(done) or "undo record removed"
