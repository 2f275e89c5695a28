"""Cases for alerts whose expression stands on its own: fleet, pipeline and our own state."""

from __future__ import annotations

from collections.abc import Mapping

from gpuheal_rules.cases import pipeline, telemetry
from gpuheal_rules.cases.pipeline import alert_labels, expect, of_prometheus, wait_steps
from gpuheal_rules.cases.telemetry import Maker, frozen, kmsg, leaving, node_problem
from gpuheal_rules.cases.world import (
    NODE,
    Case,
    Query,
    Series,
    Timeline,
    always,
    between,
    lean,
)
from gpuheal_rules.cases.xid import EVENT
from gpuheal_rules.catalogue.model import Alert, Catalogue, Fault


def cases(_catalogue: Catalogue, fault: Fault, alert: Alert) -> list[Case]:
    """Return the cases of one such alert."""
    return MAKERS[alert.expr](fault, alert)


def _own(state: str, **more: str) -> Maker:
    def shows(first: int, last: int) -> list[Series]:
        labels = {"target_node": NODE, "job": "gpuheal-responder", "node": "cpu-node-1", "state": state, **more}
        own = Series(metric="gpuheal_case_state", labels=labels, at=between(first, last, 1.0, 0.0))
        return [*lean().series(), own]

    return node_problem(shows, guarded=False)


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
                series=[*_fleet(8, 3), *(s for index in range(3) for s in leaving(f"gpu-node-{index + 1}"))],
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
    "exporter_down": telemetry.down("exporter"),
    "dcgm_down": telemetry.down("dcgm"),
    "exporter_frozen": node_problem(frozen, lasting=8),
    "exporter_missing": telemetry.missing,
    "kmsg_down": node_problem(kmsg),
    "gpus_unseen": telemetry.unseen,
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
