"""Every label profile sees the same: one fleet of faults, labelled as each profile says, raises the same alerts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_rules.cases.document import values
from gpuheal_rules.cases.world import STEP_SECONDS, TOPOLOGY, Series, Timeline, World, between
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.lint.check import lint
from gpuheal_rules.options import PROFILES, LabelProfile, Options
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.promql.rule import WITNESS
from gpuheal_rules.render import build_groups, rule_file

EVENT, STEPS = 12, 76
BLANKS = (2147483632.0, 2147483644.0, 140737488355328.0, 9223372036854775792.0)
"""Blanks of DCGM's 32-bit integers, floats and 64-bit integers, not supported and not found among them."""

LOST = "GPUFellOffBus", "gpu-fell-off-bus"
GSP = "GPUGSPTimeout", "gpu-gsp-timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens on a node, and all that is to be said of it: alerts and witnesses with the index of their GPU."""

    name: str
    series: Sequence[Series]
    alerts: frozenset[tuple[str, int | None]] = frozenset()
    witnesses: frozenset[tuple[int, str, str, str]] = frozenset()

    @property
    def uuids(self) -> list[str]:
        """UUIDs of the node's GPUs."""
        return uuids(self.name)


def uuids(node: str) -> list[str]:
    """UUIDs of the two GPUs of a node."""
    return [f"GPU-{node}-0", f"GPU-{node}-1"]


def world(node: str, **given: Any) -> World:
    """A node with two GPUs that kube-state-metrics knows, without gpuheal's exporter unless one is given."""
    topology = {**TOPOLOGY, "rack": f"r-{node}", "fabric_domain": f"f-{node}"}
    return World(node=node, uuids=uuids(node), topology=topology, **{"exporter": None, **given})


def xid(of: World, gpu: int, code: int) -> list[Series]:
    """The code on dcgm-exporter's page from the event on, while the GPU is shown."""
    return of.of_dcgm("DCGM_FI_DEV_XID_ERRORS", gpu, between(EVENT, STEPS + 1, code), err_code=str(code))


def blanked(of: World, gpus: Sequence[int]) -> list[Series]:
    """The node's series, with blanks in every DCGM field of these GPUs from the event on."""

    def blank(number: int, at: Timeline) -> Timeline:
        return lambda step: at(step) if step < EVENT else BLANKS[number % len(BLANKS)]

    names = {of.uuids[gpu] for gpu in gpus}
    return [
        replace(s, at=blank(number, s.at)) if s.metric.startswith("DCGM_") and s.labels["UUID"] in names else s
        for number, s in enumerate(of.series())
    ]


def scenarios() -> Iterator[Scenario]:
    """One node each; `with-` nodes have gpuheal's exporter too, which always names its node."""
    unseen = frozenset({("GPUHealGPUsNotShown", None)})
    yield Scenario(name="well", series=world("well").series())
    yield Scenario(name="empty", series=world("empty", present=lambda _gpu, step: step < EVENT).series(), alerts=unseen)
    yield Scenario(name="always-empty", series=world("always-empty", present=lambda *_: False).series(), alerts=unseen)

    def lost(gpu: int, step: int) -> bool:
        return gpu != 1 or step < EVENT

    def lost_later(gpu: int, step: int) -> bool:
        return gpu != 1 or step < EVENT + 3

    def away(step: int) -> bool:
        return step < EVENT

    for prefix, given in (("", {}), ("with-", {"exporter": lambda _step: True})):
        of = world(f"{prefix}xid", **given)
        yield Scenario(
            name=of.node,
            series=[*of.series(), *xid(of, 1, 119)],
            alerts=frozenset({(GSP[0], 1)}),
            witnesses=frozenset({(1, GSP[1], "dcgm", "strong")}),
        )
        of = world(f"{prefix}lost-with-xid", present=lost_later, **given)
        nvml = {(1, LOST[1], "nvml", "strong")} if given else set()
        yield Scenario(
            name=of.node,
            series=[*of.series(), *xid(of, 1, 79)],
            alerts=frozenset({(LOST[0], 1)}),
            witnesses=frozenset({(1, LOST[1], "dcgm", "strong"), *nvml}),
        )
        of = world(f"{prefix}lost", present=lost, **given)
        yield Scenario(
            name=of.node,
            series=of.series(),
            alerts=frozenset({(LOST[0], 1)}),
            witnesses=frozenset({(1, LOST[1], "dcgm", "strong"), *nvml}),
        )
        of = world(f"{prefix}down", dcgm=away, **given)
        down = frozenset({("GPUHealDCGMExporterDown", None)})
        yield Scenario(name=of.node, series=of.series(), alerts=down)
        of = world(f"{prefix}xid-then-down", dcgm=lambda step: step < EVENT + 4, **given)
        yield Scenario(
            name=of.node,
            series=[*of.series(), *xid(of, 1, 119)],
            alerts=frozenset({(GSP[0], 1), *down}),
            witnesses=frozenset({(1, GSP[1], "dcgm", "strong")}),
        )
        of = world(f"{prefix}never-answered", dcgm=lambda _step: False, **given)
        yield Scenario(name=of.node, series=of.series(), alerts=down)
        of = world(f"{prefix}blank", **given)
        yield Scenario(name=of.node, series=blanked(of, (0, 1)), alerts=unseen)
        of = world(f"{prefix}one-blank", **given)
        yield Scenario(name=of.node, series=blanked(of, (1,)), alerts=frozenset() if given else unseen)


