"""The undo record: what we found and changed on a node, as the text of one annotation, and what undoing it means.

Every kind of change has one exact reverse here. A record that another version wrote, that holds a kind of change this
version does not know, or that somebody damaged, is `Unreadable`: never taken for none, and never undone by guessing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from gpuheal_responder.core.duration import YEARS
from gpuheal_responder.core.node import Change, Condition, Node, Taint, UndoRecord, Unreadable

UNDO_ANNOTATION = "gpu.health/undo"
HOLD_ANNOTATION = "gpu.health/hold"
LONGEST_NODE = 240
"""Of a node's name so much goes into a case's name, which may have 253 characters (RFC 1123 subdomain)."""
TAINT_KEY = "gpu.health/unhealthy"
VERSION = 2
TAINT, CORDON, CONDITION, LABEL = "taint", "cordon", "condition", "label"
LONGEST_KEPT = 512
"""Of a record that cannot be read, so many characters are kept to show people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What a node's spec and annotation shall be after one PATCH; None leaves `unschedulable` as it is.

    `labels` are those that change.
    """

    taints: tuple[Taint, ...]
    unschedulable: bool | None
    undo: UndoRecord | None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Reversal:
    """What undoing a record means for the node as it is: taints to keep, a cordon to lift, what to set back."""

    taints: tuple[Taint, ...]
    lift_cordon: bool = False
    put: list[Condition] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)


def tainted(taint: Taint) -> Change:
    """Return the change of having put this taint on a node."""
    return Change(kind=TAINT, name=taint.key, after={"value": taint.value, "effect": taint.effect})


def cordoned() -> Change:
    """Return the change of having cordoned a node."""
    return Change(kind=CORDON)


def conditioned(kind: str, before: Condition | None) -> Change:
    """Return the change of having published a condition of this type over what was there before."""
    was = None if before is None else {"status": before.status, "reason": before.reason, "message": before.message}
    return Change(kind=CONDITION, name=kind, before=was)


def paused(label: str, before: str, value: str) -> Change:
    """Return the change of having paused an operand that this node label runs."""
    return Change(kind=LABEL, name=label, after={"value": value}, before={"value": before})


def taints_of(record: UndoRecord) -> tuple[Taint, ...]:
    """Return the taints that the record says are ours."""
    return tuple(_taint(c) for c in record.changes if c.kind == TAINT)


def conditions_of(record: UndoRecord) -> tuple[str, ...]:
    """Return the types of conditions that the record announces."""
    return tuple(c.name for c in record.changes if c.kind == CONDITION)


def paused_of(record: UndoRecord) -> tuple[str, ...]:
    """Return the node labels by which the record says that operands are paused."""
    return tuple(c.name for c in record.changes if c.kind == LABEL)


def has_cordon(record: UndoRecord) -> bool:
    """Return whether the record says that the cordon is ours."""
    return any(c.kind == CORDON for c in record.changes)


def _taint(change: Change) -> Taint:
    return Taint(key=change.name, value=change.after.get("value", ""), effect=change.after.get("effect", ""))


def _untaint(node: Node, change: Change, into: Reversal) -> None:
    del node
    ours = _taint(change)
    if any(same_taint(t, ours) for t in into.taints):
        into.taints = tuple(t for t in into.taints if not same_taint(t, ours))
    else:  # somebody gave it another effect
        into.taints = tuple(t for t in into.taints if t.key != ours.key)


def _uncordon(node: Node, change: Change, into: Reversal) -> None:
    del change
    into.lift_cordon = node.unschedulable


def _uncondition(node: Node, change: Change, into: Reversal) -> None:
    del node
    if change.before is None:
        into.remove.append(change.name)
    else:
        into.put.append(Condition(type=change.name, **{k: change.before.get(k, "") for k in _CONDITION_KEYS}))


def _unpause(node: Node, change: Change, into: Reversal) -> None:
    """Set the label back unless it is not what we made of it: then it is somebody else's by now."""
    if change.before is not None and node.labels.get(change.name) == change.after.get("value"):
        into.labels[change.name] = change.before.get("value", "")


_CONDITION_KEYS = ("status", "reason", "message")
REVERSES: Mapping[str, Callable[[Node, Change, Reversal], None]] = {
    TAINT: _untaint,
    CORDON: _uncordon,
    CONDITION: _uncondition,
    LABEL: _unpause,
}
"""The exact reverse of every kind of change; a new kind is a line here."""


def reverse(node: Node, record: UndoRecord) -> Reversal:
    """Return what undoing the record means, newest change first."""
    into = Reversal(taints=node.taints)
    for change in reversed(record.changes):
        REVERSES[change.kind](node, change, into)
    return into


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
            "changes": [_dump_change(c) for c in record.changes],
            "foundCordoned": record.found_cordoned,
            "systemUUID": record.system_uuid,
            "nodeUID": record.node_uid,
            "bootID": record.boot_id,
            "gpus": list(record.gpus),
        },
        separators=(",", ":"),
    )


def _dump_change(change: Change) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": change.kind}
    if change.name:
        found["name"] = change.name
    if change.after:
        found["after"] = dict(change.after)
    if change.before is not None:
        found["before"] = dict(change.before)
    return found


