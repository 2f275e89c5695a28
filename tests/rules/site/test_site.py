"""What the commands do with a site's file: build, check, lint and routes; the example, and kinds switched off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gpuheal_responder.errors import ConfigError as ResponderConfigError
from gpuheal_responder.shell.policies import fault_slugs, known_faults, read_policies
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.cli import main
from gpuheal_rules.lint.check import LintOptions, lint
from gpuheal_rules.options import Options
from gpuheal_rules.promql.promtool import check_rules
from gpuheal_rules.render import READ_OUTSIDE, build_groups, rule_file
from gpuheal_rules.site.limits import NEEDED
from gpuheal_rules.site.read import without

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "rules" / "site.example.yaml"
FAMILIES = sorted({fault.family for fault in load_catalogue().faults.values()})


def linted(folder: Path, off: frozenset[str]) -> list[str]:
    """Return what the linter finds in the rules without these kinds and alerts.

    Where `telemetry-missing` is off it rightly says that nobody is told of a source that is gone; a warning does too.
    """
    catalogue = without(load_catalogue(), off)
    (folder / "gpuheal.rules.yaml").write_text(rule_file(build_groups(catalogue, Options())))
    found = lint([folder], LintOptions(catalogue=catalogue))
    blind = {finding.check for finding in found} == {"registration"}
    assert blind is ("telemetry-missing" in off)
    return [str(finding) for finding in found if finding.check != "registration"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_linter_finds_nothing_dangling_when_a_family_is_switched_off(family: str, tmp_path: Path) -> None:
    """No selector without a rule, no join that lost its partner, no alert that is missing from the catalogue."""
    off = {f.slug for f in load_catalogue().faults.values() if f.family == family} - NEEDED.keys()
    assert linted(tmp_path, frozenset(off)) == []


def test_only_what_is_needed_is_left_when_everything_is_switched_off(tmp_path: Path) -> None:
    """The kinds that others rest on stand alone, and the linter has nothing to say of them."""
    off = frozenset(load_catalogue().faults) - NEEDED.keys()
    assert linted(tmp_path, off) == []


def test_the_example_builds_and_everything_in_it_is_whole(
    tmp_path: Path, promtool: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rules pass promtool and the linter, `check` agrees with `build`, and own faults have all that ours have."""
    arguments = ["--site", str(EXAMPLE), "--out", str(tmp_path)]
    assert main(["build", *arguments]) == 0
    assert main(["check", *arguments]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["lint", "--site", str(EXAMPLE), str(tmp_path / "generated"), str(tmp_path / "runbooks")]) == 0
    assert check_rules(promtool, [tmp_path / "generated" / "gpuheal.rules.yaml"]) == ""
    policies = yaml.safe_load((tmp_path / "generated" / "policies" / "conservative.yaml").read_text())["policies"]
    assert [p["name"] for p in policies if "site-coolant-leak" in p["match"]["faults"]] == ["contain-and-tell"]
    names = {path.stem for path in (tmp_path / "runbooks").iterdir()}
    assert {"GPUSiteCoolantLeak", "GPUSiteHotSpot"} <= names
    assert names.isdisjoint({"GPUECCTrend", "GPUHealStaleCase"})
    for path in tmp_path.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search("GPUECCTrend|GPUHealStaleCase|gpu-ecc-trend", text), path


def test_flags_override_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file says 30s and its own namespace; a flag beside it counts, and the rest of the file still does."""
    arguments = ["build", "--site", str(EXAMPLE), "--rules-only", "--namespace", "other", "--job", "dcgm=d"]
    assert main(arguments) == 0
    groups = yaml.safe_load(capsys.readouterr().out)["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert {alert["labels"]["namespace"] for alert in alerts} == {"other"}
    assert groups[0]["interval"] == "30s"
    exprs = " ".join(rule["expr"] for group in groups for rule in group["rules"])
    assert 'job=~"d"' in exprs
    assert 'job=~"gpuheal/gpuheal-exporter"' in exprs
    assert "nvidia-dcgm-exporter" not in exprs


def test_the_operators_objects_are_printed_as_the_file_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    """`--format prometheusrule` prints the same groups as objects in the site's namespace."""
    assert main(["build", "--site", str(EXAMPLE), "--rules-only"]) == 0
    plain = yaml.safe_load(capsys.readouterr().out)["groups"]
    assert main(["build", "--site", str(EXAMPLE), "--rules-only", "--format", "prometheusrule"]) == 0
    objects = list(yaml.safe_load_all(capsys.readouterr().out))
    assert {o["metadata"]["namespace"] for o in objects} == {"gpu-ops"}
    assert [group for o in objects for group in o["spec"]["groups"]] == plain


