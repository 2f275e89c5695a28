"""Every label profile sees the same: one fleet of faults, labelled as each profile says, raises the same alerts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.rules.profiles import Scenario, asked, node_of, promtool_test, scenarios, shown

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.lint.check import lint
from gpuheal_rules.options import PROFILES, Options
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.render import build_groups, rule_file


@pytest.mark.timeout(300)
@pytest.mark.parametrize("generation", ["debian", pytest.param("current", marks=pytest.mark.cluster)])
def test_every_profile_raises_the_same_alerts(generation: str, catalogue: Catalogue, tmp_path: Path) -> None:
    """Xids, losses, silent exporters and blanks are told alike wherever the node's name stands.

    Where the exporters give their pod's name for that of the node, the profile is of no use, and that is told.
    """
    files, found = [], list(scenarios())
    for name in ("target", "Hostname"):
        profile = PROFILES[name]
        (tmp_path / f"{name}.rules.yaml").write_text(rule_file(build_groups(catalogue, Options(labels=profile))))
        files.append(tmp_path / f"{name}.test.yaml")
        files[-1].write_text(promtool_test(f"{name}.rules.yaml", shown(profile, found), asked(found)))
    of = node_of("n")
    pods = [replace(s, labels={**s.labels, "Hostname": "pod"}) if "Hostname" in s.labels else s for s in of.series()]
    files.append(tmp_path / "misnamed.test.yaml")
    misnamed = Scenario(name="n", series=pods, alerts=frozenset({("GPUHealExporterMissing", None)}))
    rows = asked([misnamed], misnamed=True)
    files[-1].write_text(promtool_test("Hostname.rules.yaml", shown(profile, [misnamed]), rows))
    assert run_tests(str(ensure("promtool", Generation(generation)).path), files) == ""


def test_the_other_profiles_are_those_two_in_other_words(catalogue: Catalogue) -> None:
    """A profile that is not run through promtool differs from one that is by one label's name, and by nothing else."""
    text = {name: rule_file(build_groups(catalogue, Options(labels=profile))) for name, profile in PROFILES.items()}
    assert text["Hostname"].replace("Hostname", "hostname") == text["hostname"]
    assert text["target"].replace('"UUID"', '"uuid"') == text["old-namespace"]
    assert set(text) == {"target", "old-namespace", "Hostname", "hostname"}


def test_rules_of_every_profile_are_whole(catalogue: Catalogue, tmp_path: Path) -> None:
    """The linter has nothing to say about the rules of sites whose targets carry no node."""
    file = tmp_path / "rules.yaml"
    file.write_text(rule_file(build_groups(catalogue, Options(labels=PROFILES["Hostname"]))))
    assert lint([file]) == []
