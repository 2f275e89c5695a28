"""deploy/helm: what can be said of the chart without helm."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from gpuheal_lab.chart import render as chart

VALUES = yaml.safe_load((chart.CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text(encoding="utf-8"))

MADE = ("rules.site.", "responder.settings.")
"""What is made from the rules and the responder; their own pages list it."""


def test_the_charts_files_are_up_to_date() -> None:
    """Rules, their schema, policies, routes and dashboards are the repository's; `make generated` writes them."""
    old = [name for name, text in chart.made().items() if (chart.CHART / name).read_text(encoding="utf-8") != text]
    assert old == [], "run `make generated`"


def test_nothing_is_left_whose_source_is_gone() -> None:
    """A profile or dashboard that was renamed does not stay in the chart under its old name."""
    assert list(chart.stale()) == []


def resolved(node: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with what its $ref names."""
    name = node.get("$ref", "").rpartition("/")[2]
    return {**SCHEMA["definitions"].get(name, {}), **node}


def leaves(
    node: Mapping[str, Any], values: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every value of values.yaml with its schema; objects whose keys are the user's are leaves."""
    for key, value in values.items():
        where = f"{path}.{key}".lstrip(".")
        assert key in node["properties"], f"{where} is not in the schema"
        found = resolved(node["properties"][key])
        if isinstance(value, dict) and "properties" in found:
            yield from leaves(found, value, where)
        else:
            yield where, found


LEAVES = dict(leaves(SCHEMA, VALUES))


@pytest.mark.parametrize("path", sorted(LEAVES))
def test_every_value_is_described(path: str) -> None:
    """Editors and `helm show values` readers learn from the schema what each value is; unknown ones are refused."""
    found = LEAVES[path]
    # The namespace of a service account says it by its name.
    assert found.get("description") or path.endswith(("resources", "serviceAccount.namespace")), (
        f"{path} has no description"
    )
    assert found.get("type") or found.get("enum"), f"{path} takes anything"


def test_the_schema_knows_no_value_that_the_file_lacks() -> None:
    """values.yaml shows all there is."""

    def paths(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
        for key, each in node.get("properties", {}).items():
            found = resolved(each)
            where = f"{path}.{key}".lstrip(".")
            if "properties" in found:
                yield from paths(found, where)
            else:
                yield where

    assert {path for path in set(paths(SCHEMA)) - set(LEAVES) if not path.startswith(MADE)} == {"global"}


def test_versions_agree() -> None:
    """The chart installs the images of the version it came with."""
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = (chart.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{about["appVersion"]}"\n' in project


def test_both_readmes_give_the_same_commands() -> None:
    """What a newcomer reads first is what test_chart_life.py runs on a real API server."""
    text = (chart.CHART.parent / "README.md").read_text(encoding="utf-8")
    commands = text.partition("<!-- test: install -->\n")[2].partition("```sh\n")[2].partition("```")[0]
    assert "helm install" in commands
    assert commands in (chart.ROOT / "README.md").read_text(encoding="utf-8")
