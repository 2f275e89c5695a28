"""What TOPOLOGIES.md says of rulers, shards, agents and storage, as far as it can be checked."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import promql_parser as pp
import pytest
import yaml
from tests.integration.webhook import Target
from tests.rules.profiles import EVENT, Rows, Scenario, asked, scenarios, shown, timed_test

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_lab.servers.stack import Prometheus, prometheus_config, wait_for
from gpuheal_rules.cases.world import Series
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.lint.flow import children
from gpuheal_rules.options import PROFILES, Options
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.promql.rule import Group
from gpuheal_rules.render import build_groups, rule_file

PAGE = (Path(__file__).resolve().parents[2] / "rules" / "TOPOLOGIES.md").read_text()
LATE = 7
"""Evaluations that a fact takes more where a result is seen at the next evaluation only."""

ALERTS = 'group by (alertname, node, gpu_uuid) (ALERTS{alertstate="firing", scope!="fleet"})'


def chosen(*names: str) -> list[Scenario]:
    """The scenarios of these nodes."""
    return [scenario for scenario in scenarios() if scenario.name in names]


def alerts_of(found: Sequence[Scenario]) -> Rows:
    """The alerts of these scenarios, and no other."""
    return {ALERTS: asked(found)[ALERTS]}


def test_a_ruler_that_shows_results_late_tells_the_same_a_little_later(
    groups: tuple[Group, ...], promtool: str, tmp_path: Path
) -> None:
    """In order an Xid fires at once; one evaluation late at every rule it takes seven, and nothing false fires."""
    main, slow = groups
    assert f"{LATE} evaluations more: 1m45s" in PAGE
    assert main.interval * LATE == timedelta(seconds=105)
    (tmp_path / "order.yaml").write_text(rule_file(groups))
    # Reversed, each rule sees of the others what they wrote at the evaluation before.
    late = replace(main, rules=tuple(reversed(main.rules)))
    (tmp_path / "late.yaml").write_text(rule_file((late, slow)))
    found = chosen("well", "xid", "with-xid", "lost", "with-lost")
    series = shown(PROFILES["target"], found)
    xids = [scenario for scenario in found if "xid" in scenario.name]
    nothing: Rows = {ALERTS: []}
    nvml = [scenario for scenario in found if scenario.name in {"with-xid", "xid", "with-lost"}]
    files = {
        "order": {EVENT - 1: nothing, EVENT: alerts_of(nvml), EVENT + 20: alerts_of(found)},
        "late": {
            EVENT + LATE - 2: nothing,
            EVENT + LATE - 1: alerts_of([one for one in nvml if one not in xids]),
            EVENT + LATE: alerts_of(nvml),
            EVENT + 20: alerts_of(found),
        },
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.test.yaml").write_text(timed_test(f"{name}.yaml", series, rows))
    assert run_tests(promtool, [tmp_path / f"{name}.test.yaml" for name in files]) == ""


def test_shards_by_target_miss_what_shards_by_node_have(
    groups: tuple[Group, ...], promtool: str, tmp_path: Path
) -> None:
    """Where a node's targets are scattered its exporters are said to be missing, and one witness stands alone."""
    (tmp_path / "rules.yaml").write_text(rule_file(groups))
    found = chosen("well", "with-lost")
    series = shown(PROFILES["target"], found)
    witnesses = 'group by (class) (gpuheal:fault_witness:last_seen_seconds{fault="gpu-fell-off-bus"})'

    def of_dcgm(one: Series) -> bool:
        return "dcgm" in one.labels["job"]

    rows = alerts_of(found)[ALERTS]
    missing = {"alertname": "GPUHealExporterMissing", "node": "well"}
    assert "GPUHealExporterMissing" in PAGE
    files: Mapping[str, tuple[list[Series], Rows]] = {
        "whole": (series, {ALERTS: rows, witnesses: [{"class": "dcgm"}, {"class": "nvml"}]}),
        "scattered": (
            [one for one in series if not of_dcgm(one)],
            {ALERTS: [*rows, missing], witnesses: [{"class": "nvml"}]},
        ),
    }
    for name, (part, expected) in files.items():
        (tmp_path / f"{name}.test.yaml").write_text(timed_test("rules.yaml", part, {EVENT + 50: expected}))
    assert run_tests(promtool, [tmp_path / f"{name}.test.yaml" for name in files]) == ""


