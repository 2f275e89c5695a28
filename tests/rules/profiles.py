"""A fleet in which one thing happens on each node, and how it looks at sites of every label profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuheal_rules.cases.document import values
from gpuheal_rules.cases.world import STEP_SECONDS, TOPOLOGY, Series, Timeline, World, always, between
from gpuheal_rules.options import LabelProfile
from gpuheal_rules.promql.rule import WITNESS
from gpuheal_rules.render import to_yaml

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


def node_of(node: str, **given: Any) -> World:
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


UNSEEN = frozenset({("GPUHealGPUsNotShown", None)})


def _alone(world: Callable[..., World]) -> Iterator[Scenario]:
    """A node that is well, and two whose pages have no GPU."""
    of = world("well")
    yield Scenario(name=of.node, series=of.series())
    of = world("empty", present=lambda _gpu, step: step < EVENT)
    yield Scenario(name=of.node, series=of.series(), alerts=UNSEEN)
    of = world("always-empty", present=lambda *_: False)
    yield Scenario(name=of.node, series=of.series(), alerts=UNSEEN)


def scenarios(named: Callable[[str], str] = str) -> Iterator[Scenario]:
    """One node each, under the name that is given it; on `with-` nodes gpuheal's exporter runs too."""

    def world(name: str, **given: Any) -> World:
        return node_of(named(name), **given)

    yield from _alone(world)

    def lost(gpu: int, step: int) -> bool:
        return gpu != 1 or step < EVENT

    def lost_later(gpu: int, step: int) -> bool:
        return gpu != 1 or step < EVENT + 3

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
        of = world(f"{prefix}down", dcgm=lambda step: step < EVENT, **given)
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
        yield Scenario(name=of.node, series=blanked(of, (0, 1)), alerts=UNSEEN)
        of = world(f"{prefix}one-blank", **given)
        yield Scenario(name=of.node, series=blanked(of, (1,)), alerts=frozenset() if given else UNSEEN)


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


def shown(profile: LabelProfile, found: Sequence[Scenario]) -> list[Series]:
    """The series of the scenarios as Prometheus has them at a site of this profile."""
    series = []
    for scenario in found:
        series += [labelled(profile, scenario.name, one) for one in scenario.series]
        pod = {"namespace": "gpu-operator", "pod": f"dcgm-exporter-{scenario.name}", "node": scenario.name}
        series.append(Series(metric="kube_pod_info", labels={**pod, "job": "kube-state-metrics"}, at=always(1)))
    return series


def asked(found: Sequence[Scenario], misnamed: bool = False) -> dict[str, list[dict[str, str]]]:
    """What is to be asked at the end, and every row that is to be answered."""
    return {
        'group by (alertname) (ALERTS{alertstate="firing", alertname="GPUHealNodeLabelMissing"})': (
            [{"alertname": "GPUHealNodeLabelMissing"}] if misnamed else []
        ),
        'group by (alertname, node, gpu_uuid) (ALERTS{alertstate="firing", scope!="fleet"})': [
            {"alertname": alert, "node": s.name, **({} if gpu is None else {"gpu_uuid": s.uuids[gpu]})}
            for s in found
            for alert, gpu in s.alerts
        ],
        f'group by (node, gpu_uuid, fault, class, strength) ({WITNESS}{{gpu_uuid!=""}})': [
            {"node": s.name, "gpu_uuid": s.uuids[gpu], "fault": fault, "class": witness, "strength": strength}
            for s in found
            for gpu, fault, witness, strength in s.witnesses
        ],
    }


Rows = Mapping[str, Sequence[Mapping[str, str]]]
"""By expression, the labels of every row of its answer."""


def promtool_test(rules: str, series: Sequence[Series], rows: Rows) -> str:
    """A promtool test file of these series, with the rows that each expression gives at the end."""
    return timed_test(rules, series, {STEPS: rows})


def timed_test(rules: str, series: Sequence[Series], rows: Mapping[int, Rows]) -> str:
    """The same with rows at several steps."""

    def braces(labels: Mapping[str, str]) -> str:
        return "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"

    test = {
        "interval": f"{STEP_SECONDS}s",
        # A series that comes twice is shown as it comes last.
        "input_series": [
            {"series": name, "values": shown}
            for name, shown in {f"{s.metric}{braces(s.labels)}": values(s.at, max(rows)) for s in series}.items()
        ],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": f"{step * STEP_SECONDS}s",
                "exp_samples": [{"labels": braces(row), "value": 1} for row in expected],
            }
            for step, asked in rows.items()
            for expr, expected in asked.items()
        ],
    }
    return to_yaml({"rule_files": [rules], "evaluation_interval": f"{STEP_SECONDS}s", "tests": [test]})
