"""Accusations of single rules: each has a rule that deserves it, and the right form of the same idea, which does not.

The corpus holds the mistakes that public rules make most; here stand the rest, and right rules that were accused once.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_rules.lint import joins, metrics, promql, rules
from gpuheal_rules.lint.check import LintOptions, lint

MODULES = (promql, joins, metrics, rules)
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.yaml"))
XID_MAX = {"record": "gpu:xid:max", "expr": "max by (node, gpu) (DCGM_FI_DEV_XID_ERRORS)"}
XID_ANY = {"record": "gpu:xid:last", "expr": "DCGM_FI_DEV_XID_ERRORS{gpu!=''}"}
MASK = "DCGM_FI_DEV_CLOCKS_EVENT_REASONS"
UTIL, CLOCK = "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_SM_CLOCK"
USED, FREE = "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"

WHOLE = {"fault": "gpu-fell-off-bus", "scope": "fleet", "severity": "warning", "namespace": "gpuheal"}
TEXTS = {"summary": "s", "description": "d", "runbook_url": "https://example.org/A"}
Rules = str | Mapping[str, Any] | list[Mapping[str, Any]]

PAIRS: dict[str, tuple[str, Rules, Rules]] = {
    # name: the check, what deserves it, what does not
    "changes of the raw gauge": (
        "xid-change",
        "changes(DCGM_FI_DEV_XID_ERRORS[10m]) > 0",
        [XID_MAX, {"alert": "A", "expr": "changes(gpu:xid:max[10m]) > 0"}],
    ),
    "changes of a recorded gauge that kept the code": (
        "xid-change",
        [XID_ANY, {"alert": "A", "expr": "changes(gpu:xid:last[10m]) > 0"}],
        "changes(max without (err_code, err_msg) (DCGM_FI_DEV_XID_ERRORS)[10m:1m]) > 0",
    ),
    "growth of a recorded gauge": (
        "xid-change",
        [XID_MAX, {"alert": "A", "expr": "increase(gpu:xid:max[10m]) > 0"}],
        [XID_MAX, {"alert": "A", "expr": "changes(gpu:xid:max[10m]) > 0"}],
    ),
    "changes of a count that is born with its first event": (
        "xid-change",
        [
            {"record": "gpu:xid:sum", "expr": "sum by (node) (gpuheal_xid_total)"},
            {"alert": "A", "expr": "changes(gpu:xid:sum[10m]) > 0"},
        ],
        "time() - gpuheal_xid_last_timestamp_seconds < 600",
    ),
    "label of a query's result": (
        "label-flow",
        {"alert": "A", "expr": "max by (node) (x) > 0", "annotations": TEXTS | {"description": "{{ .Labels.gpu }}"}},
        {
            "alert": "A",
            "expr": "max by (node) (x) > 0",
            "annotations": TEXTS | {"description": "{{ range $e := query `x` }}{{ $e.Labels.gpu }}{{ end }}"},
        },
    ),
    "mask above the idle bit": ("noise", f"{MASK} > 4", f"{MASK} >= 8"),
    "mask from the power cap on": ("noise", f"{MASK} >= 4", f"{MASK} > 7"),
    "busy and idle": ("noise", f"{UTIL} > 90", f"{UTIL} < 10"),
    "not idle and idle": ("noise", f"{UTIL} != 0", f"avg by (node) ({UTIL}) == 0"),
    "full and empty": ("noise", f"{USED} / ({USED} + {FREE}) > 0.95", f"{USED} / ({USED} + {FREE}) < 0.01"),
    "little free and much free": ("noise", f"{FREE} < 100", f"{FREE} > 70000"),
    "use as a condition": ("noise", f"{UTIL} > 90 and on (node) kube_node_labels", f"{CLOCK} < 900 and {UTIL} > 80"),
    "use before another fact": ("noise", f"{UTIL} > 90 or {CLOCK} < 900", f"{UTIL} > 80 and {CLOCK} < 900"),
    "memory that no pod holds": (
        "noise",
        f"max by (node, gpu) ({USED}) > 1000",
        f'max by (node, gpu) ({USED}) > 1000 unless on (node, gpu) {USED}{{pod!=""}}',
    ),
    "zeros that are added up": (
        "fail-open",
        "sum by (node) (autopilot_bandwidth <= 4) > 0",
        "count by (node) (autopilot_bandwidth <= 4) > 0",
    ),
    "zeros that are added up, as bool": ("fail-open", "sum(up == 0) > 0", "sum(up == bool 0) > 0"),
    "zeros that add nothing, and those that cannot pass": ("fail-open", "sum(x < 5) >= 1", "sum(x > 5) >= 1"),
    "samples taken for errors": (
        "sticky",
        "count_over_time(DCGM_FI_DEV_XID_ERRORS[1h]) > 0",
        "count_over_time(DCGM_FI_DEV_GPU_TEMP[1h]) > 0",
    ),
    "the largest last Xid": (
        "sticky",
        "max_over_time(DCGM_FI_DEV_XID_ERRORS[1h]) > 0",
        "max_over_time(DCGM_FI_DEV_ROW_REMAP_PENDING[1h]) > 0",
    ),
    "all of many, and one that is named": (
        "absent",
        {"expr": f'absent({UTIL}{{gpu=~".+"}})', "for": "5m"},
        {"expr": f'absent({UTIL}{{Hostname="gpu-1"}})', "for": "5m"},
    ),
    "one that is named, at once": (
        "absent",
        f'absent({UTIL}{{Hostname="gpu-1"}})',
        f'absent_over_time({UTIL}{{Hostname="gpu-1"}}[5m])',
    ),
    "a stray zero that is shown, and one that is compared away": (
        "join",
        "sum by (node) (x) or vector(0)",
        "(sum by (node) (x) or vector(0)) > 0",
    ),
    "a stray zero that the comparison keeps": (
        "join",
        "(sum by (node) (x) or vector(0)) < 1",
        "(sum by (node) (x) or vector(0)) >= 1",
    ),
    "Autopilot without a watch": (
        "registration",
        "autopilot_health_checks > 0",
        [{"alert": "A", "expr": "autopilot_health_checks > 0"}, {"expr": "absent(autopilot_health_checks)"}],
    ),
    "a watch for another source": (
        "registration",
        [{"alert": "A", "expr": f"{UTIL} < 1"}, {"alert": "B", "expr": "absent(kube_node_labels)"}],
        [{"alert": "A", "expr": f"{UTIL} < 1"}, {"alert": "B", "expr": 'up{job="dcgm-exporter"} == 0'}],
    ),
    "a field that only a CSV of the site's own has": ("dead", "DCGM_FI_DEV_FB_TOTAL > 0", "DCGM_FI_DEV_FB_FREE > 0"),
    "an aggregation of later releases": ("portable", "limitk(3, x)", "topk(3, x)"),
    "filled gaps": ("portable", "a + on (node) fill(0) b", "a + on (node) b"),
    "alternatives among matchers": ("portable", 'x{a="1" or b="2"}', 'x{a="1"} or x{b="2"}'),
    "a quoted name": ("portable", '{"a.b"}', '{__name__="a_b"}'),
    "a quoted label": ("portable", 'a{"b.c"="1"}', '{__name__=~"nvlink_l[0-9]{1,2}\\\\.?"}'),
    "a subquery of two steps": ("range", "max_over_time(sum(x)[30s:15s])", "max_over_time(sum(x)[2m:15s])"),
    "a scope that is none": ("labels", {"expr": "max(x)", "labels": WHOLE | {"scope": "galaxy"}}, {"labels": WHOLE}),
    "a label too few": ("labels", {"expr": "max(x)", "labels": WHOLE | {"fault": ""}}, {"labels": WHOLE}),
    "an address that is none": (
        "annotations",
        {"annotations": TEXTS | {"runbook_url": "the wiki"}},
        {"annotations": TEXTS},
    ),
}  # fmt: skip


def judged(given: Rules, folder: Path) -> set[str]:
    """The checks that speak up about rules; an expression stands for an alert, and what is left out for nothing odd."""
    listed = [{"expr": given}] if isinstance(given, str) else given if isinstance(given, list) else [given]
    whole = [one if "record" in one else {"alert": "A", "expr": "max(x)"} | dict(one) for one in listed]
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", "interval": "15s", "rules": whole}]}))
    return {finding.check for finding in lint([path])}


@pytest.mark.parametrize("name", PAIRS)
def test_who_deserves_it_is_accused_and_who_does_not_is_not(name: str, tmp_path: Path) -> None:
    """The check speaks up about the wrong form and is quiet about the right one."""
    check, wrong, right = PAIRS[name]
    assert check in judged(wrong, tmp_path)
    assert check not in judged(right, tmp_path)


def _places(module: Any) -> set[tuple[str, int]]:
    """Where a module makes findings about rules."""
    path = Path(module.__file__)
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {(path.name, node.lineno) for node in calls if isinstance(node.func, ast.Name) and node.func.id == "found"}


def test_every_accusation_of_rules_has_an_example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No line of the linter that makes a finding about a rule is left out by the corpus and the pairs above."""
    reached: set[tuple[str, int]] = set()

    def noted(make: Callable[..., object]) -> Callable[..., object]:
        def note(*args: Any, **kwargs: Any) -> object:
            caller = sys._getframe(1)
            reached.add((Path(caller.f_code.co_filename).name, caller.f_lineno))
            return make(*args, **kwargs)

        return note

    for module in MODULES:
        monkeypatch.setattr(module, "found", noted(module.found))
    lint(CORPUS)
    for _check, wrong, _right in PAIRS.values():
        judged(wrong, tmp_path)
    assert set().union(*map(_places, MODULES)) == reached


