"""The CRD holds every field of a case within bounds, and its file is the one that the code makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Case
from gpuheal_responder.shell.kube import bounds, generate, remediations
from gpuheal_responder.shell.kube.roles import Place
from gpuheal_responder.shell.kube.schema import definition
from gpuheal_responder.shell.record import dump_case

DEPLOY = Path(__file__).parents[4] / "deploy"
BASE = DEPLOY / "kustomize" / "base"
CHART = DEPLOY / "helm" / "gpuheal" / "templates"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def version() -> Mapping[str, Any]:
    """The CRD's only version."""
    (only,) = definition()["spec"]["versions"]
    found: Mapping[str, Any] = only
    return found


def schema(part: str) -> Mapping[str, Any]:
    """The schema of spec or status."""
    found: Mapping[str, Any] = version()["schema"]["openAPIV3Schema"]["properties"][part]
    return found


@pytest.mark.parametrize("name", sorted(generate.FILES))
def test_the_files_are_what_the_code_makes(name: str) -> None:
    """Byte for byte; `make generated` writes them anew."""
    assert (BASE / name).read_text(encoding="utf-8") == generate.text(name)
    made = [document for _, document in generate.FILES[name](Place())]
    assert list(yaml.safe_load_all(generate.text(name))) == made
    assert (CHART / name).read_text(encoding="utf-8") == generate.template(name)


def test_spec_is_what_people_may_write_and_status_all_the_rest() -> None:
    """A field that a case gets one day lands in the status by itself; only the policy stands in both."""
    assert set(schema("spec")["properties"]) == set(remediations.IN_SPEC)
    rest = {*remediations.STATUS_KEYS, *remediations.SHOWN, "decisions"}
    assert set(schema("status")["properties"]) == rest
    assert set(remediations.IN_SPEC) & set(remediations.STATUS_KEYS) == {"policy"}
    assert schema("status")["properties"]["decisions"]["maxProperties"] == remediations.DECISIONS
    assert version()["subresources"] == {"status": {}}


def test_what_a_case_was_opened_on_never_changes() -> None:
    """There is a rule for each key of the spec but the approvals."""
    rules = schema("spec")["x-kubernetes-validations"]
    assert {rule["message"].split()[0] for rule in rules} == set(remediations.OPENING)


def parts(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All schemas below, with their paths."""
    yield path, node
    for name, part in node.get("properties", {}).items():
        yield from parts(part, f"{path}.{name}")
    if "items" in node:
        yield from parts(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from parts(node["additionalProperties"], f"{path}.*")


@pytest.mark.parametrize("part", ["spec", "status"])
def test_everything_has_a_bound(part: str) -> None:
    """Every text has a longest length or a format, every list and mapping a largest size."""
    unbounded = [
        path
        for path, node in parts(schema(part), part)
        if (node.get("type") == "string" and not {"maxLength", "format"} & set(node))
        or (node.get("type") == "array" and "maxItems" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
    ]
    assert unbounded == []


def test_another_version_may_write_the_status() -> None:
    """No object of the status drops keys, asks for keys or has a closed set of words."""
    for path, node in parts(schema("status"), "status"):
        if node.get("type") == "object" and "properties" in node:
            assert node.get("x-kubernetes-preserve-unknown-fields") is True, path
        assert not {"enum", "required"} & set(node), path


def test_what_is_too_long_is_cut_to_the_schemas_bounds() -> None:
    """A stranger's endless label, and more attempts than the schema takes, leave a case that can be stored."""
    target = Target(node="gpu-1", gpu_uuid="G" * 5000)
    junk = Fault(slug="x" * 500, target=target, severity=Severity.INFO, since=NOW, alertname="y" * 5000)
    case = Case(name="gpu-1-1", node="gpu-1", opened_at=NOW, policy="p", faults=(junk,) * 400)
    data = bounds.fit({**dump_case(case), "attempts": [{"operation": str(n)} for n in range(300)]})
    found = {key: value for key, value in data.items() if key not in ("name", "spec")}
    known = {**schema("spec")["properties"], **schema("status")["properties"]}
    assert list(beyond(found, {"properties": known}, "case")) == []
    assert data["attempts"][-1] == {"operation": "299"}
    assert bounds.fit(dump_case(replace(case, faults=()))) == dump_case(replace(case, faults=()))


def beyond(data: Any, node: Mapping[str, Any], path: str) -> Iterator[str]:
    """Paths of what is longer than the schema allows."""
    if isinstance(data, str) and len(data) > node.get("maxLength", len(data)):
        yield path
    if isinstance(data, list):
        if len(data) > node["maxItems"]:
            yield path
        for item in data:
            yield from beyond(item, node["items"], f"{path}[]")
    if isinstance(data, dict):
        for key, value in data.items():
            yield from beyond(value, node["properties"][key], f"{path}.{key}")


def test_names_agree_with_the_store() -> None:
    """Group, version, plural and kind are those that the store asks for."""
    spec = definition()["spec"]
    assert (spec["group"], version()["name"]) == (remediations.GROUP, remediations.VERSION)
    assert (spec["names"]["plural"], spec["names"]["kind"]) == (remediations.PLURAL, remediations.KIND)
    assert spec["scope"] == "Cluster"
