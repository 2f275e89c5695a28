"""Telemetry of real sites, rebuilt small: what fires, and above all what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.options import PROFILES, Options
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.render import build_groups, rule_file

SITES = sorted((Path(__file__).parent / "sites").glob("*.yaml"))
SLOW = {"spot-pool-ghosts-dilute-the-anomaly-breaker", "counters-csv-extended-constant-nvlink-counters-appear"}
"""Sites of many nodes or hours."""


def options_of(site: Path) -> Options:
    """What a site's rules are built with."""
    return Options(
        labels=PROFILES["Hostname" if site.stem.startswith("hostname-") else "target"],
        cluster_label="cluster" if site.stem.startswith("two-clusters-") else "",
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "site",
    [pytest.param(s, marks=pytest.mark.cluster if s.stem in SLOW else ()) for s in SITES],
    ids=lambda site: site.stem,
)
def test_a_site_is_told_what_is_wrong_and_nothing_else(
    site: Path, catalogue: Catalogue, promtool: str, tmp_path: Path
) -> None:
    """Exactly the expected alerts fire at each of the times the site asks for."""
    groups = build_groups(catalogue, options_of(site))
    (tmp_path / "rules.yaml").write_text(rule_file(groups))
    (tmp_path / site.name).write_text(site.read_text())
    assert run_tests(promtool, [tmp_path / site.name]) == ""


def test_every_site_asks_for_firing_alerts() -> None:
    """No site's expectation is a filler: each asks which alerts fire, at one time at least."""
    assert len(SITES) > 25
    for site in SITES:
        (test,) = yaml.safe_load(site.read_text())["tests"]
        assert any('ALERTS{alertstate="firing"' in query["expr"] for query in test["promql_expr_test"]), site.stem
        assert test["promql_expr_test"], site.stem
