"""Cases for a site: what it changed and added is tried with its numbers, on promtool of both generations."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_rules.cases.site import LONGEST_WAIT, RULES, site_files
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.cli import main
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.site.read import read_site

EXAMPLE = Path(__file__).resolve().parents[3] / "rules" / "site.example.yaml"


def files_of(folder: Path, text: str) -> dict[str, str]:
    """Return the rule file and the cases of a site with this file."""
    file = folder / "site.yaml"
    file.write_text(text)
    return site_files(read_site(file).catalogue, load_catalogue())


def names(files: dict[str, str]) -> str:
    """Return the names of all cases."""
    tests = [test for name, text in files.items() if name != RULES for test in yaml.safe_load(text)["tests"]]
    return "\n".join(test["name"] for test in tests)


def test_what_a_site_leaves_alone_needs_no_cases(tmp_path: Path) -> None:
    """Without a change there is only the healthy node, which every site has."""
    assert set(files_of(tmp_path, "namespace: ops")) == {RULES, "quiet.test.yaml"}


@pytest.mark.parametrize(
    ("text", "family", "said"),
    [
        ("alerts: {GPUFellOffBus: {for: 1m}}", "bus", "GPUFellOffBus"),
        ("alerts: {GPUHealHeld: {severity: info}}", "own", "GPUHealHeld"),
        ("thresholds: {temperature_leave_celsius: 80}", "thermal", "GPUThermal"),
        ("thresholds: {nvlink_errors_per_hour: 7}", "link", "NVLinkDegraded"),
    ],
)
def test_what_a_site_changes_is_tried(text: str, family: str, said: str, tmp_path: Path) -> None:
    """An alert or a number that differs brings the cases of its fault, and of no other."""
    files = files_of(tmp_path, text)
    assert set(files) == {RULES, "quiet.test.yaml", f"{family}.test.yaml"}
    assert said in names({family: files[f"{family}.test.yaml"]})


def test_numbers_of_a_site_are_in_its_cases(tmp_path: Path) -> None:
    """The value at the limit, on the quiet side of it, is the site's."""
    assert "is quiet at the value 89," in names(files_of(tmp_path, "thresholds: {temperature_enter_celsius: 89}"))


def test_what_is_off_is_asked_of_no_case(tmp_path: Path) -> None:
    """Neither the node's own alert nor the one that is switched off stands in a case."""
    text = "disabled: [node-not-ready, gpu-slow]\nalerts: {GPUHealExporterDown: {for: 1m}}\n"
    files = files_of(tmp_path, text)
    assert "pipeline.test.yaml" in files
    assert all("GPUNodeNotReady" not in body and "GPUSlow" not in body for body in files.values())


def test_an_alert_that_a_site_lets_fire_at_once_is_asked_of_no_time_before_the_first(tmp_path: Path) -> None:
    """Cases that begin with the wait have nothing to ask one evaluation earlier."""
    names = ("GPUHealExporterMissing", "GPUHealRoundsFail", "GPUHealNodeLabelMissing")
    text = "\n".join(f"  {name}: {{for: 0s}}" for name in names)
    files = files_of(tmp_path, f"alerts:\n{text}\n")
    assert {"pipeline.test.yaml", "own.test.yaml"} <= set(files)
    assert not any("eval_time: -" in body for body in files.values())


def test_an_alert_that_waits_long_has_no_cases(tmp_path: Path) -> None:
    """A wait of an hour would take promtool minutes; the knob is tested without it."""
    assert LONGEST_WAIT.total_seconds() == 1800
    assert set(files_of(tmp_path, "alerts: {GPUThermal: {for: 31m}}")) == {RULES, "quiet.test.yaml"}
    assert "thermal.test.yaml" in files_of(tmp_path, "alerts: {GPUThermal: {for: 30m}}")


@pytest.mark.servers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("generation", [Generation("debian"), Generation("current")], ids=str)
def test_the_example_passes_its_check_with_promtool(
    generation: Generation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check --site --promtool` runs the example's cases, own faults included; a wrong number in the rules fails it."""
    arguments = ["--site", str(EXAMPLE), "--out", str(tmp_path)]
    promtool = str(ensure("promtool", generation).path)
    assert main(["build", *arguments]) == 0
    made = {path.name for path in (tmp_path / "promtool").iterdir()}
    assert made == {RULES, *(f"{family}.test.yaml" for family in ("pipeline", "quiet", "site", "thermal"))}
    assert main(["check", *arguments, "--promtool", promtool]) == 0, capsys.readouterr().err


def test_a_threshold_that_a_healthy_node_passes_fails_its_cases(tmp_path: Path, promtool: str) -> None:
    """A limit below what a healthy GPU shows is possible; promtool names the alert that fires then."""
    files = files_of(tmp_path, "thresholds: {memory_temperature_celsius: 40}")
    for name in (RULES, "quiet.test.yaml"):
        (tmp_path / name).write_text(files[name])
    said = run_tests(promtool, [tmp_path / "quiet.test.yaml"])
    assert "GPUThermal" in said