def test_routes_follow_the_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The routes match the site's namespace and name no alert that is switched off; a flag overrides the file."""
    site = tmp_path / "site.yaml"
    site.write_text("namespace: ops\ndisabled: [held, GPUHealNoLeader]\n")
    assert main(["alertmanager", "own", "--site", str(site)]) == 0
    text = capsys.readouterr().out
    assert "ops" in text
    assert not re.search("GPUHealHeld|GPUHealNoLeader", text)
    assert "GPUHealStaleCase" in text
    assert main(["alertmanager", "own", "--site", str(site), "--namespace", "more"]) == 0
    assert 'namespace="ops"' not in capsys.readouterr().out


def test_a_site_never_overwrites_the_files_of_all_sites(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --out a site's build and check are refused; every problem of a file is a line of its own."""
    for command in ("build", "check"):
        assert main([command, "--site", str(EXAMPLE)]) == 2
        assert "--out is required with --site" in capsys.readouterr().err


def test_a_bad_file_ends_every_command_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """build, check, lint and alertmanager say what is wrong with the file and do nothing."""
    site = tmp_path / "site.yaml"
    site.write_text("namespaces: x\nintervall: 1s\n")
    for command in (["build", "--rules-only"], ["check", "--out", "x"], ["lint"], ["alertmanager", "own"]):
        assert main([*command, "--site", str(site)]) == 2
        said = capsys.readouterr()
        assert "namespaces: unknown key (did you mean namespace?)" in said.err
        assert "intervall: unknown key (did you mean interval?)" in said.err
        assert said.out == ""


PANELS_OF_ALERTS = {
    "gpuheal:rack:new_bad_nodes",
    "gpuheal:fabric_domain:new_bad_nodes",
    "gpuheal:driver_version:new_bad_nodes",
    "gpuheal:gpu_counter:growth24h",
    "gpuheal:node_problem:info",
}
"""What some panels show of alerts that can be switched off; those panels are empty then."""


def test_what_is_read_outside_stays_whatever_is_switched_off() -> None:
    """Responder, exporters, dashboards and runbooks read no series of the rules that a switch could take away."""
    words = re.compile(r"gpuheal:[a-z_0-9]+(?::[a-z_0-9]+)?")
    boards = [*(ROOT / "dashboards" / "generated").glob("*.json")]
    files = [*(ROOT / "responder").rglob("*.py"), *boards, *(ROOT / "exporters").rglob("*.py")]
    read = {word for file in files for word in words.findall(file.read_text())} - PANELS_OF_ALERTS
    off = frozenset(load_catalogue().faults) - NEEDED.keys()
    left = {rule.name for g in build_groups(without(load_catalogue(), off), Options()) for rule in g.rules}
    made = {rule.name for group in build_groups(load_catalogue(), Options()) for rule in group.rules}
    assert made >= READ_OUTSIDE
    assert len(read & made) >= 3
    assert read & made <= left


def test_the_responder_takes_the_policies_and_the_alerts_of_own_faults(tmp_path: Path) -> None:
    """The generated policies declare the site's kinds, so that the responder knows them in policies and in alerts."""
    assert main(["build", "--site", str(EXAMPLE), "--out", str(tmp_path)]) == 0
    file = tmp_path / "generated" / "policies" / "conservative.yaml"
    (policy,) = read_policies([file])
    assert "site-coolant-leak" in policy.faults
    assert known_faults([file]) - fault_slugs() == {"site-coolant-leak", "site-gpu-hot-spot"}
    file.write_text(file.read_text().replace("- site-coolant-leak\n- site-gpu-hot-spot\n", "- Site/Leak\n", 1))
    with pytest.raises(ResponderConfigError, match=r"own_faults\[0\]: 'Site/Leak' is not a fault name"):
        read_policies([file])
    file.write_text(file.read_text().replace("own_faults:\n- Site/Leak\n", ""))
    with pytest.raises(ResponderConfigError, match="unknown fault 'site-coolant-leak'"):
        read_policies([file])