def plain(rules: Sequence[Mapping[str, Any]], shard: int) -> list[dict[str, Any]]:
    """prometheus-operator's relabelings as Prometheus spells them."""

    def word(key: str) -> str:
        return re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", key)

    text = [{word(key): value for key, value in rule.items()} for rule in rules]
    return yaml.safe_load(yaml.safe_dump(text).replace("$(SHARD)", str(shard)))  # type: ignore[no-any-return]


@pytest.mark.servers
@pytest.mark.timeout(120)
def test_every_series_of_a_node_is_on_one_shard(tmp_path: Path) -> None:
    """With the page's relabelings a real Prometheus keeps targets and kube-state-metrics' series of a node together."""
    (text,) = re.findall(r"<!-- test: shards -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    page = yaml.safe_load(text)
    nodes = [f"node-{number}" for number in range(12)]
    ksm = "".join(f'kube_node_status_condition{{node="{node}"}} 1\n' for node in nodes) + "kube_other 1\n"
    with ExitStack() as targets:
        exporter = targets.enter_context(Target("shown 1\n")).address
        states = targets.enter_context(Target(ksm)).address
        scrape = []
        for shard in (0, 1):
            # What prometheus-operator appends: the hash of what the monitor put there, and this shard's part of it.
            own = [
                {"source_labels": ["__tmp_hash"], "modulus": 2, "target_label": "__tmp_hash", "action": "hashmod"},
                {
                    "source_labels": ["__tmp_hash", "__tmp_disable_sharding"],
                    "regex": f"{shard};|.+;.+",
                    "action": "keep",
                },
            ]
            scrape.append(
                {
                    "job_name": f"exporter-{shard}",
                    "static_configs": [
                        {"targets": [exporter], "labels": {"__meta_kubernetes_pod_node_name": node, "node": node}}
                        for node in nodes
                    ],
                    "relabel_configs": [*plain(page["exporters"], shard), *own],
                }
            )
            scrape.append(
                {
                    "job_name": f"ksm-{shard}",
                    "static_configs": [{"targets": [states]}],
                    "relabel_configs": [*plain(page["ksm"]["relabelings"], shard), *own],
                    "metric_relabel_configs": plain(page["ksm"]["metricRelabelings"], shard),
                }
            )
        made = ensure("prometheus", Generation(os.environ.get("GPUHEAL_GENERATION", "debian")))
        server = Prometheus(made, tmp_path / "prometheus", config=prometheus_config(scrape=scrape))
        server.start()
        try:
            wait_for(lambda: len(server.query("shown")) == len(nodes) or None, "all exporters", 60)
            wait_for(lambda: len(server.query("kube_node_status_condition")) == len(nodes) or None, "all states", 60)
            rows = server.query("shown or kube_node_status_condition")
            others = server.query("kube_other")
        finally:
            server.stop()
    shards: dict[str, set[str]] = {}
    for labels, _value in rows:
        shards.setdefault(labels["node"], set()).add(labels["job"][-1])
        assert "tmp_shard" not in labels
    assert sorted(shards) == sorted(nodes)
    assert {len(of_node) for of_node in shards.values()} == {1}
    assert set().union(*shards.values()) == {"0", "1"}
    assert len(others) == 2  # what speaks of no node is on every shard


class Beating(Target):
    """An exporter whose heartbeat moves with every scrape."""

    @property
    def text(self) -> str:
        self._beat = getattr(self, "_beat", 0) + 1
        return f"gpuheal_exporter_heartbeat_timestamp_seconds {self._beat}\n{self._page}"

    @text.setter
    def text(self, page: str) -> None:
        self._page = page


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_query_offset_moves_everything_by_itself(catalogue: Catalogue, tmp_path: Path) -> None:
    """A Prometheus with an offset of 5 s records as of 5 s ago, and a lost GPU raises its alert and no other."""
    second = timedelta(seconds=1)
    groups = build_groups(catalogue, Options(interval=second, scrape_interval=second))
    gpu = 'gpu_uuid="GPU-1",pci_bus_id="0000:1b:00"'
    page = f"""\
gpuheal_kmsg_up 1
gpuheal_nvml_up 1
gpuheal_gpu_info{{{gpu}}} 1
gpuheal_gpu_present{{{gpu}}} """
    with Beating(page + "1\n") as target:
        labels = {"node": "n1"}
        scrape = {"job_name": "gpuheal-exporter", "static_configs": [{"targets": [target.address], "labels": labels}]}
        config = yaml.safe_load(prometheus_config(scrape=[scrape]))
        config["global"]["rule_query_offset"] = "5s"
        server = Prometheus(
            ensure("prometheus", Generation.CURRENT),
            tmp_path / "prometheus",
            config=yaml.safe_dump(config),
            rules={"gpuheal.yml": rule_file(groups)},
        )
        server.start()
        try:
            wait_for(lambda: server.query("gpuheal:gpu_state == 0") or None, "a GPU that is well", 60)
            age = server.query('time() - timestamp(gpuheal:threshold{name="hold_seconds"})')
            target.text = page + "0\n"
            firing = 'ALERTS{alertstate="firing", alertname!="GPUHealWatchdog"}'
            wait_for(lambda: server.query(firing) or None, "the alert", 60)
            rows = server.query(firing)
        finally:
            server.stop()
    assert age[0][1] >= 5
    assert [(labels["alertname"], labels["gpu_uuid"]) for labels, _value in rows] == [("GPUFellOffBus", "GPU-1")]


@pytest.mark.parametrize("generation", ["debian", pytest.param("current", marks=pytest.mark.cluster)])
def test_an_agent_refuses_rules(generation: str, tmp_path: Path) -> None:
    """promtool refuses a configuration with rules as one of an agent, and takes it as one of a server."""
    (tmp_path / "rules.yml").write_text("groups: []\n")
    config = tmp_path / "prometheus.yml"
    config.write_text("rule_files: [rules.yml]\n")
    tool = str(ensure("promtool", Generation(generation)).path)

    def check(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [tool, "check", "config", *flags, str(config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert check().returncode == 0
    refused = check("--agent")
    assert refused.returncode != 0
    assert "rule_files" in refused.stdout + refused.stderr


def look_back(node: Any) -> timedelta:
    """How far back an expression reads."""
    own = timedelta(0)
    if isinstance(node, pp.MatrixSelector | pp.SubqueryExpr):
        own += node.range
    if isinstance(node, pp.VectorSelector | pp.SubqueryExpr) and node.offset is not None:
        own += node.offset
    return own + max((look_back(child) for child in children(node)), default=timedelta(0))


def test_no_rule_looks_back_further_than_the_page_says(groups: tuple[Group, ...]) -> None:
    """What the page asks to be kept is enough for every rule, and not much more than is needed."""
    longest = max(look_back(pp.parse(rule.expr)) for group in groups for rule in group.rules)
    assert "keep at least 25 hours" in PAGE
    assert timedelta(hours=24) <= longest <= timedelta(hours=25)


def test_every_alert_that_the_page_names_exists(catalogue: Catalogue) -> None:
    """Names of alerts on the page are those of the catalogue."""
    names = set(re.findall(r"\bGPUHeal\w+", PAGE))
    assert len(names) > 3
    assert names <= {alert.name for _fault, alert in catalogue.alerts()}