def load(text: str) -> UndoRecord | Unreadable:
    """Return the record of an annotation's text; records of version 1 are read as well."""
    try:
        raw = json.loads(text)
        version = raw["version"]
        if version not in {1, VERSION}:
            return _unreadable(text, f"its format version is {version!r}, this release reads version {VERSION}")
        record = UndoRecord(
            case=str(raw["case"]),
            owner=str(raw["owner"]),
            at=_moment(str(raw["at"])),
            policy=str(raw["policy"]),
            faults=tuple(map(str, raw["faults"])),
            changes=_changes_v1(raw) if version == 1 else tuple(_load_change(c) for c in raw["changes"]),
            found_cordoned=bool(raw.get("foundCordoned", False)),
            system_uuid=str(raw["systemUUID"]),
            node_uid=str(raw["nodeUID"]),
            boot_id=str(raw["bootID"]),
            gpus=tuple(map(str, raw["gpus"])),
        )
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        return _unreadable(text, f"{type(problem).__name__}: {problem}")
    unknown = sorted({c.kind for c in record.changes} - REVERSES.keys())
    return _unreadable(text, f"it has changes of unknown kinds: {', '.join(unknown)}") if unknown else record


def _moment(text: str) -> datetime:
    """Return a moment that can be reckoned with: of a time zone, and not at the edge of the calendar."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("its time has no time zone")
    if at.year not in YEARS:
        raise ValueError(f"its time is in the year {at.year}")
    return at.astimezone(UTC)


def _unreadable(text: str, problem: str) -> Unreadable:
    return Unreadable(problem=problem[:LONGEST_KEPT], text=text[:LONGEST_KEPT])


def _load_change(raw: Mapping[str, Any]) -> Change:
    before = raw.get("before")
    return Change(
        kind=str(raw["kind"]),
        name=str(raw.get("name", "")),
        after=_texts(raw.get("after", {})),
        before=None if before is None else _texts(before),
    )


def _texts(raw: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in raw.items()}


def _changes_v1(raw: Mapping[str, Any]) -> tuple[Change, ...]:
    before = {c["type"]: Condition(**c) for c in raw["conditionsBefore"]}
    taints = [tainted(Taint(key=str(t["key"]), value=str(t["value"]), effect=str(t["effect"]))) for t in raw["taints"]]
    marks = [cordoned()] if raw["cordoned"] else []
    return (*taints, *marks, *(conditioned(str(kind), before.get(kind)) for kind in raw["conditions"]))


def same_taint(first: Taint, second: Taint) -> bool:
    """Return whether two taints are the same to Kubernetes: equal key and effect."""
    return (first.key, first.effect) == (second.key, second.effect)


def mark(node: Node, record: UndoRecord) -> Marks:
    """Return the marks that add the record's taints and cordon to what is on the node now."""
    ours = taints_of(record)
    kept = tuple(t for t in node.taints if not any(same_taint(t, one) for one in ours))
    return Marks(taints=(*kept, *ours), unschedulable=True if has_cordon(record) else None, undo=record)


def release(node: Node) -> Marks:
    """Return the marks that undo exactly what the node's record says we did.

    A cordon that a person has meanwhile lifted, or one that was there before us, is left alone.
    """
    record = node.record
    if record is None:
        return Marks(taints=node.taints, unschedulable=None, undo=None)
    back = reverse(node, record)
    lifted = False if back.lift_cordon else None
    return Marks(taints=back.taints, unschedulable=lifted, undo=None, labels=back.labels)


def pause(node: Node, record: UndoRecord, pauses: Mapping[str, str]) -> Marks | None:
    """Return the marks that pause these operands, or None when there is nothing to do.

    An operand whose label the node does not have is not run by it, and one that stands still already is not ours.
    """
    known = paused_of(record)
    fresh = [
        paused(label, node.labels[label], value)
        for label, value in pauses.items()
        if label in node.labels and node.labels[label] != value and label not in known
    ]
    if not fresh:
        return None
    labels = {change.name: change.after["value"] for change in fresh}
    kept = replace(record, changes=(*record.changes, *fresh))
    return Marks(taints=node.taints, unschedulable=None, undo=kept, labels=labels)


def resume(node: Node, record: UndoRecord) -> Marks | None:
    """Return the marks that let go on what the record says we paused, or None when that is nothing."""
    if not paused_of(record):
        return None
    labels = reverse(node, record).labels
    return Marks(taints=node.taints, unschedulable=None, undo=without(record, LABEL), labels=labels)


def case_prefix(node: str) -> str:
    """Return what the names of all cases of this node begin with, before the last hyphen."""
    return node[:LONGEST_NODE].rstrip("-.")


def own_record(undo: UndoRecord | Unreadable, node: str) -> UndoRecord | Unreadable:
    """Return the undo record if a case of this node wrote it: a manifest made from another node's brings that one's."""
    if isinstance(undo, Unreadable) or undo.case.rpartition("-")[0] == case_prefix(node):
        return undo
    return Unreadable(
        problem=f"it was written by case {undo.case}, which is of another node", text=dump(undo)[:LONGEST_KEPT]
    )


def taint_lost(node: Node) -> bool:
    """Return whether a taint of ours is not on the node any more; whoever made it stronger has not taken it off."""
    record = node.record
    keys = {t.key for t in node.taints}
    return record is not None and not all(ours.key in keys for ours in taints_of(record))


def cordon_lost(node: Node) -> bool:
    """Return whether the cordon we made, or the one we found, has been lifted."""
    record = node.record
    return record is not None and (has_cordon(record) or record.found_cordoned) and not node.unschedulable


def intact(node: Node) -> bool:
    """Return whether everything the record says about the node's spec is still so."""
    return node.record is not None and not taint_lost(node) and not cordon_lost(node)


def without(record: UndoRecord, kind: str) -> UndoRecord:
    """Return the record less all changes of one kind."""
    return replace(record, changes=tuple(c for c in record.changes if c.kind != kind))
