"""A frozen exporter is seen at the scrape interval that the rules are built for, and at up to a minute in any case."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.options import Options
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.promql.rule import Group
from gpuheal_rules.render import build_groups, rule_file

FROZEN = "gpuheal:exporter_frozen:info"


@pytest.mark.parametrize(
    ("scraped", "built_for", "seen"),
    [(15, 15, True), (60, 15, True), (120, 120, True), (120, 15, False)],
)
def test_a_frozen_exporter_is_seen_at_the_interval_that_the_rules_know(
    scraped: int, built_for: int, seen: bool, catalogue: Catalogue, promtool: str, tmp_path: Path
) -> None:
    """A heartbeat that stands still is told after a few scrapes, one that moves never; what is scraped less often than
    each minute, without telling the rules, is not told.
    """
    main = build_groups(catalogue, Options(scrape_interval=timedelta(seconds=built_for)))[0]
    rules = tuple(rule for rule in main.rules if rule.name == FROZEN)
    (tmp_path / "rules.yaml").write_text(rule_file([Group(name="g", interval=main.interval, rules=rules)]))
    beat = "gpuheal_exporter_heartbeat_timestamp_seconds"
    series = [
        {"series": f'{beat}{{job="gpuheal-exporter", node="{node}"}}', "values": f"0+{step}x40"}
        for node, step in (("frozen", 0), ("well", scraped))
    ]
    test = {
        "interval": f"{scraped}s",
        "input_series": series,
        "promql_expr_test": [
            {
                "expr": f"count by (node) ({FROZEN})",
                "eval_time": f"{scraped * 30}s",
                "exp_samples": [{"labels": '{node="frozen"}', "value": 1}] if seen else [],
            }
        ],
    }
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [test]}
    (tmp_path / "frozen.test.yaml").write_text(yaml.safe_dump(document))
    assert run_tests(promtool, [tmp_path / "frozen.test.yaml"]) == ""
