"""What holds for all generated rules, whatever the catalogue says."""

from __future__ import annotations

import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.latch import APPENDED
from gpuheal_rules.lint.check import lint
from gpuheal_rules.options import PROFILES, Options
from gpuheal_rules.promql.rule import AlertRule, Group, Record
from gpuheal_rules.render import build_groups

RULES = Path(__file__).resolve().parents[2] / "rules"


def rules_of(groups: tuple[Group, ...]) -> list[Record | AlertRule]:
    """All rules in order."""
    return [rule for group in groups for rule in group.rules]


def calls(expr: str) -> list[str]:
    """Names of the functions an expression calls."""
    found: list[str] = []
    promql_parser.walk(
        promql_parser.parse(expr),
        lambda node: found.append(node.func.name) if isinstance(node, promql_parser.Call) else None,
    )
    return found


def test_no_rule_looks_for_a_change_of_an_xid(groups: tuple[Group, ...]) -> None:
    """A first Xid is a new series with a constant value, on which increase, rate and changes are silent."""
    for rule in rules_of(groups):
        if {"increase", "changes", "rate", "delta", "idelta", "irate"} & set(calls(rule.expr)):
            assert "xid" not in rule.expr.lower(), rule.name


def test_no_rule_reads_what_gpuheal_itself_writes_on_nodes(groups: tuple[Group, ...], catalogue: Catalogue) -> None:
    """Our own conditions and taints appear in no expression, or the system would believe its own words."""
    own = [*catalogue.labels.own_conditions, "gpu.health/"]
    assert [rule.name for rule in rules_of(groups) if any(word in rule.expr for word in own)] == []


def test_alert_labels_are_those_of_the_contract(groups: tuple[Group, ...], catalogue: Catalogue) -> None:
    """Static labels of alerts are of the contract, constant, and name the fault; nothing churning is among them."""
    for rule in rules_of(groups):
        if isinstance(rule, AlertRule):
            assert set(rule.labels) <= set(catalogue.labels.alert)
            assert rule.labels["fault"] in catalogue.faults
            assert not any("{{" in value for value in rule.labels.values())


def test_every_alert_has_a_runbook_page_and_links_to_it(groups: tuple[Group, ...]) -> None:
    """The runbook address ends in the alert's name, and the page of that name is committed."""
    pages = {path.stem for path in (RULES / "runbooks").glob("*.md")}
    names = {rule.name for rule in rules_of(groups) if isinstance(rule, AlertRule)}
    assert pages == names
    for rule in rules_of(groups):
        if isinstance(rule, AlertRule):
            assert rule.annotations["runbook_url"].endswith(f"/{rule.name}")


def test_confirmed_kernel_evidence_waits_for_nothing(catalogue: Catalogue) -> None:
    """Alerts of severe GPU faults have no `for`: they fire in the evaluation that sees the latch."""
    severe = [f for f in catalogue.faults.values() if f.state == "faulty" and f.scope == "gpu"]
    assert all(alert.wait.total_seconds() == 0 for fault in severe for alert in fault.alerts)


def test_the_counters_csv_holds_every_dcgm_field_the_rules_read_first(catalogue: Catalogue) -> None:
    """For every dcgm-exporter signal with counters its first metric name is in the CSV, once."""
    lines = (RULES / "generated" / "dcgm-counters.csv").read_text().splitlines()
    fields = [line.split(",")[0] for line in lines if line and not line.startswith("#")]
    assert len(set(fields)) == len(fields)
    assert all(len(line.split(",")) == 3 for line in lines if line and not line.startswith("#"))
    for signal in catalogue.signals.values():
        if signal.source == "dcgm" and signal.counters:
            assert signal.metrics[0] in fields


def test_our_own_linter_has_nothing_to_say_about_the_generated_files() -> None:
    """Portability, ranges, label flow and completeness hold for rules, runbooks, routes and policies."""
    assert lint([RULES / "generated", RULES / "runbooks"]) == []


@pytest.mark.parametrize("profile", ["Hostname", "hostname"])
def test_sites_without_a_node_label_take_the_exporters_host_name(profile: str, catalogue: Catalogue) -> None:
    """With these label profiles every rule that reads a dcgm-exporter series derives node from the host label."""
    found = rules_of(build_groups(catalogue, Options(labels=PROFILES[profile])))
    for rule in found:
        if re.search(r"DCGM_(FI|EXP)_", rule.expr) and "node_label" not in rule.name and "NodeLabel" not in rule.name:
            assert f'"node", "$1", "{profile}", "(.+)"' in rule.expr, rule.name


def test_the_generated_rules_name_what_other_parts_read() -> None:
    """The series the responder and dashboards rely on are recorded under exactly these names."""
    document = yaml.safe_load((RULES / "generated" / "gpuheal.rules.yaml").read_text())
    names = {rule.get("record") or rule["alert"] for group in document["groups"] for rule in group["rules"]}
    assert {
        "gpuheal:fault_witness:last_seen_seconds",
        "gpuheal:gpu_witnesses:count",
        "gpuheal:gpu_state",
        "gpuheal:gpu_identity",
        "gpuheal:threshold",
        "GPUFellOffBus",
        "GPUHealWatchdog",
    } <= names


@pytest.mark.parametrize(
    ("owner", "pods"),
    [
        ("web", ["web-6d4cf56db6-x7k2p", "web-x7k2p"]),
        ("train", ["train-0", "train-1", "train-12"]),
        ("train", ["train-worker-0", "train-worker-17", "train-master-0", "train-launcher-x7k2p", "train-launcher"]),
        ("js-workers", ["js-workers-0-3-abcde", "js-workers-1-0-fghij"]),
        ("lws", ["lws-0", "lws-0-1", "lws-3-7"]),
        ("sweep", ["sweep-4-x7k2p", "sweep-5-8kq2m", "sweep-28391234-8kq2m"]),
        ("job-a", ["job-a"]),
        ("7", ["7"]),
        ("worker", ["worker", "worker-2"]),
    ],
)
def test_pods_of_one_controller_have_one_owner(owner: str, pods: list[str]) -> None:
    """What Deployments, Jobs, StatefulSets, JobSets, LeaderWorkerSets and training operators append is left out."""
    assert {match[1] for pod in pods if (match := re.fullmatch(APPENDED, pod))} == {owner}
    assert all(re.fullmatch(APPENDED, pod) for pod in pods)
