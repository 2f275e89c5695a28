"""promtool accepts the rules, and every generated case passes on it, for both generations."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_rules.promql.promtool import check_rules, run_tests

RULES = Path(__file__).resolve().parents[2] / "rules"
FILES = sorted((RULES / "promtool").glob("*.test.yaml"))
GENERATIONS = ["debian", pytest.param("current", marks=pytest.mark.cluster)]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_promtool_accepts_the_rule_file_without_a_remark(generation: str) -> None:
    """promtool finds nothing to say about the rules, duplicates included."""
    promtool = str(ensure("promtool", Generation(generation)).path)
    assert check_rules(promtool, [RULES / "generated" / "gpuheal.rules.yaml"]) == ""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name.partition(".")[0])
def test_every_case_passes_on_promtool(file: Path, generation: str) -> None:
    """Alerts fire, stay quiet, hold and resolve as the cases of this family say."""
    assert run_tests(str(ensure("promtool", Generation(generation)).path), [file]) == ""
