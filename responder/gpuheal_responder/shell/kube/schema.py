"""The CRD, made from the dataclasses of a case: what it lacks, the API server would silently drop.

Everything has a bound (see bounds.py), so no object can grow without end. The status is checked loosely (no required
keys, no closed sets of words, unknown keys are kept): another version of us may write it, before or after a rollback,
and a refused write would leave its case without hands. What a case was opened on never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from gpuheal_responder.core.case import Approval, Case
from gpuheal_responder.shell.kube.bounds import LENGTHS, LONGEST, MOST, SIZES
from gpuheal_responder.shell.kube.columns import MAX_TEXT, SHOWN
from gpuheal_responder.shell.kube.remediations import (
    DECISIONS,
    GROUP,
    IN_SPEC,
    KIND,
    OPENING,
    PLURAL,
    STATUS_KEYS,
    VERSION,
)
from gpuheal_responder.shell.record import camel

Json = dict[str, Any]

TEXTS: Mapping[str, str] = {
    "node": "Name of the node.",
    "nodeUID": "UID of the Node object when the case was opened.",
    "systemUUID": "System UUID of the node's machine.",
    "openedAt": "When the case was opened.",
    "approvals": "Approvals by users, each for one step on specific evidence.",
    "attempts": "Attempts at steps, with the node's state when each started.",
}
COLUMNS = (
    ("TARGET", "string", "target"),
    ("FAULT", "string", "fault"),
    ("STEP", "string", "step"),
    ("STATE", "string", "state"),
    ("NEXT", "string", "next"),
    ("BLOCKED-BY", "string", "blockedBy"),
    ("SINCE", "date", "since"),
)


def definition() -> Json:
    """Return the CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "labels": {"app.kubernetes.io/name": "gpuheal"}},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["rem"],
                "categories": ["gpuheal"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": f".status.{key}"} for name, kind, key in COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> Json:
    hints = {camel(f.name): get_type_hints(Case)[f.name] for f in fields(Case)}
    spec = {key: _schema(key, hints[key]) for key in IN_SPEC}
    spec["policy"]["description"] = "Policy that the case was opened under; the policy in force is in the status."
    spec["node"]["minLength"] = spec["policy"]["minLength"] = 1
    item = spec["approvals"]["items"]
    item["required"] = sorted(camel(f.name) for f in fields(Approval) if f.default is MISSING)
    status = {key: _shown(key) for key in SHOWN} | {key: _schema(key, hints[key]) for key in STATUS_KEYS}
    status["decisions"] = {
        "description": "The latest decisions by time, each with all of its inputs, so that it can be replayed.",
        "type": "object",
        "maxProperties": DECISIONS,
        "additionalProperties": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }
    return {
        "description": "Remediation of one node's GPU faults by gpuheal, from the first alert to verified health.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "description": "What the case is about (written once), and approvals by users.",
                "type": "object",
                "required": ["node", "policy", "openedAt"],
                "properties": spec,
                "x-kubernetes-validations": [_unchanged(key) for key in OPENING],
            },
            "status": {
                "description": "State of the case; written by gpuheal only.",
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "properties": status,
            },
        },
    }


def _unchanged(key: str) -> Json:
    rule = f"has(self.{key}) == has(oldSelf.{key}) && (!has(self.{key}) || self.{key} == oldSelf.{key})"
    return {"rule": rule, "message": f"{key} is immutable"}


def _shown(key: str) -> Json:
    if key == "since":
        return {"type": "string", "format": "date-time"}
    return {"type": "string", "maxLength": MAX_TEXT}


def _schema(key: str, hint: Any) -> Json:
    text = TEXTS.get(key)
    return ({"description": text} if text else {}) | _typed(key, _inner(hint))


def _typed(key: str, kind: Any) -> Json:
    origin = get_origin(kind)
    if origin is tuple:
        return {"type": "array", "maxItems": SIZES.get(key, MOST), "items": _typed(key, get_args(kind)[0])}
    if origin is Mapping:
        value = _typed("", get_args(kind)[1])
        return {"type": "object", "maxProperties": MOST, "additionalProperties": value}
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        found = {camel(f.name): _schema(camel(f.name), hints[f.name]) for f in fields(kind)}
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": found}
    if kind is datetime:
        return {"type": "string", "format": "date-time"}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"type": "string", "maxLength": 63}
    if kind is str:
        return {"type": "string", "maxLength": LENGTHS.get(key, LONGEST)}
    plain = {bool: "boolean", int: "integer", float: "number"}
    return {"type": plain[kind]}


def _inner(hint: Any) -> Any:
    """Return the type inside an optional one."""
    if get_origin(hint) is UnionType:
        (kind,) = (k for k in get_args(hint) if k is not NoneType)
        return kind
    return hint
