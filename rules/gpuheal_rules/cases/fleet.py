"""Cases for alerts whose expression stands on its own: fleet, pipeline and our own state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpuheal_rules.cases import pipeline
from gpuheal_rules.cases.pipeline import alert_labels, expect, of_prometheus, wait_steps
from gpuheal_rules.cases.world import (
    NODE,
    STEP_SECONDS,
    TOPOLOGY,
    Case,
    Query,
    Series,
    Timeline,
    World,
    always,
    between,
    lean,
    merged,
)
from gpuheal_rules.cases.xid import EVENT
from gpuheal_rules.catalogue.model import Alert, Catalogue, Fault

Maker = Callable[[Fault, Alert], list[Case]]


def cases(_catalogue: Catalogue, fault: Fault, alert: Alert) -> list[Case]:
    """Return the cases of one such alert."""
    return MAKERS[alert.expr](fault, alert)


def _ready(at: Timeline) -> Series:
    return World().of_ksm("kube_node_status_condition", at, condition="Ready", status="true")[0]


def _node_problem(shows: Callable[[int, int], list[Series]], *, lasting: int = 0, guarded: bool = True) -> Maker:
    """Return a maker of the cases of a problem of one node that begins at EVENT and ends."""

    def make(fault: Fault, alert: Alert) -> list[Case]:
        fires = (alert_labels(fault, alert, node=NODE, **TOPOLOGY), 1.0)
        first = EVENT + lasting + wait_steps(alert)
        end = first + 4
        # Whether the left edge of a window counts depends on the version, so nothing is asked one step before.
        quiet = first - (2 if lasting else 1)
        guard = Case(
            name=f"{alert.name} is quiet for a node that the autoscaler is about to delete",
            series=[*shows(EVENT, end), *_leaving(NODE)],
            alerts=[expect(alert, end - 1)],
            steps=end - 1,
        )
        return [
            Case(
                name=f"{alert.name} fires after its wait and ends with the problem",
                series=shows(EVENT, end),
                alerts=[
                    expect(alert, quiet),
                    expect(alert, first, fires),
                    expect(alert, end - 1, fires),
                    expect(alert, end + 1),
                ],
                steps=end + 1,
            ),
            *([guard] if guarded else []),
        ]

    return make


def _frozen(first: int, last: int) -> list[Series]:
    def beat(step: int) -> float:
        return float((first if first <= step < last else step) * STEP_SECONDS)

    world = lean()
    return merged(world.series(), world.of_exporter("gpuheal_exporter_heartbeat_timestamp_seconds", {}, beat))


def _kmsg(first: int, last: int) -> list[Series]:
    world = lean()
    return merged(world.series(), world.of_exporter("gpuheal_kmsg_up", {}, between(first, last, 0.0, 1.0)))


def _down_cases(source: str) -> Maker:
    """Return a maker of the cases of a target (`exporter` or `dcgm`) that cannot be scraped."""

    def down(first: int, last: int) -> list[Series]:
        return [*lean(**{source: lambda step: not first <= step < last}).series(), _ready(always(1))]

    def make(fault: Fault, alert: Alert) -> list[Case]:
        return [*_node_problem(down)(fault, alert), *_down_nodes(source, fault, alert)]

    return make


def _down_nodes(source: str, fault: Fault, alert: Alert) -> list[Case]:
    down, end = EVENT, EVENT + wait_steps(alert) + 5
    away: dict[str, Any] = {source: lambda step: step < down}
    returning: dict[str, Any] = {source: lambda step: step < down or step >= down + 30}
    dead = World(exporter=lambda step: step < down, dcgm=lambda step: step < down)
    dead_series = merged(dead.series(), [_ready(lambda step: 1.0 if step < down else 0.0)])
    host = Series(
        metric="up",
        labels={"job": "node-exporter", "instance": "10.0.0.5:9100", "node": NODE},
        at=lambda step: 1.0 if step < end + 20 else 0.0,
    )
    fires = (alert_labels(fault, alert, node=NODE, **TOPOLOGY), 1.0)
    not_ready = f'ALERTS{{alertname="GPUNodeNotReady", node="{NODE}"}}'
    booting = World(**returning, booted_at=down * STEP_SECONDS + 300.0)
    return [
        Case(
            name=f"{alert.name} is quiet when the whole node is down: that is another alert's business",
            series=dead_series,
            alerts=[expect(alert, end)],
            queries=[Query(step=end, expr=f'count({not_ready})', samples=[("{}", 1)])],
            steps=end,
        ),
        Case(
            name=f"{alert.name} takes a node that answers node-exporter for alive, without kube-state-metrics",
            series=[*lean(**away).series(), host],
            alerts=[expect(alert, end, fires), expect(alert, end + 20)],
            steps=end + 20,
        ),
        Case(
            name=f"{alert.name} is quiet while gpuheal works on the node and its operands are paused",
            series=[*booting.series(), _operation(down - 1, end + 1)],
            alerts=[expect(alert, end)],
            steps=end,
        ),
        Case(
            name=f"{alert.name} is quiet while the GPU operator upgrades the driver of the node",
            series=[
                *World(**away).series(),
                *World().of_ksm(
                    "kube_node_labels", always(1), label_nvidia_com_gpu_driver_upgrade_state="pod-restart-required"
                ),
            ],
            alerts=[expect(alert, end)],
            steps=end,
        ),
    ]  # fmt: skip


def _operation(first: int, last: int) -> Series:
    case = {"fault": "gpu-fell-off-bus", "state": "waiting", "step": "reboot", "phase": "cure", "reason": "in-progress"}
    labels = {"target_node": NODE, "job": "gpuheal-responder", "node": "cpu-node-1", **case}
    return Series(metric="gpuheal_case_state", labels=labels, at=between(first, last, 1.0, 0.0))


def _missing(fault: Fault, alert: Alert) -> list[Case]:
    wait = wait_steps(alert)
    fires = (alert_labels(fault, alert, node=NODE), 1.0)
    never = World(exporter=None, dcgm=None)
    return [
        Case(
            name=f"{alert.name} fires for a node with GPUs that no exporter target exists for",
            series=never.series(),
            alerts=[expect(alert, wait - 1), expect(alert, wait, fires)],
            steps=wait,
        ),
        Case(
            name=f"{alert.name} is quiet for a node that the autoscaler is about to delete",
            series=[*never.series(), *_leaving(NODE)],
            alerts=[expect(alert, wait + 2)],
            steps=wait + 2,
        ),
        Case(
            name=f"{alert.name} is quiet when a target exists but is down",
            series=World(exporter=lambda _step: False, dcgm=None).series(),
            alerts=[expect(alert, wait + 2)],
            steps=wait + 2,
        ),
    ]


def _unseen(first: int, last: int) -> list[Series]:
    world = World(exporter=None, present=lambda _gpu, step: not first <= step < last)
    return world.series()


def _own(state: str, **more: str) -> Maker:
    def shows(first: int, last: int) -> list[Series]:
        labels = {"target_node": NODE, "job": "gpuheal-responder", "node": "cpu-node-1", "state": state, **more}
        own = Series(metric="gpuheal_case_state", labels=labels, at=between(first, last, 1.0, 0.0))
        return [*lean().series(), own]

    return _node_problem(shows, guarded=False)


def _single(metric: str, bad: Timeline, value: float, *, first: int = EVENT, **labels: str) -> Maker:
    """Return a maker of the case of an alert without a node: it fires at `first` (plus its wait)."""

    def make(fault: Fault, alert: Alert) -> list[Case]:
        start = first + wait_steps(alert)
        return [
            Case(
                name=f"{alert.name} fires once and names no node",
                series=[of_prometheus(metric, bad, **labels)],
                alerts=[expect(alert, first - 1), expect(alert, start, (alert_labels(fault, alert), value))],
                steps=start,
                alone=True,
            )
        ]

    return make


def _fleet(count: int, bad: int, racks: int = 1, bad_version: str = "580", others: int = 0) -> list[Series]:
    """Return nodes of which the first `bad` lose a GPU, all but `others` of them with their own driver version."""
    found: list[Series] = []
    for index in range(count):
        topology = {"rack": f"r{index % racks}", "zone": "z1", "fabric_domain": f"f{index % racks}"}
        world = lean(node=f"gpu-node-{index + 1}", topology=topology, dcgm=None)
        version = {"driver_version": bad_version if index < bad - others else "570"}
        found += world.series()
        found += world.of_exporter("gpuheal_nvml_driver_info", version, always(1))
        if index < bad:
            found += world.xid(1, 79, EVENT)
    return found


def _silent_fleet(count: int, silent: int) -> list[Series]:
    found: list[Series] = []
    for index in range(count):
        alive = (lambda step: step < EVENT) if index < silent else (lambda _step: True)
        topology = {"rack": "r0", "zone": "z1", "fabric_domain": "f0"}
        found += lean(node=f"gpu-node-{index + 1}", topology=topology, dcgm=None, exporter=alive).series()
    return found


def _leaving(node: str) -> list[Series]:
    return World(node=node).of_ksm("kube_node_spec_taint", always(1), key="ToBeDeletedByClusterAutoscaler")


def _correlated(domain: str) -> Maker:
    def make(fault: Fault, alert: Alert) -> list[Case]:
        name = {"rack": "r0", "fabric_domain": "f0"}[domain]
        fires = (alert_labels(fault, alert, zone="z1", **{domain: name}), 3.0)
        later = EVENT + 121
        return [
            Case(
                name=f"{alert.name} fires for three new bad nodes of one domain and lets go after half an hour",
                series=_fleet(8, 3),
                alerts=[expect(alert, EVENT - 1), expect(alert, EVENT, fires), expect(alert, later)],
                steps=later,
                alone=True,
            ),
            Case(
                name=f"{alert.name} fires for three nodes whose GPUs are unknown",
                series=_silent_fleet(8, 3),
                alerts=[expect(alert, EVENT - 1), expect(alert, EVENT, fires)],
                steps=EVENT,
                alone=True,
            ),
            Case(
                name=f"{alert.name} is quiet for three nodes that the autoscaler is about to delete",
                series=[*_fleet(8, 3), *(s for index in range(3) for s in _leaving(f"gpu-node-{index + 1}"))],
                alerts=[expect(alert, EVENT), expect(alert, EVENT + 5)],
                steps=EVENT + 5,
                alone=True,
            ),
            Case(
                name=f"{alert.name} is quiet for two bad nodes, and for three in different domains",
                series=_fleet(8, 3, racks=4),
                alerts=[expect(alert, EVENT + 5)],
                steps=EVENT + 5,
                alone=True,
            ),
            Case(
                name=f"{alert.name} is quiet for three bad nodes among thirteen, less than a quarter",
                series=_fleet(13, 3),
                alerts=[expect(alert, EVENT + 5)],
                steps=EVENT + 5,
                alone=True,
            ),
        ]

    return make


def _rollout(fault: Fault, alert: Alert) -> list[Case]:
    return [
        Case(
            name=f"{alert.name} fires when all new bad nodes share a driver version that others do not have",
            series=_fleet(8, 3, racks=8),
            alerts=[expect(alert, EVENT - 1), expect(alert, EVENT, (alert_labels(fault, alert), 3.0))],
            steps=EVENT,
            alone=True,
        ),
        Case(
            name=f"{alert.name} is quiet when a new bad node has another version",
            series=_fleet(8, 4, racks=8, others=1),
            alerts=[expect(alert, EVENT), expect(alert, EVENT + 2)],
            steps=EVENT + 2,
            alone=True,
        ),
        Case(
            name=f"{alert.name} is quiet for two nodes",
            series=_fleet(8, 2, racks=8),
            alerts=[expect(alert, EVENT), expect(alert, EVENT + 2)],
            steps=EVENT + 2,
            alone=True,
        ),
        Case(
            name=f"{alert.name} is quiet when the whole fleet has one driver version",
            series=_fleet(8, 3, racks=8, bad_version="570"),
            alerts=[expect(alert, EVENT + 2)],
            steps=EVENT + 2,
            alone=True,
        ),
    ]


_GROWTH = 'max(gpuheal:fault_nodes:growth10m{fault="gpu-fell-off-bus"})'


def _anomaly(fault: Fault, alert: Alert) -> list[Case]:
    fires = (alert_labels(fault, alert), 3.0)
    return [
        Case(
            name=f"{alert.name} fires for one fault on three of fourteen nodes at once and holds half an hour",
            series=_fleet(14, 3, racks=14),
            alerts=[expect(alert, EVENT - 1), expect(alert, EVENT, fires), expect(alert, EVENT + 120, fires)],
            steps=EVENT + 120,
            alone=True,
        ),
        Case(
            name=f"{alert.name} counts the nodes of the last ten minutes",
            series=_fleet(14, 3, racks=14),
            queries=[
                Query(step=EVENT + 39, expr=_GROWTH, samples=[("{}", 3.0)]),
                Query(step=EVENT + 41, expr=_GROWTH),
            ],
            steps=EVENT + 41,
            alone=True,
        ),
        Case(
            name=f"{alert.name} is quiet at exactly a fifth of the nodes, and for two nodes of four",
            series=_fleet(15, 3, racks=15),
            alerts=[expect(alert, EVENT + 5)],
            steps=EVENT + 5,
            alone=True,
        ),
        Case(
            name=f"{alert.name} is quiet for two nodes of four: too few to tell",
            series=_fleet(4, 2, racks=4),
            alerts=[expect(alert, EVENT + 5)],
            steps=EVENT + 5,
            alone=True,
        ),
    ]


MAKERS: Mapping[str, Maker] = {
    "watchdog": pipeline.watchdog,
    "exporter_down": _down_cases("exporter"),
    "dcgm_down": _down_cases("dcgm"),
    "exporter_frozen": _node_problem(_frozen, lasting=8),
    "exporter_missing": _missing,
    "kmsg_down": _node_problem(_kmsg),
    "gpus_unseen": _node_problem(_unseen),
    "policy_missing": _own("held", reason="policy-missing"),
    "case_escalated_for_days": pipeline.for_days,
    "no_leader": _single("gpuheal_leader", between(EVENT, 999, 0.0, 1.0), 0.0),
    "rounds_fail": pipeline.rounds_fail,
    "incident": _single("gpuheal_incident_nodes", between(EVENT, 999, 3.0, 0.0), 3.0),
    "unreadable_case": _single("gpuheal_unreadable_cases", between(EVENT, 999, 2.0, 0.0), 2.0),
    "unreadable_undo": _single("gpuheal_unreadable_undo", between(EVENT, 999, 1.0, 0.0), 1.0, target_node=NODE),
    "writes_refused": _single(
        "gpuheal_step_duration_seconds_count",
        lambda step: 0.0 if step < EVENT else 21.0,
        21.0,
        outcome="forbidden",
        action="taint",
    ),
    "upgrade_unseen": pipeline.upgrade_unseen,
    "case_pending": _own("pending"),
    "case_held": _own("held"),
    "case_escalated": _own("escalated"),
    "case_stale": _own("stale"),
    "cordon_budget": _single("gpuheal_cordon_budget_exhausted", between(EVENT, 999, 1.0, 0.0), 1.0),
    "rack_correlated": _correlated("rack"),
    "fabric_correlated": _correlated("fabric_domain"),
    "rollout_correlated": _rollout,
    "telemetry_anomaly": _anomaly,
    "rule_failures": pipeline.failures,
    "notifications_dropped": _single(
        "prometheus_notifications_dropped_total", lambda step: 0.0 if step < EVENT else 4.0, 4.0
    ),
    "node_label_missing": pipeline.no_node,
    "responder_silent": pipeline.responder_silent,
    "kmsg_lost": pipeline.kmsg_lost,
}
