"""Rules from the chart's values: helm makes of them what `gpuheal rules build --site` makes of the same file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_lab.chart import render, rules
from gpuheal_lab.servers.find import Generation, find
from gpuheal_lab.servers.process import CommandFailed, run
from gpuheal_rules.catalogue.model import SEVERITIES
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.render import build_groups, group_data
from gpuheal_rules.site.read import read_site

pytestmark = pytest.mark.cluster

Json = dict[str, Any]

ONLY = "--show-only=templates/monitoring/rules.yaml"
GENERATED = render.ROOT / "rules" / "generated"


def rendered(values: Json, namespace: str = "gpuheal") -> list[Json]:
    """The objects of the chart's rules."""
    return render.objects(render.render(values, ONLY, namespace=namespace))


def groups_of(site: Json, namespace: str = "gpuheal") -> Any:
    """The groups of the only PrometheusRule for these knobs."""
    (found,) = rendered({"rules": {"site": site}}, namespace)
    return found["spec"]["groups"]


def built(folder: Path, site: Json) -> list[Json]:
    """The groups that `gpuheal rules build --site` makes."""
    file = folder / "site.yaml"
    file.write_text(yaml.safe_dump(site), encoding="utf-8")
    found = read_site(file)
    return [group_data(group) for group in build_groups(found.catalogue, found.options)]


def another(knob: rules.Knob) -> Any:
    """A value that the knob may have, and does not without being set."""
    if knob.kind == "duration":
        return format_duration(knob.default + timedelta(seconds=61 if "alerts" in knob.path else 601))
    if knob.kind == "severity":
        return SEVERITIES[(SEVERITIES.index(knob.default) + 1) % len(SEVERITIES)]
    if knob.kind == "number":
        steps = (knob.default + 1, knob.default - 1) if knob.whole else (knob.default * 0.98,)
        return next(value for value in steps if knob.least <= value <= knob.most)
    return {"address": "https://site.example/x", "pattern": r"team\.a/gpuheal|dcgm.+"}[knob.kind]


def every_knob() -> Json:
    """A site's file that sets every knob of the chart."""
    site: Json = {}
    for knob in rules.knobs():
        if knob.kind != "namespace":
            *path, name = knob.path.split(".")
            node = site
            for part in path:
                node = node.setdefault(part, {})
            node[name] = another(knob)
    return site


def test_without_values_they_are_the_committed_rules() -> None:
    """The PrometheusRule is the one that the rules' own build makes; so every promtool test of it holds."""
    (found,) = rendered({})
    (committed,) = render.objects((GENERATED / "prometheusrule.yaml").read_text(encoding="utf-8"))
    assert found == committed


def test_every_knob_at_once_does_what_it_does_in_a_sites_file(tmp_path: Path) -> None:
    """Each number, duration, pattern, address and severity lands where the rules' own build puts it, and nowhere else.

    Namespace, and two alerts that are switched off, as well.
    """
    site = every_knob()
    off = ["GPUHealStaleCase", "GPUHealTelemetryAnomaly"]
    for name in off:
        del site["alerts"][name]
    site["disabled"] = off
    made = groups_of(site, "gpu-ops")
    assert made == built(tmp_path, {**site, "namespace": "gpu-ops"})
    assert made != groups_of({}, "gpu-ops")


