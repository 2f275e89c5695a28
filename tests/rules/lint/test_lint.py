"""`gpuheal rules lint` as a whole: our rules are clean, mistakes put into them are found, the command line is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.lint.check import CHECKS, CONTRACT_CHECKS, LintOptions, lint, main
from gpuheal_rules.lint.rules import ALERT_LABELS, OWN_CONDITIONS
from gpuheal_rules.routes.alertmanager import PEOPLE_ONLY_ALERTS

ROOT = Path(__file__).parents[3] / "rules"
GENERATED = ROOT / "generated" / "gpuheal.rules.yaml"
CORPUS = Path(__file__).parent / "corpus"


def test_our_generated_files_are_clean() -> None:
    """Rules, objects and the three Alertmanager forms have no finding at all."""
    paths = [path for path in (ROOT / "generated", ROOT / "runbooks") if path.is_dir()]
    assert [str(finding) for finding in lint(paths)] == []


def test_alerts_kept_from_the_responder_are_those_about_itself(catalogue: Catalogue) -> None:
    """The routes' list and the catalogue's family of own-state faults name the same alerts."""
    own = {alert.name for fault, alert in catalogue.alerts() if fault.family == "own"}
    assert set(PEOPLE_ONLY_ALERTS) == own


def test_the_linter_knows_the_catalogue_s_label_contract(catalogue: Catalogue) -> None:
    """Alert labels and own conditions are the catalogue's; nothing the catalogue forbids is allowed."""
    assert set(catalogue.labels.alert) - {"alertname"} == ALERT_LABELS
    assert set(catalogue.labels.own_conditions) == set(OWN_CONDITIONS)
    assert not set(catalogue.labels.forbidden) & ALERT_LABELS


def changed(folder: Path, change: Callable[[list[dict[str, Any]]], object]) -> list[str]:
    """Check names found after changing the generated rules; `change` gets the rules of the first group."""
    data = yaml.safe_load(GENERATED.read_text(encoding="utf-8"))
    change(data["groups"][0]["rules"])
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return sorted({finding.check for finding in lint([path])})


def first(rules: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The first rule that records or alerts under a name."""
    return next(rule for rule in rules if name in (rule.get("record"), rule.get("alert")))


LOST = "GPUFellOffBus"
WITNESS = "gpuheal:fault_witness:last_seen_seconds"
MISTAKES: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "an aggregation loses the GPU": (
        lambda rules: first(rules, LOST).update(expr=f"max by (node) ({first(rules, LOST)['expr']})"),
        "labels",
    ),
    "an aggregation loses the node of a text": (
        lambda rules: first(rules, LOST).update(expr=f"max({first(rules, LOST)['expr']})"),
        "label-flow",
    ),
    "a recorded series is renamed": (
        lambda rules: [one.update(record="gpuheal:other:max") for one in rules if one.get("record") == WITNESS],
        "dead",
    ),
    "a fault is misspelt": (lambda rules: first(rules, LOST)["labels"].update(fault="gpu-fell-off-buss"), "contract"),
    "a severity is changed": (lambda rules: first(rules, LOST)["labels"].update(severity="warning"), "severity"),
    "an alert is taken out": (lambda rules: rules.remove(first(rules, LOST)), "contract"),
    "an annotation is taken out": (lambda rules: first(rules, LOST)["annotations"].pop("summary"), "annotations"),
    "a value becomes a label": (lambda rules: first(rules, LOST)["labels"].update(rack="{{ $value }}"), "labels"),
    "a rule is doubled": (lambda rules: rules.append(dict(first(rules, WITNESS))), "duplicate"),
    "an Xid is taken for an edge": (
        lambda rules: first(rules, "gpuheal:xid_latch:last_seconds").update(
            expr="max by (node, gpu_uuid, xid) (increase(gpuheal_xid_total[5m]))"
        ),
        "xid-change",
    ),
    "a window shrinks": (
        lambda rules: first(rules, "gpuheal:exporter_frozen:info").update(
            expr="max by (node) (changes(gpuheal_exporter_heartbeat_timestamp_seconds[30s])) == 0"
        ),
        "range",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_our_own_rules_is_found(mistake: str, tmp_path: Path) -> None:
    """One wrong line among all generated rules gives the finding it should."""
    change, check = MISTAKES[mistake]
    assert check in changed(tmp_path, change)


def test_a_missing_and_a_stray_runbook_are_found(tmp_path: Path) -> None:
    """Every alert needs its page, every page its alert."""
    pages = tmp_path / "runbooks"
    pages.mkdir()
    (pages / "GPUFellOffBus.md").write_text("# GPUFellOffBus\n")
    (pages / "GPUGhost.md").write_text("# GPUGhost\n")
    problems = {finding.problem for finding in lint([GENERATED, pages])}
    assert "runbook page without an alert" in problems
    assert "no runbook page GPUThermal.md" in problems
    assert "no runbook page GPUFellOffBus.md" not in problems


def test_policies_faults_and_executors_fit(tmp_path: Path) -> None:
    """Found: a policy for an unknown fault, a step nobody executes, a fault that is acted on and has no policy."""
    path = tmp_path / "policies.yaml"
    match = {"faults": ["gpu-fell-off-bus", "gpu-sad"]}
    steps = ["taint", {"drain": {"grace": "1h"}}, {"exorcise": None}, "restore"]
    path.write_text(yaml.safe_dump({"policies": [{"name": "p", "match": match, "steps": steps}]}))
    problems = {finding.problem for finding in lint([path])}
    assert "fault 'gpu-sad' is not in the catalogue" in problems
    assert "step 'exorcise' has no executor" in problems
    assert not any("step 'drain'" in problem or "step 'taint'" in problem for problem in problems)
    without = {problem.split()[1] for problem in problems if problem.endswith("has no policy")}
    assert "gpu-memory-uncontained" in without
    assert without.isdisjoint({"gpu-fell-off-bus", "app-gpu-error", "watchdog"})


def test_foreign_rules_are_not_asked_our_contract() -> None:
    """With `foreign` only mistakes remain that are mistakes anywhere."""
    path = CORPUS / "sticky-last-xid.yaml"
    assert {finding.check for finding in lint([path])} >= {"sticky", "labels", "contract"}
    left = {finding.check for finding in lint([path], LintOptions(foreign=True))}
    assert "sticky" in left
    assert left.isdisjoint(CONTRACT_CHECKS)


def test_the_scrape_interval_is_the_measure_of_windows(tmp_path: Path) -> None:
    """A window that holds four samples at 15 s is too short for sources scraped every minute."""
    rule = {"record": "node:x:rate2m", "expr": "sum by (node) (rate(x_total[2m]))"}
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}))
    assert "range" not in {finding.check for finding in lint([path])}
    code = main([str(path), "--scrape-interval", "1m"])
    assert code == 1


def test_findings_come_sorted_and_once() -> None:
    """The same file given twice gives the same findings in the same order."""
    path = CORPUS / "labels-everything.yaml"
    assert lint([path, path]) == lint([path])
    assert lint([path]) == sorted(lint([path]), key=lambda one: (one.file, one.where, one.check, one.problem))


def test_the_command_says_what_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    """Text names file, rule, check and problem; the status is 1 with findings."""
    assert main([str(CORPUS / "limit-as-storm-guard.yaml")]) == 1
    out, err = capsys.readouterr()
    assert "limit-as-storm-guard.yaml: example: limit: limit: exceeding it" in out
    assert "finding" in err


def test_the_command_is_silent_about_clean_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0 and no line on stdout."""
    assert main([str(GENERATED)]) == 0
    assert capsys.readouterr().out == ""


def test_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    """--format json prints one list of objects with the finding's fields."""
    assert main(["--format", "json", str(CORPUS / "noise-utilisation.yaml")]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"check", "file", "where", "problem", "hint"} == set(found[0])
    assert "noise" in {one["check"] for one in found}


def test_the_list_of_checks(capsys: pytest.CaptureFixture[str]) -> None:
    """--list names every check with its meaning."""
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CHECKS)


