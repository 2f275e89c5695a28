"""The CRD of deploy/kustomize/base holds every field of a case: what it lacks, the API server would silently drop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from gpuheal_responder.core.case import Case
from gpuheal_responder.shell.kube import remediations
from gpuheal_responder.shell.record import camel

CRD = Path(__file__).parents[4] / "deploy" / "kustomize" / "base" / "crd.yaml"


def definition() -> Mapping[str, Any]:
    """The CRD."""
    found: Mapping[str, Any] = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    return found


def version() -> Mapping[str, Any]:
    """Its only version."""
    (only,) = definition()["spec"]["versions"]
    found: Mapping[str, Any] = only
    return found


def schema(part: str) -> Mapping[str, Any]:
    """The properties of spec or status."""
    found: Mapping[str, Any] = version()["schema"]["openAPIV3Schema"]["properties"][part]["properties"]
    return found


def inner(kind: Any) -> Any:
    """The type inside an optional or a tuple."""
    kinds = [k for k in get_args(kind) if k not in (NoneType, Ellipsis)]
    return inner(kinds[0]) if kinds else kind


def missing(kind: type, known: Mapping[str, Any], path: str) -> Iterator[str]:
    """Fields and words that the schema does not know."""
    hints = get_type_hints(kind)
    for info in fields(kind):
        name = camel(info.name)
        if name not in known:
            yield f"{path}.{name}"
            continue
        part = known[name].get("items", known[name])
        what = inner(hints[info.name])
        if is_dataclass(what) and isinstance(what, type):
            yield from missing(what, part["properties"], f"{path}.{name}")
        elif isinstance(what, type) and issubclass(what, StrEnum):
            yield from (f"{path}.{name}: {word}" for word in set(what) ^ set(part["enum"]))
        elif what is datetime and part.get("format") != "date-time":
            yield f"{path}.{name}: no date-time"


def test_every_field_of_a_case_has_its_place() -> None:
    """Each field of the dataclasses is in spec or status, with the same words of closed sets."""
    known = {**schema("spec"), **schema("status"), "name": {}}
    assert list(missing(Case, known, "case")) == []


def test_spec_and_status_share_the_fields_as_the_store_writes_them() -> None:
    """What the store puts into spec and status is what the schema has there, and nothing else."""
    assert set(schema("spec")) == set(remediations.IN_SPEC)
    assert set(schema("status")) == {*remediations.STATUS_KEYS, *remediations.SHOWN, "decisions"}
    assert schema("status")["decisions"]["maxProperties"] == remediations.DECISIONS


def test_there_is_no_status_subresource() -> None:
    """A transition is one write, so spec and status are written together."""
    assert "subresources" not in version()


def test_names_agree_with_the_store() -> None:
    """Group, version, plural and kind are those that the store asks for."""
    spec = definition()["spec"]
    assert (spec["group"], version()["name"]) == (remediations.GROUP, remediations.VERSION)
    assert (spec["names"]["plural"], spec["names"]["kind"]) == (remediations.PLURAL, remediations.KIND)
    assert spec["scope"] == "Cluster"


def strings(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All schemas below, with their paths."""
    yield path, node
    for name, part in node.get("properties", {}).items():
        yield from strings(part, f"{path}.{name}")
    if "items" in node:
        yield from strings(node["items"], f"{path}[]")


@pytest.mark.parametrize("part", ["spec", "status"])
def test_everything_has_a_bound(part: str) -> None:
    """Every text has a longest length or a format, every list a largest size: no object can grow without end."""
    root = version()["schema"]["openAPIV3Schema"]["properties"][part]
    unbounded = [
        path
        for path, node in strings(root, part)
        if (node.get("type") == "string" and not {"maxLength", "format", "enum"} & set(node))
        or (node.get("type") == "array" and "maxItems" not in node)
    ]
    assert unbounded == []
