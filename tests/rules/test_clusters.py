"""Several clusters under one ruler: nothing of one is ever taken for something of another with equal names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.rules.profiles import asked, promtool_test, scenarios, shown

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_rules.cases.world import Series
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.lint.check import LintOptions, lint
from gpuheal_rules.options import PROFILES, Options
from gpuheal_rules.promql.cluster import keeping
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.render import build_groups, rule_file, to_yaml

CASES = Path(__file__).resolve().parents[2] / "rules" / "promtool"
LABEL = "cluster"
PAIRS = [("fleet", "own")]
"""Families of committed cases; cases of a pair stand on nodes of equal names, with GPUs of equal UUIDs."""

_SELECTOR = re.compile(r"(?<![\w:])(ALERTS|up|gpuheal[:_]\w[\w:]*|kube_\w+)(\{)?")
_TEXT = re.compile(r'("[^"]*")')


def rules_of(catalogue: Catalogue, folder: Path, profile: str = "target") -> Path:
    """The rules of a ruler over several clusters, as a file."""
    file = folder / "clusters.rules.yaml"
    file.write_text(rule_file(build_groups(catalogue, Options(cluster_label=LABEL, labels=PROFILES[profile]))))
    return file


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("sum(a)", "sum by (c) (a)"),
        ("sum (a) > 1", "sum by (c) (a) > 1"),
        ("max by (node) (a)", "max by (c, node) (a)"),
        ("max(a) by (node)", "max(a) by (c, node)"),
        ("count by () (a)", "count by (c) (a)"),
        ("a and on () b", "a and on (c) b"),
        ("a * on (node) group_left (rack) b", "a * on (c, node) group_left (rack) b"),
        ("a > scalar(max(b) and on () d)", "a > scalar(max(b) and on () d)"),
        ('label_replace(a{b="max(x) on ()"}, "d", "by (e)", "f", "")', None),
        ("sum(count by (c, node) (a))", "sum by (c) (count by (c, node) (a))"),
        ("sum_over_time(a[5m]) or group_x or on", None),
    ],
)
def test_the_label_is_added_to_groupings_and_matchings_only(expr: str, said: str | None) -> None:
    """Texts, functions, scalars and names that look alike stay as they are."""
    assert keeping(expr, "c") == (said or expr)


@pytest.mark.parametrize("profile", ["target", "Hostname"])
def test_no_rule_loses_the_cluster(profile: str, catalogue: Catalogue, tmp_path: Path) -> None:
    """The linter, which reads the parsed rules, finds the label in every aggregation and every match."""
    assert lint([rules_of(catalogue, tmp_path, profile)], LintOptions(cluster_label=LABEL)) == []


@pytest.mark.parametrize(
    ("expr", "problem"),
    [
        ("sum(up)", "puts all clusters together"),
        ("max without (cluster, node) (up)", "puts all clusters together"),
        ("up and on (node) kube_node_info", "matches across clusters"),
        ("up and ignoring (cluster) kube_node_info", "matches across clusters"),
        ("up > scalar(kube_node_info)", "is no number as soon as"),
        ("up and on (cluster) vector(1)", "is of no cluster"),
        ("absent(up)", "missing in every cluster"),
        ('label_replace(up, "cluster", "x", "", "")', "writes the label cluster"),
    ],
)
def test_the_linter_finds_a_rule_that_loses_the_cluster(expr: str, problem: str, tmp_path: Path) -> None:
    """Each way to lose the label is a finding of its own; without --cluster-label nothing is said of clusters."""
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [{"record": "a:b:c", "expr": expr}]}]}))
    found = [one.problem for one in lint([file], LintOptions(cluster_label=LABEL)) if one.check == "cluster"]
    assert [problem in one for one in found] == [True]
    assert [one for one in lint([file]) if one.check == "cluster"] == []


@pytest.mark.parametrize("name", ["node", "gpu-cluster", "", "alertname", "__name__"])
def test_a_label_that_cannot_tell_clusters_apart_is_refused(name: str) -> None:
    """A label with a meaning of its own, or one that is none, is an error that names it; no label is no error."""
    if not name:
        assert Options(cluster_label=name) == Options()
        return
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        Options(cluster_label=name)


def of_cluster(cluster: str, series: Series) -> Series:
    """The series as the ruler sees it."""
    return replace(series, labels={**series.labels, LABEL: cluster})


@pytest.mark.timeout(300)
@pytest.mark.parametrize("generation", ["debian", pytest.param("current", marks=pytest.mark.cluster)])
def test_clusters_with_equal_node_names_do_not_mix(generation: str, catalogue: Catalogue, tmp_path: Path) -> None:
    """Each node name stands for another fault in either cluster, and each cluster raises exactly its own alerts."""
    here = list(scenarios())
    names = [scenario.name for scenario in here]
    there = list(scenarios(dict(zip(names, [*names[1:], names[0]], strict=True)).__getitem__))
    series: list[Series] = []
    expected: dict[str, list[dict[str, str]]] = {}
    for cluster, found in (("a", here), ("b", there)):
        series += [of_cluster(cluster, one) for one in shown(PROFILES["target"], found)]
        for expr, rows in asked(found).items():
            rows = [{LABEL: cluster, **row} for row in rows]
            expected.setdefault(expr.replace("group by (", f"group by ({LABEL}, "), []).extend(rows)
    file = tmp_path / "clusters.test.yaml"
    file.write_text(promtool_test(rules_of(catalogue, tmp_path).name, series, expected))
    assert run_tests(str(ensure("promtool", Generation(generation)).path), [file]) == ""


def selecting(expr: str, cluster: str) -> str:
    """The query asked of one cluster, which its result names."""

    def one(match: re.Match[str]) -> str:
        return f'{match[1]}{{{LABEL}="{cluster}"' + (", " if match[2] else "}")

    parts = _TEXT.split(keeping(expr, LABEL))
    return "".join(part if part.startswith('"') else _SELECTOR.sub(one, part) for part in parts)


def with_label(series: str, cluster: str) -> str:
    """A series in promtool's notation, with the label."""
    name, _brace, rest = series.partition("{")
    return f'{name}{{{LABEL}="{cluster}"' + (f", {rest}" if rest.strip("} ") else "}")


