"""The default policies are files the responder accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gpuheal_responder.actions import SPECS
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.core.mode import Mode
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.errors import ConfigError
from gpuheal_rules.policies import ACTIONS, files

FOLDER = Path(__file__).resolve().parents[2] / "rules" / "generated" / "policies"
PROFILES = ("conservative", "hgx-training", "inference", "nvl72", "single-gpu")


def test_there_is_a_file_for_every_profile() -> None:
    """The profiles of the contract have one committed file each, and there are no others."""
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(PROFILES)


def test_lint_and_runbooks_know_exactly_the_steps_that_have_an_executor() -> None:
    """What lint accepts as a step, and runbooks call an action, is what the responder registers."""
    assert set(SPECS) == ACTIONS


@pytest.mark.parametrize("profile", PROFILES)
def test_the_responder_reads_every_profile_and_it_begins_in_observe(profile: str, catalogue: Catalogue) -> None:
    """The responder's strict reader takes the file; no policy acts before a person changed its mode."""
    raw = yaml.safe_load((FOLDER / f"{profile}.yaml").read_text())
    policies = parse_policies(raw, file=f"{profile}.yaml", actions=SPECS, faults=frozenset(catalogue.faults))
    assert {policy.mode for policy in policies} == {Mode.OBSERVE}


@pytest.mark.parametrize("profile", ["conservative", "nvl72"])
def test_careful_profiles_hold_no_disruptive_step(profile: str) -> None:
    """The profiles conservative and nvl72 taint and tell only."""
    raw = yaml.safe_load((FOLDER / f"{profile}.yaml").read_text())
    names = {next(iter(s)) if isinstance(s, dict) else s for policy in raw["policies"] for s in policy["steps"]}
    assert not any(SPECS[name].disruptive for name in names)


def test_no_profile_acts_on_what_is_no_fault_of_the_hardware(catalogue: Catalogue) -> None:
    """Application errors, trends, suspects and degraded GPUs are in no default policy."""
    named = {
        slug
        for path in FOLDER.glob("*.yaml")
        for policy in yaml.safe_load(path.read_text())["policies"]
        for slug in policy["match"]["faults"]
    }
    assert all(catalogue.faults[slug].hardware for slug in named)
    assert not any(catalogue.faults[slug].state in ("suspect", "degraded") for slug in named)


def test_an_unknown_fault_is_refused_with_file_and_path(tmp_path: Path, catalogue: Catalogue) -> None:
    """A profile that names a fault the catalogue does not have is refused before anything is written."""
    bad = tmp_path / "policies.yaml"
    bad.write_text("ladders: {a: [taint]}\ngroups: {g: [gpu-on-fire]}\nprofiles: {}\n")
    with pytest.raises(ConfigError, match=r"policies.yaml: groups.g\[0\]: unknown fault 'gpu-on-fire'"):
        files(catalogue, bad)