def test_a_wrong_interval_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and the reason for an interval that is none."""
    assert main(["--scrape-interval", "soon"]) == 2
    assert "expected a duration" in capsys.readouterr().err


def test_a_missing_file_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not there is said, not skipped."""
    assert main([str(tmp_path / "nothing.yaml")]) == 1
    assert "read: no such file or folder" in capsys.readouterr().out


EXPRESSIONS = st.recursive(
    st.sampled_from(
        ["x", "1", "up", "DCGM_FI_DEV_GPU_TEMP", "gpuheal_xid_total", "time()", 'a{b="c"}', "vector(1)", "gpuheal:a:b"]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or", "unless", "+", "/", ">", "== bool", "<= on (node)"]), inner).map(
            lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"
        ),
        inner.map(lambda expr: f"sum by (node) ({expr})"),
        inner.map(lambda expr: f"max without (pod) ({expr})"),
        inner.map(lambda expr: f"-({expr})"),
        inner.map(lambda expr: f"max_over_time(({expr})[5m:1m])"),
        inner.map(lambda expr: f'label_replace({expr}, "a", "$1", "b", "(.+)")'),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(expr=EXPRESSIONS, other=EXPRESSIONS)
def test_any_expression_is_judged_without_falling_over(
    expr: str, other: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever an expression is made of, each finding has a check, a place and a problem, and nothing is raised."""
    rules = [{"record": "gpuheal:a:b", "expr": expr}, {"alert": "GPUAny", "expr": other}]
    path = tmp_path_factory.mktemp("any") / "r.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    for finding in lint([path]):
        assert finding.check in CHECKS
        assert finding.problem


KEYS = """groups name rules expr alert record labels annotations route receivers routes matchers group_by inhibit_rules
equal webhook_configs alertmanager config spec kind policies match"""
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(data=DOCUMENTS)
def test_any_document_is_read_without_falling_over(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A YAML document of any shape is a finding at worst."""
    path = tmp_path_factory.mktemp("any") / "r.yaml"
    path.write_text(yaml.safe_dump(data))
    assert all(finding.check in CHECKS for finding in lint([path]))
