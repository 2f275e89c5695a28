"""Cases for problems of one node's telemetry: targets that are down, frozen, missing, or show no GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpuheal_rules.cases.pipeline import alert_labels, expect, wait_steps
from gpuheal_rules.cases.world import (
    NODE,
    STEP_SECONDS,
    TOPOLOGY,
    UUIDS,
    Case,
    Query,
    Series,
    Timeline,
    World,
    always,
    between,
    lean,
    merged,
    settled,
    since,
    until,
)
from gpuheal_rules.cases.xid import EVENT
from gpuheal_rules.catalogue.model import Alert, Fault

Maker = Callable[[Fault, Alert], list[Case]]


def leaving(node: str) -> list[Series]:
    """Return the taint of a node that the autoscaler is about to delete."""
    return World(node=node).of_ksm("kube_node_spec_taint", always(1), key="ToBeDeletedByClusterAutoscaler")


def _ready(at: Timeline) -> Series:
    return World().of_ksm("kube_node_status_condition", at, condition="Ready", status="true")[0]


def node_problem(shows: Callable[[int, int], list[Series]], *, lasting: int = 0, guarded: bool = True) -> Maker:
    """Return a maker of the cases of a problem of one node that begins at EVENT and ends."""

    def make(fault: Fault, alert: Alert) -> list[Case]:
        fires = (alert_labels(fault, alert, node=NODE, **TOPOLOGY), 1.0)
        first = EVENT + lasting + wait_steps(alert)
        end = first + 4
        # Whether the left edge of a window counts depends on the version, so nothing is asked one step before.
        quiet = first - (2 if lasting else 1)
        guard = Case(
            name=f"{alert.name} is quiet for a node that the autoscaler is about to delete",
            series=[*shows(EVENT, end), *leaving(NODE)],
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


def frozen(first: int, last: int) -> list[Series]:
    """Return a node whose exporter answers, and whose heartbeat stands still for a while."""

    def beat(step: int) -> float:
        return float((first if first <= step < last else step) * STEP_SECONDS)

    world = lean()
    return merged(world.series(), world.of_exporter("gpuheal_exporter_heartbeat_timestamp_seconds", {}, beat))


def kmsg(first: int, last: int) -> list[Series]:
    """Return a node whose exporter cannot read the kernel log for a while."""
    world = lean()
    return merged(world.series(), world.of_exporter("gpuheal_kmsg_up", {}, between(first, last, 0.0, 1.0)))


def down(source: str) -> Maker:
    """Return a maker of the cases of a target (`exporter` or `dcgm`) that cannot be scraped."""

    def down(first: int, last: int) -> list[Series]:
        return [*lean(**{source: lambda step: not first <= step < last}).series(), _ready(always(1))]

    def make(fault: Fault, alert: Alert) -> list[Case]:
        return [*node_problem(down)(fault, alert), *_down_nodes(source, fault, alert)]

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
            queries=[Query(step=end, expr=f"count({not_ready})", samples=[("{}", 1)])],
            steps=end,
        ),
        Case(
            name=f"{alert.name} takes a node that answers node-exporter for alive, without kube-state-metrics",
            series=[*lean(**away).series(), host],
            alerts=[expect(alert, end, fires), expect(alert, end + 20)],
            steps=end + 20,
        ),
        Case(
            name=f"{alert.name} fires where nobody lists the nodes",
            series=lean(**away).series(),
            alerts=[expect(alert, end, fires)],
            steps=end,
            alone=True,
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


def missing(fault: Fault, alert: Alert) -> list[Case]:
    """Return the cases of a node that nobody has a target for."""
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
            series=[*never.series(), *leaving(NODE)],
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
    return World(exporter=None, present=lambda _gpu, step: not first <= step < last).series()


def _without_inventory(first: int) -> list[Series]:
    """Return a node whose exporter shows no GPU from a step on."""
    found = lean(dcgm=None).series()
    gone = [s for s in found if s.metric in ("gpuheal_gpu_info", "gpuheal_gpu_present")]
    return merged(found, [replace(s, at=until(first, 1.0)) for s in gone])


def _uncounted(world: World) -> list[Series]:
    """Return the node as Kubernetes has it with dynamic resource allocation: ready, without GPUs in its capacity."""
    return [s for s in replace(world, rich=True).series() if not s.metric.startswith("kube_node_status_capacity")]


def unseen(fault: Fault, alert: Alert) -> list[Case]:
    """Return the cases of a target that shows no GPUs, or not all of them."""
    fires = (alert_labels(fault, alert, node=NODE, **TOPOLOGY), 1.0)
    at = EVENT + wait_steps(alert) + 6
    return [
        *node_problem(_unseen)(fault, alert),
        *(
            Case(
                name=f"{alert.name} {'fires' if told else 'is quiet'} {when}",
                series=series,
                alerts=[expect(alert, at, *([fires] if told else []))],
                steps=at,
            )
            for told, when, series in _views()
        ),
    ]


def _views() -> list[tuple[bool, str, list[Series]]]:
    """Return views of a node that are to be told or not, and when that is."""
    counted, nvml = World(exporter=None, dcgm=None), lean(dcgm=None)
    one_gone: dict[str, Any] = {"present": lambda gpu, step: gpu != 1 or step < EVENT}
    none: dict[str, Any] = {"present": lambda _gpu, _step: False}
    emptied: dict[str, Any] = {"exporter": None, "present": lambda _gpu, step: step < EVENT}
    nothing = [replace(s, at=always(0)) for s in counted.series() if s.metric == "kube_node_status_capacity"]
    fallen = lean(exporter=None, **one_gone)
    code = fallen.of_dcgm("DCGM_FI_DEV_XID_ERRORS", 1, since(EVENT - 4, 79, 0.0), err_code="0", err_msg="No Error")
    page = World(dcgm=lambda _step: True, exporter=None, **none).series()
    return [
        (
            True,
            "for an exporter that shows no GPU while Kubernetes counts some",
            [*_without_inventory(EVENT), *counted.series()],
        ),
        (False, "for an exporter that shows no GPU where Kubernetes counts none", _without_inventory(EVENT)),
        (False, "for an exporter that shows no GPU where Kubernetes counts 0", [*_without_inventory(EVENT), *nothing]),
        (True, "for a page that never had a GPU while Kubernetes counts some", page),
        (False, "for a page that never had a GPU where Kubernetes counts 0", merged(page, nothing)),
        (False, "for a page that never had a GPU where Kubernetes counts none", lean(exporter=None, **none).series()),
        (True, "for a page that lost its GPUs where Kubernetes counts none", lean(**emptied).series()),
        (
            False,
            "for the empty page of a node with dynamic resource allocation whose GPUs NVML shows",
            [*nvml.series(), *nvml.of_exporter("gpuheal_nvml_devices", {}, always(2)), *_uncounted(lean(**emptied))],
        ),
        (
            True,
            "for the empty page of a node with dynamic resource allocation whose GPUs NVML does not show",
            [*nvml.series(), *nvml.of_exporter("gpuheal_nvml_devices", {}, always(0)), *_uncounted(lean(**emptied))],
        ),
        (
            True,
            "for the empty page of a node whose GPUs NVML shows and Kubernetes counts",
            [*World(dcgm=None).series(), *World(**emptied).series()],
        ),
        (
            True,
            "for the empty page of a node whose GPUs NVML shows, where nobody counts any",
            [*nvml.series(), *nvml.of_exporter("gpuheal_nvml_devices", {}, always(2)), *lean(**emptied).series()],
        ),
        (True, "for a GPU that left the page of a node with dynamic resource allocation", _uncounted(fallen)),
        (
            False,
            "for a GPU that left the page and that NVML shows",
            [*lean(dcgm=None).series(), *_uncounted(fallen)],
        ),
        (False, "for a GPU that left the page after an Xid 79: that is told", merged(_uncounted(fallen), code)),
        (
            False,
            "for a GPU that is lost and settled",
            [*fallen.series(), settled("gpu-fell-off-bus", UUIDS[1], EVENT + 5, EVENT + 5)],
        ),
        (
            False,
            "for a dcgm-exporter that is down",
            lean(exporter=None, dcgm=lambda step: step < EVENT).series(),
        ),
    ]  # fmt: skip