SINGLE: Mapping[str, Json] = {
    "no-wait": {"alerts": {"GPUThermal": {"for": "0s"}}},
    "a-wait": {"alerts": {"GPUFellOffBus": {"for": "1h30m", "keep_firing_for": "90s"}}},
    "another-spelling": {"alerts": {"GPUSlow": {"for": "120m"}}, "thresholds": {"round_lateness": "300s"}},
    "a-fraction": {"thresholds": {"fleet_anomaly_ratio": 0.35, "ecc_corrected_per_day": 1000000000}},
    "off": {"disabled": ["GPUHealRackCorrelated"]},
    "off-with-what-it-needs": {"disabled": ["GPUHealTelemetryAnomaly", "GPUSlow"]},
    "hold": {"holds": {"app-gpu-error": "5m"}, "alerts": {"GPUAppError": {"severity": "critical"}}},
    "slash": {"runbook_base": "https://wiki.example/runbooks/", "dashboard_base": ""},
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_knob_alone_does_what_it_does_in_a_sites_file(tmp_path: Path, name: str) -> None:
    """Also at the edges: nothing, the largest, another spelling of the same span."""
    assert groups_of(copy.deepcopy(SINGLE[name])) == built(tmp_path, SINGLE[name])


def test_every_alert_that_may_go_goes() -> None:
    """With all of them off only those are left that cannot be switched off, and so says the schema."""
    made = groups_of({"disabled": sorted(rules.switches())})
    left = {rule["alert"] for group in made for rule in group["rules"] if "alert" in rule}
    assert left == {"GPUFellOffBus", "GPURecoveryRequired", "GPUHealWatchdog"}


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"thresholds": {"temperature_enter_celsius": 200}}, "temperature_enter_celsius'.*maximum"),
        ({"thresholds": {"suspect_owners": 2.5}}, "suspect_owners'.*integer"),
        (
            {"thresholds": {"temperature_leave_celsius": 95}},
            "must be less than rules.site.thresholds.temperature_enter",
        ),
        ({"thresholds": {"operands_away": "1m"}}, "operands_away: 1m is outside of its limits, 300 to 7200 seconds"),
        ({"thresholds": {"operands_away": "soon"}}, "operands_away"),
        ({"thresholds": {"temperatur": 1}}, "additional properties 'temperatur'"),
        ({"alerts": {"GPUThermal": {"for": "8d"}}}, "GPUThermal.for: 8d is outside"),
        (
            {"alerts": {"GPUAppError": {"for": "2h"}}},
            "must be less than rules.site.holds.app-gpu-error; 2h is not less",
        ),
        ({"alerts": {"GPUThermal": {"severity": "page"}}}, "GPUThermal/severity'"),
        ({"alerts": {"GPUHealWatchdog": {"for": "1m"}}}, "additional properties 'GPUHealWatchdog'"),
        ({"disabled": ["GPUFellOffBus"]}, "disabled/0'"),
        ({"disabled": ["gpu-thermal"]}, "disabled/0'"),
        ({"jobs": {"exporter": 'a"} or vector(1)'}}, "jobs/exporter'"),
        ({"runbook_base": "wiki"}, "runbook_base'"),
        ({"faults": "./own"}, "additional properties 'faults'"),
    ],
    ids=str,
)
def test_what_a_sites_file_may_not_say_the_chart_refuses(site: Json, words: str) -> None:
    """The limits of the knobs, their order, and what only `gpuheal rules build` can do; the value is named."""
    with pytest.raises(CommandFailed, match=rf"(?s){words}"):
        groups_of(site)


@pytest.fixture(params=list(Generation), ids=str)
def promtool(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Json], str]:
    """Check the rules of a rendered ConfigMap."""

    def check(found: Json) -> str:
        file = tmp_path / "rules.yaml"
        file.write_text(found["data"]["gpuheal.rules.yaml"], encoding="utf-8")
        command = find("promtool", request.param).command("check", "rules", str(file), folder=tmp_path)
        return run(command, deadline_s=60)

    return check


def test_prometheus_reads_what_is_rendered(promtool: Callable[[Json], str]) -> None:
    """The ConfigMap for a Prometheus without the operator, with every knob set, in both generations."""
    operator = {"operator": {"enabled": False}, "rulesConfigMap": True}
    (found,) = rendered({"rules": {"site": every_knob()}, "prometheus": operator})
    assert found["kind"] == "ConfigMap"
    count = sum(len(group["rules"]) for group in yaml.safe_load(found["data"]["gpuheal.rules.yaml"])["groups"])
    assert f"SUCCESS: {count} rules found" in promtool(found)


def test_rules_made_elsewhere_and_groups_of_ones_own(tmp_path: Path) -> None:
    """`rules.file` stands in for the chart's rules, as with own faults; groups come in an object of their own."""
    folder = render.ROOT / "rules"
    site = read_site(folder / "site.example.yaml")
    wanted = [group_data(group) for group in build_groups(site.catalogue, site.options)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": wanted}, width=1000), encoding="utf-8")
    own = [
        {"name": "own", "rules": [{"alert": "Own", "expr": "vector(1)", "annotations": {"summary": "{{ $value }}"}}]}
    ]
    values = {"rules": {"groups": own}, "prometheus": {"operator": {"labels": {"release": "kps"}}}}
    first, second = render.objects(render.render(values, ONLY, f"--set-file=rules.file={file}"))
    assert (first["metadata"]["name"], first["spec"]["groups"]) == ("gpuheal", wanted)
    assert (second["metadata"]["name"], second["spec"]["groups"]) == ("gpuheal-own", own)
    assert {each["metadata"]["labels"]["release"] for each in (first, second)} == {"kps"}