def labelled(profile: LabelProfile, node: str, series: Series) -> Series:
    """The series as it comes to Prometheus at a site of this profile."""
    labels = dict(series.labels)
    if labels.get("job") != "dcgm-exporter":
        return series
    # One target per node, found as a pod.
    labels |= {"instance": f"{node}:9400", "namespace": "gpu-operator", "pod": f"dcgm-exporter-{node}"}
    host = labels.pop("Hostname", None)
    if profile.node == "node":
        # Without the variable NODE_NAME the exporter takes the pod's name for that of its host.
        labels |= {"Hostname": f"dcgm-exporter-{node}"} if host else {}
    else:
        for label in ("node", *TOPOLOGY):
            labels.pop(label, None)
        labels |= {profile.node: host} if host else {}
    if "UUID" in labels:
        labels[profile.gpu[0]] = labels.pop("UUID")
    return replace(series, labels=labels)


def document(profile: LabelProfile, rules: str, found: Sequence[Scenario], misnamed: bool = False) -> dict[str, Any]:
    """One promtool test of the scenarios, with every alert and every witness that there may be."""
    series: dict[str, str] = {}
    for scenario in found:
        shown = [labelled(profile, scenario.name, one) for one in scenario.series]
        shown += [
            Series(
                metric="kube_pod_info",
                labels={
                    "namespace": "gpu-operator",
                    "pod": f"dcgm-exporter-{scenario.name}",
                    "node": scenario.name,
                    "job": "kube-state-metrics",
                },
                at=lambda _step: 1.0,
            )
        ]
        for one in shown:
            labels = ", ".join(f'{key}="{value}"' for key, value in one.labels.items())
            series[f"{one.metric}{{{labels}}}"] = values(one.at, STEPS)
    alerts = [
        {"alertname": alert, "node": s.name, **({} if gpu is None else {"gpu_uuid": s.uuids[gpu]})}
        for s in found
        for alert, gpu in s.alerts
    ]
    witnesses = [
        {"node": s.name, "gpu_uuid": s.uuids[gpu], "fault": fault, "class": witness, "strength": strength}
        for s in found
        for gpu, fault, witness, strength in s.witnesses
    ]
    asked: dict[str, list[dict[str, str]]] = {
        'group by (alertname) (ALERTS{alertstate="firing", alertname="GPUHealNodeLabelMissing"})': (
            [{"alertname": "GPUHealNodeLabelMissing"}] if misnamed else []
        ),
        'group by (alertname, node, gpu_uuid) (ALERTS{alertstate="firing", scope!="fleet"})': alerts,
        f'group by (node, gpu_uuid, fault, class, strength) ({WITNESS}{{gpu_uuid!=""}})': witnesses,
    }
    return {
        "rule_files": [rules],
        "evaluation_interval": f"{STEP_SECONDS}s",
        "tests": [
            {
                "interval": f"{STEP_SECONDS}s",
                "input_series": [{"series": name, "values": found} for name, found in series.items()],
                "promql_expr_test": [
                    {
                        "expr": expr,
                        "eval_time": f"{STEPS * STEP_SECONDS}s",
                        "exp_samples": [
                            {"labels": "{" + ", ".join(f'{k}="{v}"' for k, v in one.items()) + "}", "value": 1}
                            for one in expected
                        ],
                    }
                    for expr, expected in asked.items()
                ],
            }
        ],
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("generation", ["debian", pytest.param("current", marks=pytest.mark.cluster)])
def test_every_profile_raises_the_same_alerts(generation: str, catalogue: Catalogue, tmp_path: Path) -> None:
    """Xids, losses, silent exporters and blanks are told alike wherever the node's name stands.

    Where the exporters give their pod's name for that of the node, the profile is of no use, and that is told.
    """
    files = []
    for name in ("target", "Hostname"):
        profile = PROFILES[name]
        (tmp_path / f"{name}.rules.yaml").write_text(rule_file(build_groups(catalogue, Options(labels=profile))))
        files.append(tmp_path / f"{name}.test.yaml")
        files[-1].write_text(yaml.safe_dump(document(profile, f"{name}.rules.yaml", list(scenarios()))))
    of = world("n")
    pods = [replace(s, labels={**s.labels, "Hostname": "pod"}) if "Hostname" in s.labels else s for s in of.series()]
    files.append(tmp_path / "misnamed.test.yaml")
    misnamed = Scenario(name="n", series=pods, alerts=frozenset({("GPUHealExporterMissing", None)}))
    files[-1].write_text(yaml.safe_dump(document(profile, "Hostname.rules.yaml", [misnamed], misnamed=True)))
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
