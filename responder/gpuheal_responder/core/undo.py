"""The undo record: what we found and changed on a node, as the text of one annotation, and what undoing it means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpuheal_responder.core.node import Condition, Node, Taint, UndoRecord

UNDO_ANNOTATION = "gpu.health/undo"
HOLD_ANNOTATION = "gpu.health/hold"
TAINT_KEY = "gpu.health/unhealthy"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What a node's spec and annotation shall be after one PATCH; None leaves `unschedulable` as it is."""

    taints: tuple[Taint, ...]
    unschedulable: bool | None
    undo: UndoRecord | None


def dump(record: UndoRecord) -> str:
    """Return the annotation's text."""
    return json.dumps(
        {
            "version": VERSION,
            "case": record.case,
            "owner": record.owner,
            "at": record.at.isoformat(),
            "policy": record.policy,
            "faults": list(record.faults),
            "taints": [_taint(t) for t in record.taints],
            "cordoned": record.cordoned,
            "conditions": list(record.conditions),
            "conditionsBefore": [
                {"type": c.type, "status": c.status, "reason": c.reason, "message": c.message}
                for c in record.conditions_before
            ],
            "systemUUID": record.system_uuid,
            "nodeUID": record.node_uid,
            "bootID": record.boot_id,
            "gpus": list(record.gpus),
        },
        separators=(",", ":"),
    )


def load(text: str) -> UndoRecord | None:
    """Return the record of an annotation's text, or None when it is not one that this version wrote."""
    try:
        raw = json.loads(text)
        if raw["version"] != VERSION:
            return None
        return UndoRecord(
            case=str(raw["case"]),
            owner=str(raw["owner"]),
            at=datetime.fromisoformat(raw["at"]),
            policy=str(raw["policy"]),
            faults=tuple(map(str, raw["faults"])),
            taints=tuple(_parse_taint(t) for t in raw["taints"]),
            cordoned=bool(raw["cordoned"]),
            conditions=tuple(map(str, raw["conditions"])),
            conditions_before=tuple(Condition(**c) for c in raw["conditionsBefore"]),
            system_uuid=str(raw["systemUUID"]),
            node_uid=str(raw["nodeUID"]),
            boot_id=str(raw["bootID"]),
            gpus=tuple(map(str, raw["gpus"])),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _taint(taint: Taint) -> Mapping[str, str]:
    return {"key": taint.key, "value": taint.value, "effect": taint.effect}


def _parse_taint(raw: Mapping[str, Any]) -> Taint:
    return Taint(key=str(raw["key"]), value=str(raw["value"]), effect=str(raw["effect"]))


def same_taint(first: Taint, second: Taint) -> bool:
    """Return whether two taints are the same to Kubernetes: equal key and effect."""
    return (first.key, first.effect) == (second.key, second.effect)


def mark(node: Node, record: UndoRecord) -> Marks:
    """Return the marks that add the record's taints and cordon to what is on the node now."""
    kept = tuple(t for t in node.taints if not any(same_taint(t, ours) for ours in record.taints))
    return Marks(taints=(*kept, *record.taints), unschedulable=True if record.cordoned else None, undo=record)


def release(node: Node) -> Marks:
    """Return the marks that undo exactly what the node's record says we did.

    A cordon that a person has meanwhile lifted, or one that was there before us, is left alone.
    """
    record = node.undo
    if record is None:
        return Marks(taints=node.taints, unschedulable=None, undo=None)
    kept = tuple(t for t in node.taints if not any(same_taint(t, ours) for ours in record.taints))
    lift = record.cordoned and node.unschedulable
    return Marks(taints=kept, unschedulable=False if lift else None, undo=None)


def intact(node: Node) -> bool:
    """Return whether everything the record says we put on the node's spec is still there."""
    record = node.undo
    if record is None:
        return False
    tainted = all(any(same_taint(t, ours) for t in node.taints) for ours in record.taints)
    return tainted and (node.unschedulable or not record.cordoned)
