"""A simulated node as promtool input series, and test files as values.

Time runs in steps of one scrape. A `Timeline` is what a series shows at each step: a number, `None` for no sample, or
`STALE` for the marker Prometheus writes when a target or series goes away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STEP_SECONDS = 15
LONG_STEPS = 150
"""Cases above it share a test of their own, so that they do not make the others long."""

STALE = "stale"
Value = float | str | None
Timeline = Callable[[int], Value]

NODE, OTHER_NODE = "gpu-node-1", "gpu-node-2"
UUIDS = ("GPU-11111111-0000-0000-0000-000000000000", "GPU-11111111-0000-0000-0000-000000000001")
BUSES = ("0000:1b:00", "0000:3b:00")
DCGM_BUSES = ("00000000:1B:00.0", "00000000:3B:00.0")
TOPOLOGY = {"rack": "r1", "zone": "z1", "fabric_domain": "f1"}


HEALTHY_GPU = {
    "gpuheal_gpu_recovery_action": 0,
    "gpuheal_gpu_nvlinks_active": 18,
    "gpuheal_gpu_nvlinks_expected": 18,
    "gpuheal_gpu_pcie_link_width": 16,
    "gpuheal_gpu_pcie_link_width_max": 16,
    "gpuheal_gpu_pcie_link_generation_under_load": 5,
    "gpuheal_gpu_pcie_link_generation_max": 5,
    "gpuheal_gpu_temperature_margin_celsius": 40,
    "gpuheal_gpu_fabric_health": 1,
    "gpuheal_gpu_row_remap_pending": 0,
    "gpuheal_gpu_row_remap_failed": 0,
    "gpuheal_gpu_sram_threshold_exceeded": 0,
}
HEALTHY_DCGM = {
    "DCGM_FI_DEV_MEMORY_TEMP": 60,
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": 4,
    "DCGM_FI_DEV_FABRIC_MANAGER_STATUS": 3,
    "DCGM_FI_DEV_ROW_REMAP_PENDING": 0,
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": 0,
}
HEALTHY_NODE: Sequence[tuple[str, Mapping[str, str], float]] = (
    ("gpuheal_probe_stuck", {"group": "health"}, 0),
    ("gpuheal_nvml_abandoned_children", {}, 0),
    ("gpuheal_driver_version_mismatch", {}, 0),
    ("gpuheal_driver_module_loaded", {"module": "nvidia"}, 1),
    ("gpuheal_driver_pci_gpus", {}, 2),
    ("gpuheal_nvml_devices", {}, 2),
    ("gpuheal_software_up", {"component": "fabric_manager"}, 1),
    ("gpuheal_software_expected", {"component": "fabric_manager"}, 1),
    ("gpuheal_software_up", {"component": "device_plugin"}, 1),
    ("gpuheal_software_expected", {"component": "device_plugin"}, 1),
    ("gpuheal_rdma_port_state", {"device": "mlx5_0", "port": "1"}, 4),
    ("gpuheal_rdma_port_state", {"device": "mlx5_9", "port": "1"}, 1),
    ("gpuheal_rdma_exclusive", {}, 0),
    ("gpuheal_nvml_driver_info", {"driver_version": "580.65.06"}, 1),
)
HEALTHY_CONDITIONS = (
    ("Ready", "true", 1),
    ("AcceleratedHardwareReady", "true", 1),
    ("AcceleratedHardwareReady", "false", 0),
    ("GPUMissing", "true", 0),
    ("NT_NPU_CARD_LOSE", "unknown", 1),
    ("GPUHealthy", "false", 1),
    ("MemoryPressure", "false", 1),
)
"""Conditions of a node that is well: foreign ones of both polarities, one unknown, and one of our own that says no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One input series."""

    metric: str
    labels: Mapping[str, str]
    at: Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What must fire at a step: all instances of an alert with labels and value; none means it is quiet."""

    step: int
    alertname: str
    fires: Sequence[tuple[Mapping[str, str], float]] = ()
    counted: bool = True
    """Whether the value is the number of witness classes of the fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What an expression must return at a step; labels are written as a metric, for example `{node="a"}`."""

    step: int
    expr: str
    samples: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One promtool test: a name that states the fact, the series, and the expectations."""

    name: str
    series: Sequence[Series]
    alerts: Sequence[Expectation] = ()
    queries: Sequence[Query] = ()
    steps: int = 60
    alone: bool = False
    """True when something in it is not of one node, so that it cannot share a test with other cases."""


@dataclass(slots=True, kw_only=True)
class World:
    """The healthy telemetry of one node with two GPUs, to which a case adds its fault.

    `exporter` and `dcgm` tell whether the target answers at a step; `pod` names the exporter pod at a step, so that a
    restart changes target labels as it does in a cluster. A world that is not `rich` shows only what identity and
    presence need; it keeps tests small.
    """

    node: str = NODE
    uuids: Sequence[str] = UUIDS
    exporter: Callable[[int], bool] | None = field(default=lambda _step: True)
    dcgm: Callable[[int], bool] | None = field(default=lambda _step: True)
    restart_at: int | None = None
    present: Callable[[int, int], bool] = field(default=lambda _gpu, _step: True)
    topology: Mapping[str, str] = field(default_factory=lambda: dict(TOPOLOGY))
    ksm: Callable[[int], bool] | None = field(default=lambda _step: True)
    booted_at: float = -86400.0
    rich: bool = True

    def series(self) -> list[Series]:
        """Return the series of the healthy node."""
        found: list[Series] = []
        if self.exporter is not None:
            found += self._exporter()
        if self.dcgm is not None:
            found += self._dcgm()
        if self.ksm is not None and self.rich:
            found += self._ksm()
        return found

    def of_ksm(self, metric: str, at: Timeline, **labels: str) -> list[Series]:
        """Return a metric of kube-state-metrics about this node."""
        if self.ksm is None:
            return []
        target = {"job": "kube-state-metrics", "instance": "10.0.0.2:8080"}
        return [
            Series(metric=metric, labels={"node": self.node, **labels, **target}, at=_living(at, self.ksm, 0, None))
        ]

    def of_exporter(self, metric: str, labels: Mapping[str, str], at: Timeline) -> list[Series]:
        """Return a metric of the exporter: it ends with its target, and changes target labels when the pod restarts."""
        if self.exporter is None:
            return []
        up = self.exporter
        found = []
        for index, (first, last) in enumerate(self._lives()):
            target = {"job": "gpuheal-exporter", "instance": f"10.0.0.{5 + index}:9500", "node": self.node}
            found.append(
                Series(metric=metric, labels={**labels, **target, **self.topology}, at=_living(at, up, first, last))
            )
        return found

    def of_dcgm(self, metric: str, gpu: int, at: Timeline, **labels: str) -> list[Series]:
        """Return a metric of dcgm-exporter for one GPU (by index); it ends with the GPU and with the target."""
        if self.dcgm is None:
            return []
        up, present = self.dcgm, self.present
        own = {
            "gpu": str(gpu),
            "UUID": self.uuids[gpu],
            "pci_bus_id": DCGM_BUSES[gpu],
            "modelName": "NVIDIA H100 80GB HBM3",
            "Hostname": self.node,
        }
        target = {"job": "dcgm-exporter", "instance": "10.0.0.9:9400", "node": self.node, **self.topology}
        there = _living(at, lambda step: up(step) and present(gpu, step), 0, None)
        return [Series(metric=metric, labels={**own, **labels, **target}, at=there)]

    def xid(self, gpu: int, code: int, first: int, last: int | None = None, cleared: int | None = None) -> list[Series]:
        """Return the latch of an Xid first seen just before step `first`, again before `last`, gone from `cleared`."""
        labels = {"gpu_uuid": self.uuids[gpu], "pci_bus_id": BUSES[gpu], "xid": str(code)}
        again = first if last is None else last

        def level(value: Callable[[int], float]) -> Timeline:
            return lambda step: None if step < first or (cleared is not None and step >= cleared) else value(step)

        def stamp(step: int) -> float:
            return event_time(again if step >= again else first)

        return [
            *self.of_exporter("gpuheal_xid_total", labels, level(lambda step: 2.0 if step >= again > first else 1.0)),
            *self.of_exporter("gpuheal_xid_latched", labels, level(lambda _step: 1.0)),
            *self.of_exporter("gpuheal_xid_first_timestamp_seconds", labels, level(lambda _step: event_time(first))),
            *self.of_exporter("gpuheal_xid_last_timestamp_seconds", labels, level(stamp)),
        ]

    def _lives(self) -> list[tuple[int, int | None]]:
        return [(0, None)] if self.restart_at is None else [(0, self.restart_at), (self.restart_at, None)]

    def _exporter(self) -> list[Series]:
        up = self.exporter
        assert up is not None
        found = self._up("gpuheal-exporter", up)
        beat: Timeline = lambda step: float(step * STEP_SECONDS)  # noqa: E731
        found += self.of_exporter("gpuheal_exporter_heartbeat_timestamp_seconds", {}, beat)
        found += self.of_exporter("gpuheal_kmsg_up", {}, always(1))
        found += self.of_exporter("gpuheal_nvml_up", {}, always(1))
        for gpu, uuid in enumerate(self.uuids):
            bus = BUSES[gpu]
            info = {"serial": f"165{gpu}", "slot": str(gpu), "product": "NVIDIA H100 80GB HBM3"}
            found += self.of_exporter("gpuheal_gpu_info", {"gpu_uuid": uuid, "pci_bus_id": bus, **info}, always(1))
            found += self.of_exporter("gpuheal_gpu_present", {"gpu_uuid": uuid, "pci_bus_id": bus}, self._present(gpu))
            for metric, value in HEALTHY_GPU.items() if self.rich else ():
                found += self.of_exporter(metric, {"gpu_uuid": uuid}, always(value))
        for metric, labels, reading in HEALTHY_NODE if self.rich else ():
            found += self.of_exporter(metric, labels, always(reading))
        found += self.of_exporter("gpuheal_node_boot_timestamp_seconds", {}, always(self.booted_at))
        return found

    def _ksm(self) -> list[Series]:
        up = self.ksm
        assert up is not None
        target = {"job": "kube-state-metrics", "instance": "10.0.0.2:8080"}
        found = [Series(metric="up", labels=target, at=lambda step: 1.0 if up(step) else 0.0)]
        count = float(len(self.uuids))
        for metric in ("kube_node_status_capacity", "kube_node_status_allocatable"):
            found += self.of_ksm(metric, always(count), resource="nvidia_com_gpu", unit="integer")
        for condition, status, value in HEALTHY_CONDITIONS:
            found += self.of_ksm("kube_node_status_condition", always(value), condition=condition, status=status)
        return found

    def _present(self, gpu: int) -> Timeline:
        return lambda step: 1.0 if self.present(gpu, step) else 0.0

    def _dcgm(self) -> list[Series]:
        up = self.dcgm
        assert up is not None
        found = self._up("dcgm-exporter", up)
        for gpu in range(len(self.uuids)):
            found += self.of_dcgm("DCGM_FI_DEV_GPU_TEMP", gpu, always(45))
            found += self.of_dcgm("DCGM_FI_DEV_SM_CLOCK", gpu, always(1980))
            for metric, value in HEALTHY_DCGM.items() if self.rich else ():
                found += self.of_dcgm(metric, gpu, always(value))
            found += self.of_dcgm("DCGM_FI_DEV_XID_ERRORS", gpu, self._no_xid(), err_code="0", err_msg="No Error")
        return found

    def _no_xid(self) -> Timeline:
        return always(0)

    def _up(self, job: str, up: Callable[[int], bool]) -> list[Series]:
        port = "9500" if job == "gpuheal-exporter" else "9400"
        labels = {"job": job, "instance": f"10.0.0.5:{port}", "node": self.node, **self.topology}
        return [Series(metric="up", labels=labels, at=lambda step: 1.0 if up(step) else 0.0)]


def lean(**given: Any) -> World:
    """Return a world that shows only what identity and presence need."""
    return World(rich=False, **given)


def always(value: float) -> Timeline:
    """Return a series that always shows `value`."""
    return lambda _step: float(value)


def since(step: int, value: float, before: Value = None) -> Timeline:
    """Return a series that shows `value` from `step` on and `before` earlier."""
    return lambda now: float(value) if now >= step else before


def between(first: int, last: int, value: float, otherwise: Value = None) -> Timeline:
    """Return a series that shows `value` from `first` up to, not including, `last`."""
    return lambda now: float(value) if first <= now < last else otherwise


def until(step: int, value: float) -> Timeline:
    """Return a series that shows `value` before `step` and ends there."""
    return lambda now: float(value) if now < step else STALE if now == step else None


def event_time(step: int) -> float:
    """Return the unix time of an event that the scrape at `step` is the first to show; off the edge of any window."""
    return step * STEP_SECONDS - 7.0


def merged(healthy: Sequence[Series], changed: Sequence[Series]) -> list[Series]:
    """Return the healthy series with those replaced that `changed` gives anew, and the other changed ones added."""
    found = {(s.metric, frozenset(s.labels.items())): s for s in healthy}
    found |= {(s.metric, frozenset(s.labels.items())): s for s in changed}
    return list(found.values())


def settled(fault: str, gpu_uuid: str, step: int, at: int, node: str = NODE) -> Series:
    """Return the responder's settlement, exported from `step` on, of all evidence up to the time of step `at`."""
    labels = {"target_node": node, "fault": fault, "job": "gpuheal-responder", "node": "cpu-node-1", "pod": "r-0"}
    if gpu_uuid:
        labels["gpu_uuid"] = gpu_uuid
    return Series(
        metric="gpuheal_fault_cleared_timestamp_seconds", labels=labels, at=since(step, float(at * STEP_SECONDS))
    )


def _living(at: Timeline, up: Callable[[int], bool], first: int, last: int | None) -> Timeline:
    def value(step: int) -> Value:
        alive = step >= first and (last is None or step < last) and up(step)
        now = at(step) if alive else None
        if now is not None or step == 0:
            return now
        before = step > first and (last is None or step <= last) and up(step - 1) and at(step - 1) is not None
        return STALE if before else None

    return value
