"""How each piece of evidence shows in telemetry: the series that differ from the healthy ones while it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from gpuheal_rules.cases.world import BUSES, HEALTHY_GPU, UUIDS, Series, Timeline, Value, World
from gpuheal_rules.catalogue.model import Catalogue, Evidence, Signal

_EQUALS = re.compile(r'(\w+)="([^"]*)"')
Shown = Callable[[int], bool]
Show = Callable[[World, Shown], list[Series]]

SEEN = 100.0
"""Unix time of the event that timed evidence shows; the timestamp outlives the latch, as it may in the exporter."""

DEVICES = {"resource": "nvidia_com_gpu", "unit": "integer"}
SXID = {"switch": "0", "pci_bus_id": "0000:c1:00", "sxid": "12020", "link": "5", "severity": "fatal"}
SAMPLE_LABELS: Mapping[str, Mapping[str, str]] = {
    "clocks_thermal": {"reason": "hw_thermal"},
    "clocks_power_brake": {"reason": "hw_power_brake"},
    "ecc_uncorrected_volatile": {"severity": "uncorrected", "counter": "volatile", "location": "dram"},
    "ecc_corrected": {"severity": "corrected", "counter": "volatile", "location": "dram"},
    "remap_banks_exhausted": {"spare": "none"},
    "nvlink_errors": {"link": "3", "kind": "replay"},
    "nvlink_down": {"link": "3"},
    "remapped_rows": {"cause": "correctable"},
    "fabric_problem": {"problem": "bandwidth_degraded"},
    "probe_stuck": {"group": "health"},
    "kernel_recovery_action": {"pci_bus_id": BUSES[1]},
}
"""Labels a series of the signal carries besides those of GPU and target."""


def limit(catalogue: Catalogue, evidence: Evidence) -> float:
    """Return the number the evidence compares with."""
    if evidence.value is not None:
        return evidence.value
    return catalogue.thresholds[evidence.threshold].value


def bad_value(catalogue: Catalogue, evidence: Evidence) -> float:
    """Return a value just beyond the limit."""
    number = limit(catalogue, evidence)
    return {">": number + 1, "<": number - 1}.get(evidence.op, number)


def good_value(catalogue: Catalogue, evidence: Evidence) -> float:
    """Return a value that is well."""
    number = limit(catalogue, evidence)
    return number - 1 if evidence.op in (">=", "==") else number


def of_signal(world: World, signal: Signal, at: Timeline, gpu: int = 1, metric: str = "") -> list[Series]:
    """Return the signal's series for one GPU (or the node), under its first name unless another one is asked for."""
    # A site's own signal has the labels that it asks for.
    labels, metric = SAMPLE_LABELS.get(signal.name, dict(_EQUALS.findall(signal.match))), metric or signal.metrics[0]
    if signal.source == "dcgm":
        return world.of_dcgm(metric, gpu, at, **labels)
    own = {"gpu_uuid": UUIDS[gpu]} if signal.scope == "gpu" else {}
    return world.of_exporter(metric, {**own, **labels}, at)


def show(catalogue: Catalogue, evidence: Evidence) -> Show:
    """Return what makes the evidence hold."""
    if evidence.special:
        return SPECIAL_SHOWS[evidence.special]
    signal = catalogue.signals[evidence.signal]
    bad = bad_value(catalogue, evidence)
    good = HEALTHY_GPU.get(signal.metrics[0], 0.0 if evidence.op != "<" else bad + 20)
    return lambda world, shown: of_signal(world, signal, _switch(shown, bad, good))


def _switch(shown: Shown, bad: Value, good: Value) -> Timeline:
    return lambda step: bad if shown(step) else good


def _exporter(metric: str, labels: Mapping[str, str], bad: float, good: Value) -> Show:
    return lambda world, shown: world.of_exporter(metric, labels, _switch(shown, bad, good))


def _gpu(metric: str, bad: float, good: Value = None, **labels: str) -> Show:
    return _exporter(metric, {"gpu_uuid": UUIDS[1], **labels}, bad, good)


def _dcgm(metric: str, bad: float, good: Value) -> Show:
    return lambda world, shown: world.of_dcgm(metric, 1, _switch(shown, bad, good))


def _ksm(metric: str, bad: float, good: Value, **labels: str) -> Show:
    return lambda world, shown: world.of_ksm(metric, _switch(shown, bad, good), **labels)


def _kernel(kind: str, severity: str = "") -> Show:
    labels = {"gpu_uuid": UUIDS[1], "pci_bus_id": BUSES[1], "kind": kind, "severity": severity}

    def series(world: World, shown: Shown) -> list[Series]:
        return [
            *world.of_exporter("gpuheal_kernel_fault_latched", labels, _switch(shown, 1.0, 0.0)),
            *world.of_exporter("gpuheal_kernel_fault_last_timestamp_seconds", labels, _switch(shown, SEEN, SEEN)),
        ]

    return series


