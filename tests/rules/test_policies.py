"""The default policies are files the responder accepts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gpuheal_responder.actions import SPECS
from gpuheal_responder.actions.taint import Params
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.phase import Phase
from gpuheal_rules.catalogue.model import TELLING, Catalogue
from gpuheal_rules.errors import ConfigError
from gpuheal_rules.policies import ACTIONS, CURES, MARKS, SERVED, files, profiles

FOLDER = Path(__file__).resolve().parents[2] / "rules" / "generated" / "policies"
PROFILES = ("conservative", "hgx-training", "inference", "nvl72", "single-gpu")


# Rungs that ladders have and the responder has no action for: people do them. An action that comes leaves this list.
PENDING = {"restart_services", "gpu_reset", "replace"}

# Profiles that leave a fault out, or stop every ladder before the first step that ends work.
WITHOUT = {"single-gpu": {"nvlink-fault", "nvswitch-fatal"}}
CAREFUL = {"conservative", "nvl72"}


def steps_of(profile: str, slug: str) -> list[str]:
    """Return the steps that the committed file of a profile takes for a fault."""
    raw = yaml.safe_load((FOLDER / f"{profile}.yaml").read_text())
    taking = [policy["steps"] for policy in raw["policies"] if slug in policy["match"]["faults"]]
    assert len(taking) <= 1, f"{slug} is in two policies of {profile}"
    return [next(iter(step)) if isinstance(step, dict) else step for steps in taking for step in steps]


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


@pytest.mark.parametrize("profile", PROFILES)
def test_no_default_policy_takes_a_step_that_the_ladder_does_not_allow(profile: str, catalogue: Catalogue) -> None:
    """What marks, empties or heals is a rung of the fault's ladder, in its order; the rest is telling and proof."""
    for slug, fault in catalogue.faults.items():
        acting = [name for name in steps_of(profile, slug) if SPECS[name].phase.rank <= Phase.CURE.rank]
        allowed = [SERVED[rung] for rung in fault.ladder if rung in SERVED]
        assert [name for name in acting if name != "condition"] == [a for a in dict.fromkeys(allowed) if a in acting]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_rung_that_has_an_action_is_served(profile: str, catalogue: Catalogue) -> None:
    """The ladder of a fault that is acted on is climbed as far as actions go, careful profiles up to the marks."""
    for slug, fault in catalogue.faults.items():
        found = steps_of(profile, slug)
        if not fault.acted_on or slug in WITHOUT.get(profile, ()):
            assert found == [], slug
            continue
        heals = profile not in CAREFUL and any(rung in SERVED and SERVED[rung] in CURES for rung in fault.ladder)
        served = {SERVED[rung] for rung in fault.ladder if rung in SERVED}
        wanted = served if heals else served & set(MARKS)  # a node is emptied for a cure only
        assert wanted | {"condition"} <= set(found), slug
        assert ({"verify", "probation", "restore"} <= set(found)) == heals, slug


def test_rungs_without_an_action_are_those_of_the_list(catalogue: Catalogue) -> None:
    """What the default policies leave out of the ladders is listed above: no action exists for it."""
    rungs = {rung for fault in catalogue.faults.values() for rung in fault.ladder} - set(TELLING)
    assert rungs - set(SERVED) == PENDING
    assert PENDING.isdisjoint(SPECS), "the responder has an action for it: put it into SERVED"
    assert not rungs & set(SPECS) - set(SERVED)


def test_a_ladder_that_begins_by_telling_people_is_left_to_them_and_to_the_site(catalogue: Catalogue) -> None:
    """No default policy takes such a fault, whatever its ladder allows beyond; the page says that a site's own may."""
    told = [fault for fault in catalogue.faults.values() if fault.ladder[0] in TELLING]
    assert {"taint", "cordon", "reboot"} <= {rung for fault in told for rung in fault.ladder}
    assert not any(steps_of(profile, fault.slug) for fault in told for profile in PROFILES)


