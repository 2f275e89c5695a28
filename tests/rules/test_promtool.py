"""promtool accepts the rules, and every generated case passes on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuheal_rules.promtool import check_rules, run_tests

RULES = Path(__file__).resolve().parents[2] / "rules"
FILES = sorted((RULES / "promtool").glob("*.test.yaml"))


def test_promtool_accepts_the_rule_file_without_a_remark(promtool: str) -> None:
    """promtool 2.42 finds nothing to say about the rules, duplicates included."""
    assert check_rules(promtool, [RULES / "generated" / "gpuheal.rules.yaml"]) == ""


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name.partition(".")[0])
def test_every_case_of_an_alert_passes_on_promtool(file: Path, promtool: str) -> None:
    """The alert fires, stays quiet, holds and resolves as its generated cases say."""
    assert run_tests(promtool, [file]) == ""
