"""Runbook pages promise what the generated policies do, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.special import MEANINGS, SPECIALS
from gpuheal_rules.policies import ACTIONS, SERVED

RULES = Path(__file__).resolve().parents[2] / "rules"
POLICIES = {
    path.stem: yaml.safe_load(path.read_text())["policies"] for path in (RULES / "generated/policies").glob("*")
}


def _steps(profile: str, slug: str) -> list[str]:
    for policy in POLICIES[profile]:
        if slug in policy["match"]["faults"]:
            return [next(iter(step)) if isinstance(step, dict) else step for step in policy["steps"]]
    return []


def _told(page: str) -> dict[str, list[str]]:
    """The steps by profile, as the table of the page says them."""
    section = page.partition("## What gpuheal does")[2].partition("## What to do")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    return {profile: steps.split(" → ") for steps, profiles in rows for profile in profiles.split(", ")}


def test_every_page_tells_the_steps_of_the_generated_policies(catalogue: Catalogue) -> None:
    """The table of a page names, for each profile, the steps its policy file has for the fault."""
    for fault, alert in catalogue.alerts():
        told = _told((RULES / "runbooks" / f"{alert.name}.md").read_text())
        assert told == {name: steps for name in POLICIES if (steps := _steps(name, fault.slug))}, alert.name


@pytest.mark.parametrize("rung", ["gpu_reset", "replace", "restart_services"])
def test_pages_say_which_rungs_are_for_people(rung: str, catalogue: Catalogue) -> None:
    """A rung of the usual ladder that no action exists for is said to be people's, on every page that names it."""
    assert rung not in {*ACTIONS, *SERVED}
    named = [alert for fault, alert in catalogue.alerts() if rung in fault.ladder]
    assert named
    for alert in named:
        page = (RULES / "runbooks" / f"{alert.name}.md").read_text()
        (line,) = [text for text in page.splitlines() if text.startswith("gpuheal has no action for ")]
        assert rung in line


def test_every_special_evidence_has_a_text() -> None:
    """A page says in words what evidence of several comparisons shows; no text is left over."""
    assert set(MEANINGS) == set(SPECIALS)
