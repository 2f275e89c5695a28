"""Label flow: which labels an expression's series can have, and by which they are unique."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from gpuheal_rules.lint.flow import Flow, Shape, number, selectors
from gpuheal_rules.lint.source import Rule, parse, read


def rule(name: str, expr: str, **labels: str) -> Rule:
    """A recording rule."""
    tree, problem = parse(expr)
    assert tree is not None, problem
    return Rule(
        file="f",
        group="g",
        index=0,
        interval=timedelta(seconds=15),
        name=name,
        alert=False,
        expr=expr,
        tree=tree,
        problem="",
        labels=labels,
        annotations={},
        wait=timedelta(0),
    )


RULES = [
    rule("gpuheal:temp:max", "max by (node, gpu_uuid) (DCGM_FI_DEV_GPU_TEMP)"),
    rule("gpuheal:rack:info", "topk by (node) (1, max by (node, rack) (info))"),
    rule("gpuheal:signal:max", "max by (node) (a)", signal="a"),
    rule("gpuheal:signal:max", "max by (node) (b)", signal="b"),
    rule("gpuheal:known:info", "gpuheal:temp:max * 0 + 1 or last_over_time(gpuheal:known:info[1h])"),
    rule("gpuheal:grows:info", "max by (node) (a) or label_replace(gpuheal:grows:info, 'rack', '$1', 'node', '(.+)')"),
    rule("gpuheal:ring_a:info", "gpuheal:ring_b:info"),
    rule("gpuheal:ring_b:info", "gpuheal:ring_a:info or max by (node) (a)"),
]


def shape(expr: str) -> Shape:
    """The shape of an expression over RULES."""
    tree, problem = parse(expr)
    assert tree is not None, problem
    return Flow(RULES).shape(tree)


@pytest.mark.parametrize(
    ("expr", "labels"),
    [
        ("sum by (node) (x)", "node"),
        ("sum(x)", ""),
        ("vector(1)", ""),
        ("gpuheal:temp:max", "node gpu_uuid"),
        ("rate(gpuheal:temp:max[5m])", "node gpu_uuid"),
        ("sum without (gpu_uuid) (gpuheal:temp:max)", "node"),
        ("gpuheal:temp:max > 3", "node gpu_uuid"),
        ("3 * gpuheal:temp:max", "node gpu_uuid"),
        ("gpuheal:temp:max and on (node) x", "node gpu_uuid"),
        ("gpuheal:temp:max unless on (node) x", "node gpu_uuid"),
        ("gpuheal:temp:max * on (node) group_left (rack) gpuheal:rack:info", "node gpu_uuid rack"),
        ("gpuheal:rack:info * on (node) group_right (rack) gpuheal:temp:max", "node gpu_uuid rack"),
        ("gpuheal:rack:info - on (node) gpuheal:rack:info", "node"),
        ("gpuheal:temp:max - ignoring (gpu_uuid) sum by (node) (x)", "node"),
        ("label_replace(gpuheal:temp:max, 'gpu', '$1', 'gpu_uuid', '(.+)')", "node gpu_uuid gpu"),
        ("label_join(gpuheal:temp:max, 'id', '/', 'node', 'gpu_uuid')", "node gpu_uuid id"),
        ("count_values by (node) ('version', x)", "node version"),
        ("topk by (node) (1, gpuheal:temp:max)", "node gpu_uuid"),
        ("absent(up{job='a', instance=~'b.*'})", "job"),
        ("gpuheal:signal:max", "node signal"),
        ("sum by (node) (x) or vector(0)", "node"),
        ("gpuheal:known:info", "node gpu_uuid"),
        ("gpuheal:grows:info", "node rack"),
        ("-gpuheal:temp:max", "node gpu_uuid"),
        ("max_over_time(gpuheal:temp:max[1h:1m])", "node gpu_uuid"),
        ("gpuheal:temp:max offset 5m", "node gpu_uuid"),
    ],
)
def test_labels_of_an_expression(expr: str, labels: str) -> None:
    """Aggregations, joins, functions and recording rules keep, add and drop exactly these labels."""
    found = shape(expr)
    assert found.closed
    assert found.names == frozenset(labels.split())


@pytest.mark.parametrize("expr", ["x", "rate(x[5m])", "x and y", "gpuheal:temp:max or x", "sum without (pod) (x)"])
def test_raw_metrics_are_open(expr: str) -> None:
    """Nothing is known about all labels of a raw metric, so any label may be there."""
    assert not shape(expr).closed
    assert shape(expr).may_have("anything")


def test_a_label_taken_off_is_gone() -> None:
    """without() takes a label off even where the others are not known."""
    found = shape("sum without (pod) (x)")
    assert not found.may_have("pod")
    assert found.may_have("node")


@pytest.mark.parametrize(
    ("expr", "labels"),
    [
        ("max by (node) (x)", "node"),
        ("gpuheal:temp:max", "node gpu_uuid"),
        ("gpuheal:rack:info", "node"),
        ("gpuheal:signal:max", "node signal"),
        ("gpuheal:signal:max{signal='a'}", "node"),
        ("gpuheal:temp:max{node='n1'}", "gpu_uuid"),
        ("vector(1)", ""),
        ("gpuheal:rack:info + on (node) max by (node) (x)", "node"),
        ("gpuheal:temp:max or on (node, gpu_uuid) gpuheal:temp:max * 2", "node gpu_uuid"),
        ("sum without (gpu_uuid) (gpuheal:temp:max)", "node"),
    ],
)
def test_what_makes_series_unique(expr: str, labels: str) -> None:
    """Aggregations and topk 1 make series unique by their labels; a matcher on a value takes its label out."""
    assert shape(expr).unique == frozenset(labels.split())


@pytest.mark.parametrize("expr", ["x", "gpuheal:temp:max or gpuheal:rack:info", "topk by (node) (2, x)"])
def test_what_is_not_known_to_be_unique(expr: str) -> None:
    """Raw metrics, mixed unions and larger topk may hold several series per label combination."""
    assert shape(expr).unique is None


def test_rules_in_a_circle_end() -> None:
    """Rules that read each other in a ring are followed to an end, with the labels they can have."""
    assert shape("gpuheal:ring_a:info").names <= {"node"}
    assert shape("gpuheal:ring_b:info").names == {"node"}


def test_a_label_matcher_says_the_label_is_there() -> None:
    """A matcher that no empty value passes makes the label certain."""
    found = shape("x{node!='', rack='r1', zone=~'.+', gone=''}")
    assert found.certain == {"node", "rack", "zone"}
    assert not found.may_have("gone")


@pytest.mark.parametrize(
    ("expr", "value"),
    [("2", 2.0), ("-2", -2.0), ("(3 * 4)", 12.0), ("2 ^ 3 - 1", 7.0), ("6 / 4", 1.5), ("1 / 0", None), ("x", None)],
)
def test_numbers_are_computed(expr: str, value: float | None) -> None:
    """Arithmetic of numbers is a number; anything with a series is none."""
    assert number(parse(expr)[0]) == value


def test_selectors_are_found_everywhere() -> None:
    """Selectors in functions, windows, joins and parameters are all seen."""
    tree, _ = parse("sum(rate(a[5m])) / on () (b and max_over_time(c[1h:1m])) > scalar(d)")
    assert [selector.name for selector in selectors(tree)] == ["a", "b", "c", "d"]


def test_generated_rules_are_closed() -> None:
    """Every series our rules record has a known, closed set of labels: nothing of an exporter leaks through."""
    sources = read([Path(__file__).parents[3] / "rules" / "generated" / "gpuheal.rules.yaml"])
    flow = Flow(sources.rules)
    assert [one.where for one in sources.rules if not flow.rule_shape(one).closed] == []


def test_the_contract_series_carry_the_contract_labels() -> None:
    """The series the responder reads have exactly the labels it was promised."""
    sources = read([Path(__file__).parents[3] / "rules" / "generated" / "gpuheal.rules.yaml"])
    flow = Flow(sources.rules)
    promised = {
        "gpuheal:fault_witness:last_seen_seconds": {"node", "gpu_uuid", "fault", "class", "strength"},
        "gpuheal:gpu_witnesses:count": {"node", "gpu_uuid", "fault"},
        "gpuheal:gpu_state": {"node", "gpu_uuid"},
        "gpuheal:gpu_identity": {"node", "gpu_uuid", "pci_bus_id", "source"},
        "gpuheal:threshold": {"name"},
    }
    for name, labels in promised.items():
        tree, _ = parse(name)
        assert flow.shape(tree).names == labels, name


def test_files_are_told_apart_by_content(tmp_path: Path) -> None:
    """Rules, objects and configurations are recognised whatever the file is called; broken ones become findings."""
    group = {"name": "g", "rules": [{"record": "a:b:c", "expr": "1"}]}
    (tmp_path / "a.yml").write_text(yaml.safe_dump({"groups": [group]}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"kind": "PrometheusRule", "spec": {"groups": [group]}}))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"route": {"receiver": "x"}, "receivers": [{"name": "x"}]}))
    (tmp_path / "d.yaml").write_text("{")
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [{"expr": "1"}, 7]}, 3]}))
    (tmp_path / "f.test.yaml").write_text("{")
    sources = read([tmp_path, tmp_path / "missing"])
    assert [one.name for one in sources.rules] == ["a:b:c", "a:b:c"]
    assert [document.kind for document in sources.documents] == ["alertmanager"]
    assert [Path(finding.file).name for finding in sources.broken] == [
        "d.yaml",
        "e.yaml",
        "e.yaml",
        "e.yaml",
        "missing",
    ]
    assert {finding.check for finding in sources.broken} == {"read"}
