"""How a case opens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from gpuheal_responder.core.alert import Fault
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.node import Node, UndoRecord
from gpuheal_responder.core.policy import Policy


def open_case(
    *, name: str, node: Node, faults: Sequence[Fault], policy: Policy, gpus: Sequence[str], now: datetime
) -> Case:
    """Return a new case for the faults of a node; `gpus` are the GPUs known to sit in it."""
    return Case(
        name=name,
        node=node.name,
        opened_at=now,
        policy=policy.name,
        faults=tuple(faults),
        node_uid=node.uid,
        system_uuid=node.system_uuid,
        gpus=tuple(sorted(gpus)),
    )


def case_from_undo(node_name: str, record: UndoRecord) -> Case:
    """Return the case that a node's undo record tells of, for when its Remediation was never written."""
    return Case(
        name=record.case,
        node=node_name,
        opened_at=record.at,
        policy=record.policy,
        node_uid=record.node_uid,
        system_uuid=record.system_uuid,
        gpus=record.gpus,
    )
