"""The negative corpus: mistakes of public GPU rules, rewritten; each must be caught, and its right form must pass.

Every file holds a rule file (`groups`) with the mistake, the right form of the same idea (`good`), and the checks that
have to speak up (`expect`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_rules.lint.check import CHECKS, lint

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.yaml"))
CLASSES = {"S", "D", "U", "J", "P", "F", "K", "N", "R"}


def load(path: Path) -> dict[str, Any]:
    """One file of the corpus."""
    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return data


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_public_mistake_is_caught(path: Path) -> None:
    """The checks the file expects speak up about it, by name."""
    found = {finding.check for finding in lint([path])}
    assert set(load(path)["expect"]) <= found


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_right_form_is_not_accused_of_it(path: Path, tmp_path: Path) -> None:
    """The same idea written right passes these checks, so that they do not simply always speak up."""
    data = load(path)
    right = tmp_path / path.name
    right.write_text(yaml.safe_dump({"groups": data["good"]}, sort_keys=False), encoding="utf-8")
    findings = [finding for finding in lint([right]) if finding.check in data["expect"]]
    assert findings == []


def test_every_class_of_mistake_is_in_the_corpus() -> None:
    """Sticky, dead, unit, join, presence, fail-open, keep-last, noise and registration each have an example."""
    assert {load(path)["class"] for path in CORPUS} >= CLASSES


def test_every_check_of_single_files_has_an_example() -> None:
    """No check exists that nothing proves; those of configurations and of several clusters are proven elsewhere."""
    proven = {check for path in CORPUS for check in load(path)["expect"]}
    assert set(CHECKS) - proven == {"cluster", "inhibit", "read", "route"}


def test_every_file_says_what_goes_wrong() -> None:
    """Each example carries a sentence on what happens to people who use it."""
    assert all(load(path)["about"].endswith(".") for path in CORPUS)