def test_the_actions_of_rungs_are_what_the_responder_says_of_them() -> None:
    """Marks and cures by the responder's phases; `taint` serves the rung `cordon`: it cordons unless told not to."""
    assert all(SPECS[name].phase is Phase.CONTAIN and SPECS[name].marks for name in MARKS)
    assert {name for name in SERVED.values() if SPECS[name].phase is Phase.CURE} == set(CURES)
    assert Params().cordon


def test_a_new_fault_is_in_every_profile_by_its_ladder_alone(catalogue: Catalogue) -> None:
    """Nobody has to list it: it is contained where its ladder has no cure, and rebooted where it says so."""
    model = catalogue.faults["gpu-fell-off-bus"]
    new = {
        "gpu-on-fire": replace(model, slug="gpu-on-fire", ladder=("taint", "cordon", "replace")),
        "gpu-stuck": replace(model, slug="gpu-stuck", ladder=("taint", "cordon", "drain", "reboot")),
        "gpu-warm": replace(model, slug="gpu-warm", ladder=("alert", "taint")),
    }
    for profile in profiles(replace(catalogue, faults={**catalogue.faults, **new})):
        taken = {slug: policy["name"] for policy in profile.policies for slug in policy["match"]["faults"]}
        careful = profile.name in CAREFUL
        assert taken["gpu-on-fire"] == ("contain-and-tell" if careful else "contain-until-replaced")
        assert taken["gpu-stuck"] == ("contain-and-tell" if careful else "reboot-and-prove")
        assert "gpu-warm" not in taken


@pytest.mark.parametrize("profile", sorted(CAREFUL))
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


ONE = "profiles: {one: {about: x, climbs: %s, without: [%s], policies: [%s]}}"
ALL = "{name: a, cures: []}, {name: b, cures: [reboot]}"


@pytest.mark.parametrize(
    ("climbs", "without", "listed", "problem"),
    [
        ("cure", "gpu-on-fire", ALL, r"profiles.one.without\[0\]: expected one of gpu-memory-uncontained, "),
        ("cure", "gpu-thermal", ALL, r"profiles.one.without\[0\]: expected one of gpu-memory-uncontained, "),
        ("far", "", ALL, r"profiles.one.climbs: expected one of contain, cure, got 'far'"),
        (
            "cure",
            "",
            "{name: a, cures: []}",
            r"profiles.one.policies: no policy covers gpu-memory-uncontained .*reboot",
        ),
        ("contain", "", ALL, r"profiles.one.policies\[1\].cures: expected faults .* the same steps, got none"),
        ("cure", "", "{name: a, cures: [], with: {drain: {}}}, " + ALL[22:], r"policies\[0\].with.drain: unknown key"),
        ("cure", "", "{cures: []}, " + ALL[22:], r"profiles.one.policies\[0\].name: missing"),
    ],
)
def test_a_mistake_is_refused_with_file_and_path(
    tmp_path: Path, catalogue: Catalogue, climbs: str, without: str, listed: str, problem: str
) -> None:
    """A profile that forgets a fault, names one that is not acted on, or has an idle policy writes no file."""
    bad = tmp_path / "policies.yaml"
    bad.write_text(ONE % (climbs, without, listed))
    with pytest.raises(ConfigError, match="policies.yaml: .*" + problem):
        files(catalogue, bad)


def test_faults_of_one_policy_take_the_same_steps(tmp_path: Path, catalogue: Catalogue) -> None:
    """Two ladders with one cure and different rungs before it are not thrown together."""
    model = catalogue.faults["gpu-fell-off-bus"]
    undrained = replace(model, slug="gpu-odd", ladder=("taint", "cordon", "reboot"))
    path = tmp_path / "policies.yaml"
    path.write_text(ONE % ("cure", "", ALL))
    with pytest.raises(ConfigError, match=r"the same steps, got taint → condition → drain .*; taint → condition → reb"):
        files(replace(catalogue, faults={**catalogue.faults, "gpu-odd": undrained}), path)