def _sxid(action: str) -> Show:
    def series(world: World, shown: Shown) -> list[Series]:
        info = {**SXID, "action": action, "scope": "device"}
        return [
            *world.of_exporter("gpuheal_sxid_latched", SXID, _switch(shown, 1.0, 0.0)),
            *world.of_exporter("gpuheal_sxid_last_timestamp_seconds", SXID, _switch(shown, SEEN, SEEN)),
            *world.of_exporter("gpuheal_sxid_resolution_info", info, _switch(shown, 1.0, None)),
        ]

    return series


def _owners(world: World, shown: Shown) -> list[Series]:
    found = world.xid(1, 31, 10)
    for index in range(3):
        labels = {
            "gpu_uuid": UUIDS[1],
            "exported_namespace": "team-a",
            "exported_pod": f"job-{'abc'[index]}",
            "container": "c",
        }
        found += world.of_exporter("gpuheal_gpu_pod_info", labels, _switch(shown, 1.0, None))
    return found


def _lost(world: World, shown: Shown) -> list[Series]:
    return world.of_exporter(
        "gpuheal_gpu_present", {"gpu_uuid": UUIDS[1], "pci_bus_id": BUSES[1]}, _switch(shown, 0.0, 1.0)
    )


def _unknown(world: World, shown: Shown) -> list[Series]:
    labels = {"gpu_uuid": UUIDS[1], "pci_bus_id": BUSES[1], "xid": "998"}
    return [
        *world.of_exporter("gpuheal_xid_latched", labels, _switch(shown, 1.0, None)),
        *world.of_exporter("gpuheal_xid_last_timestamp_seconds", labels, _switch(shown, SEEN, None)),
    ]


def _other_number(world: World, shown: Shown) -> list[Series]:
    return world.of_dcgm("DCGM_FI_DEV_XID_ERRORS", 1, _switch(shown, 998, 0), err_code="0", err_msg="No Error")


def _recovery(value: float) -> Mapping[str, Show]:
    """Return how a recovery action shows in each of its sources, by the end of the special's name."""
    return {
        "nvml": _gpu("gpuheal_gpu_recovery_action", value, 0.0),
        "kernel": _gpu("gpuheal_xid_recovery_action", value, 0.0, pci_bus_id=BUSES[1]),
        "dcgm": _dcgm("DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION", value, 0.0),
    }


SPECIAL_SHOWS: Mapping[str, Show] = {
    **{f"recovery_{source}": show for source, show in _recovery(2).items()},
    **{f"domain_{source}": show for source, show in _recovery(5).items()},
    **{f"future_{source}": show for source, show in _recovery(8).items()},
    "kernel_uvm": _kernel("uvm_fatal"),
    "kernel_init": _kernel("init_failed"),
    "kernel_training": _kernel("nvlink_rxdet_failed"),
    "fabric_stuck": _gpu("gpuheal_gpu_fabric_state", 2, 3.0),
    "dcgm_fabric_stuck": _dcgm("DCGM_FI_DEV_FABRIC_MANAGER_STATUS", 2, 3.0),
    "other_number": _other_number,
    "lost_nvml": _lost,
    "kernel_gpu_lost": _kernel("gpu_lost"),
    "kernel_pcie": _kernel("aer", "fatal"),
    "kernel_gsp": _kernel("gsp_rate_limited"),
    "pcie_below_maximum": _gpu("gpuheal_gpu_pcie_link_width", 8, 16.0),
    "allocatable_below_capacity": _ksm("kube_node_status_allocatable", 1, 2.0, **DEVICES),
    "capacity_below_inventory": _ksm("kube_node_status_capacity", 1, 2.0, **DEVICES),
    "pci_above_nvml": _exporter("gpuheal_nvml_devices", {}, 1, 2.0),
    "sxid_fatal": _sxid("reboot"),
    "sxid_degraded": _sxid("alert"),
    "fabric_manager_software": _exporter("gpuheal_software_up", {"component": "fabric_manager"}, 0, 1.0),
    "dcgm_fabric_manager": _dcgm("DCGM_FI_DEV_FABRIC_MANAGER_STATUS", 1, 3.0),
    "driver_module_missing": _exporter("gpuheal_driver_module_loaded", {"module": "nvidia"}, 0, 1.0),
    "plugin_software": _exporter("gpuheal_software_up", {"component": "device_plugin"}, 0, 1.0),
    "no_allocatable": _ksm("kube_node_status_allocatable", 0, 2.0, **DEVICES),
    "dcgm_clocks_thermal": _dcgm("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 0x20 + 4, 4.0),
    "dcgm_clocks_power_brake": _dcgm("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 0x80 + 0x8, 4.0),
    "slowdown_unexplained": _gpu("gpuheal_gpu_clocks_event", 1, None, reason="hw_slowdown"),
    "dcgm_slowdown_unexplained": _dcgm("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 0x8 + 1, 4.0),
    "suspect_owners": _owners,
    "other_xid": _unknown,
    "foreign_condition": _ksm(
        "kube_node_status_condition", 1, 0.0, condition="AcceleratedHardwareReady", status="false"
    ),
    "not_ready": _ksm("kube_node_status_condition", 0, 1.0, condition="Ready", status="true"),
    "rdma_port_down": _exporter("gpuheal_rdma_port_state", {"device": "mlx5_0", "port": "1"}, 1, 4.0),
}
