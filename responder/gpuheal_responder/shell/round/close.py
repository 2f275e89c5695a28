"""Ending a case cleanly, and forgetting closed ones after a while."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from gpuheal_responder.actions.restore import undo
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.node import Node
from gpuheal_responder.errors import Transient
from gpuheal_responder.ports import Stored
from gpuheal_responder.shell.round.observe import Ports

KEPT_PER_NODE = 20
KEPT_FOR = timedelta(days=30)
AT_ONCE = 50


async def finish(ports: Ports, node: Node | None, case: Case) -> None:
    """Take what is left of the case's marks off the node and give its Lease back; a conflict is Transient."""
    if node is not None and node.undo is not None and node.undo.case == case.name:
        fresh = await ports.cluster.node(node.name)
        if fresh is None or fresh.uid != node.uid:
            raise Transient("node-changed", f"{node.name} changed while its case was being closed")
        await undo(ports.cluster, fresh)
    await ports.cluster.unlock(case.node)


def surplus(closed: Sequence[Stored], now: datetime) -> tuple[str, ...]:
    """Return names of closed cases to delete: beyond 20 per node or 30 days, at most 50 at once.

    The newest case of a node stays whatever its age: its end is the watermark of that node's evidence.
    """
    by_node: dict[str, list[Case]] = {}
    for stored in closed:
        by_node.setdefault(stored.case.node, []).append(stored.case)
    names = []
    for found in by_node.values():
        found.sort(key=lambda c: c.closed_at or c.opened_at, reverse=True)
        for index, case in enumerate(found[1:], start=1):
            if index >= KEPT_PER_NODE or now - (case.closed_at or case.opened_at) > KEPT_FOR:
                names.append(case.name)
    return tuple(names[:AT_ONCE])
