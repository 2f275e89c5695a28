"""The counters of dcgm-exporter, and what the page of stock installs says to set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from gpuheal_rules.catalogue import counters
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.lint.flow import matchers, metric_names, selectors
from gpuheal_rules.promql.rule import Group

RULES = Path(__file__).resolve().parents[3] / "rules"
PAGE = (RULES / "STOCK.md").read_text()


def block(name: str) -> Any:
    """The values that the page gives under this name."""
    (text,) = re.findall(rf"<!-- test: {name} -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    return yaml.safe_load(text)


def fields_of(csv: str) -> list[str]:
    """The fields of a counters CSV; every line has three cells."""
    lines = [line for line in csv.splitlines() if line and not line.startswith("#")]
    cells = [[cell.strip() for cell in line.split(",")] for line in lines]
    assert all(len(row) == 3 and row[1] in {"gauge", "counter", "label"} for row in cells)
    return [row[0] for row in cells]


def test_the_config_map_holds_the_exporters_own_fields_and_ours_each_once(catalogue: Catalogue) -> None:
    """The operator's list replaces the exporter's: nothing of either is lost, and the exporter sees no field twice."""
    document = yaml.safe_load((RULES / "generated" / "dcgm-metrics.configmap.yaml").read_text())
    found = fields_of(document["data"][counters.KEY])
    assert len(found) == len(set(found))
    assert set(found) == set(counters.STOCK) | set(counters.fields(catalogue)) | {"DCGM_FI_DRIVER_VERSION"}
    ours = fields_of((RULES / "generated" / "dcgm-counters.csv").read_text())
    assert set(ours) < set(found)
    assert len(counters.STOCK) == 25
    assert document["metadata"]["name"] == block("gpu-operator")["dcgmExporter"]["config"]["name"]


def test_kube_state_metrics_is_told_to_export_every_label_that_rules_read(groups: tuple[Group, ...]) -> None:
    """Each label of kube_node_labels in a rule is on the page's list, under the name that Kubernetes has for it."""
    read = {
        label
        for group in groups
        for rule in group.rules
        for selector in selectors(promql_parser.parse(rule.expr))
        if metric_names(selector) == ["kube_node_labels"]
        for label, _sign, _value in matchers(selector)
        if label != "job"
    }
    (allowed,) = block("kube-prometheus-stack")["kube-state-metrics"]["metricLabelsAllowlist"]
    assert PAGE.count(allowed) == 2
    names = re.fullmatch(r"nodes=\[(.+)\]", allowed)
    assert names is not None
    assert {"label_" + re.sub(r"[^a-zA-Z0-9_]", "_", name) for name in names[1].split(",")} == read


def test_the_page_names_every_metric_of_kube_state_metrics_that_rules_read(groups: tuple[Group, ...]) -> None:
    """A site that filters metrics finds all of them on the page, and none besides."""
    read = {
        name
        for group in groups
        for rule in group.rules
        for selector in selectors(promql_parser.parse(rule.expr))
        for name in metric_names(selector)
        if name.startswith("kube_")
    }
    assert set(re.findall(r"`(kube_\w+)`", PAGE)) == read | {"kube_pod_info"}


@pytest.mark.parametrize("name", ["kube-prometheus-stack", "gpu-operator"])
def test_values_parse_and_say_no_key_twice(name: str) -> None:
    """The blocks are YAML mappings of the charts' own top-level keys; a key that comes twice would lose the first."""
    (text,) = re.findall(rf"<!-- test: {name} -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert set(block(name)) <= {"kube-state-metrics", "prometheus", "dcgmExporter"}
    keys = [line.split(":")[0] for line in text.splitlines() if re.match(r" *[\w-]+:", line)]
    assert len(keys) == len(set(keys)) > 5
