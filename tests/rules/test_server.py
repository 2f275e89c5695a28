"""The rules in a real Prometheus: what each costs, and what a restart leaves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from tests.bench.bench_rules import GPUS_PER_NODE, prometheus, samples_by_rule

from gpuheal_lab.servers.stack import Prometheus, wait_for
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.options import Options
from gpuheal_rules.render import build_groups

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

NODES = 16
MOST_PER_GPU = 5.0
"""Samples one rule may read per GPU and evaluation; DCGM's identity reads two fields and itself thrice."""
ALL_PER_GPU = 40.0
"""Samples all rules together may read per GPU and evaluation."""
FIXED, ALL_FIXED = 64, 10
"""Samples that one rule, and the average rule, may read whatever the fleet's size."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has evaluated the rules on a fleet of 128 GPUs for a while."""
    with prometheus(tmp_path_factory.mktemp("prometheus"), NODES, 1) as running:
        wait_for(lambda: running.query("gpuheal:node_score") or None, "node scores", 60)
        yield running


def test_no_rule_reads_more_samples_than_its_budget(server: Prometheus) -> None:
    """The samples Prometheus counts per expression stay within a budget per GPU, for each rule and for all together."""
    second = timedelta(seconds=1)
    groups = build_groups(load_catalogue(), Options(interval=second, scrape_interval=second))
    samples = samples_by_rule(server, groups)
    gpus = NODES * GPUS_PER_NODE
    over = {name: count for name, count in samples.items() if count > FIXED + MOST_PER_GPU * gpus}
    assert over == {}
    # What is evaluated more seldom costs less.
    often = {group.name: Options().interval / group.interval for group in build_groups(load_catalogue(), Options())}
    cost = sum(count * often[name.partition("/")[0]] for name, count in samples.items())
    assert cost <= ALL_PER_GPU * gpus + ALL_FIXED * len(samples)


def test_no_rule_fails(server: Prometheus) -> None:
    """Every rule of every group is healthy on the server; a failing rule would resolve its alerts falsely."""
    groups = server.get("/api/v1/rules")["data"]["groups"]
    assert [rule["name"] for group in groups for rule in group["rules"] if rule.get("lastError")] == []
    assert sum(len(group["rules"]) for group in groups) > 200


def test_a_latch_fires_again_at_once_after_a_restart_and_stays_one_alert(server: Prometheus) -> None:
    """After a clean restart the same alert instances fire, with the same labels, from the latch alone."""

    def firing() -> set[tuple[tuple[str, str], ...]]:
        rows = server.query('ALERTS{alertstate="firing", alertname!="GPUHealWatchdog"}')
        return {tuple(sorted(labels.items())) for labels, _value in rows}

    before = wait_for(lambda: firing() or None, "a firing alert", 30)
    assert before is not None
    assert {dict(labels)["alertname"] for labels in before} == {"GPURowRemapPending"}
    server.restart()
    assert wait_for(lambda: firing() or None, "the alert after the restart", 30) == before