def test_rules_that_are_loaded_together_watch_for_each_other(tmp_path: Path) -> None:
    """One file's alert on `up` counts for the rules of another; only gpuheal's own files must each be whole."""
    for name, expr in (("a", "DCGM_FI_DEV_GPU_UTIL < 1"), ("b", "up == 0")):
        groups = [{"name": name, "rules": [{"alert": "A", "expr": expr, "for": "5m"}]}]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"groups": groups}))
    assert "registration" not in {one.check for one in lint([tmp_path], LintOptions(foreign=True))}
    assert "registration" in {one.check for one in lint([tmp_path / "a.yaml"], LintOptions(foreign=True))}
    assert "registration" in {one.check for one in lint([tmp_path])}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: nothing is judged"),
        ("# later\n", "is empty: nothing is judged"),
        ("groups: []\n", "has no rules: nothing is judged"),
        ("groups: [{name: a, rules: []}]\n", "has no rules: nothing is judged"),
        ("replicas: 3\n", "holds no rules, routes, Grafana alerts or policies: nothing is judged"),
    ],
)
def test_a_file_without_anything_to_judge_is_no_clean_file(text: str, said: str, tmp_path: Path) -> None:
    """What was given and holds nothing is said: an empty file must not look like one without mistakes."""
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    assert [(one.check, one.problem) for one in lint([path])] == [("read", said)]


def test_a_folder_is_asked_for_rules_only_as_a_whole(tmp_path: Path) -> None:
    """A folder without any file to read is said; other YAML beside rules is passed over."""
    assert [one.problem for one in lint([tmp_path])] == ["has no .yaml, .yml or .md file: nothing is judged"]
    (tmp_path / "values.yaml").write_text("replicas: 3\n")
    groups = [{"name": "g", "rules": [{"alert": "A", "expr": "x > 1"}]}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    assert "read" not in {one.check for one in lint([tmp_path])}


def test_who_is_renamed_is_not_called_dead(tmp_path: Path) -> None:
    """The name of a series comes from the site's counters CSV, so a renamed field is told with that condition."""
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump(
            {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "DCGM_FI_DEV_ROW_REMAP_FAILURE > 0"}]}]}
        )
    )
    (found,) = [one for one in lint([tmp_path]) if one.check == "alias"]
    assert "dead" not in found.problem
    assert "where the counters CSV says that" in found.problem