def part(test: dict[str, Any], cluster: str) -> dict[str, Any]:
    """The input and the queries of a committed test, as those of one cluster."""
    return {
        "input_series": [{**s, "series": with_label(s["series"], cluster)} for s in test["input_series"]],
        "promql_expr_test": [
            {
                **query,
                "expr": selecting(query["expr"], cluster),
                "exp_samples": [{**s, "labels": with_label(s["labels"], cluster)} for s in query["exp_samples"]],
            }
            for query in test.get("promql_expr_test", [])
        ],
    }


def together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two tests as one, the first in cluster a and the second in b; alerts are asked for only where both are one."""
    halves = [part(first, "a"), part(second, "b")]
    found: dict[str, Any] = {"interval": first["interval"]}
    for key in ("input_series", "promql_expr_test"):
        found[key] = [one for half in halves for one in half[key]]
    if first is second and "alert_rule_test" in first:
        found["alert_rule_test"] = [
            {
                **alert,
                "exp_alerts": [
                    {**one, "exp_labels": {**one["exp_labels"], LABEL: cluster}}
                    for cluster in ("a", "b")
                    for one in alert["exp_alerts"]
                ],
            }
            for alert in first["alert_rule_test"]
            if alert["alertname"] != "GPUHealWatchdog"
        ]
    return found


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_committed_cases_hold_beside_those_of_another_cluster(
    pair: tuple[str, str], catalogue: Catalogue, promtool: str, tmp_path: Path
) -> None:
    """Cases of two families on nodes of equal names, and cases of a whole fleet twice, give what they give alone."""
    documents = [yaml.safe_load((CASES / f"{family}.test.yaml").read_text()) for family in pair]
    of_nodes = [[test for test in one["tests"] if "alert_rule_test" not in test] for one in documents]
    tests = [together(*two) for two in zip(*of_nodes, strict=False)]
    tests += [together(test, test) for one in documents for test in one["tests"] if "alert_rule_test" in test]
    assert len(tests) > 1
    file = tmp_path / "pair.test.yaml"
    whole = {"rule_files": [rules_of(catalogue, tmp_path).name], "evaluation_interval": "15s", "tests": tests}
    file.write_text(to_yaml(whole))
    assert run_tests(promtool, [file]) == ""
