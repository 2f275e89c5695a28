"""Every metric of the NVML half, of the GPU software's health and of attribution, as data; METRICS.md is made from
this table too.

Per-GPU series carry `gpu_uuid` alone; address, serial, slot and product are joined from gpuheal_gpu_info. A value the
GPU does not have has no series. Counters are the driver's: volatile ones restart at a driver reload or GPU reset.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gpuheal_exporters.metrics.kernel import METRICS as KERNEL_METRICS
from gpuheal_exporters.metrics.kernel import MetricDef, family_of

U = ("gpu_uuid",)
LINK = ("gpu_uuid", "link")
PORT = ("device", "port")


def _gauge(name: str, help_: str, labels: tuple[str, ...] = U, unit: str = "1", source: str = "NVML") -> MetricDef:
    return MetricDef(name=name, type="gauge", help=help_, labels=labels, unit=unit, source=source)


def _counter(name: str, help_: str, labels: tuple[str, ...], unit: str = "errors", source: str = "NVML") -> MetricDef:
    return MetricDef(name=name, type="counter", help=help_, labels=labels, unit=unit, source=source)


_SOURCE = (
    _gauge("gpuheal_nvml_state_info", "1 for the reason why NVML answers or does not.", ("state",)),
    _gauge(
        "gpuheal_nvml_driver_info",
        "1 for the versions NVML reports.",
        ("driver_version", "nvml_version", "cuda_version"),
    ),
    _gauge(
        "gpuheal_nvml_devices", "GPUs NVML lists, lost ones among them where the driver still lists them.", (), "GPUs"
    ),
    _gauge("gpuheal_nvml_observed_timestamp_seconds", "Unix time NVML last said anything.", (), "seconds"),
    _counter(
        "gpuheal_nvml_restarts_total",
        "NVML child processes that died or had to be killed.",
        (),
        "processes",
        "exporter",
    ),
    _gauge(
        "gpuheal_nvml_abandoned_children",
        "Child processes that SIGKILL did not end: blocked in the driver.",
        (),
        "processes",
    ),
    _gauge("gpuheal_probe_stuck", "1 while a probe of the group has not returned by its deadline.", ("group",)),
    _gauge("gpuheal_gpu_probe_stuck", "1 while this GPU's probe of the group has not returned.", ("gpu_uuid", "group")),
    _gauge(
        "gpuheal_probe_duration_seconds", "Duration of the group's last round over all GPUs.", ("group",), "seconds"
    ),
    _gauge(
        "gpuheal_probe_last_round_timestamp_seconds", "Unix time of the group's last full round.", ("group",), "seconds"
    ),
    _counter("gpuheal_probe_errors_total", "Error answers of NVML by group and return code.", ("group", "code")),
)
_GPU = (
    _gauge("gpuheal_gpu_observed_timestamp_seconds", "Unix time the GPU last answered.", U, "seconds"),
    _gauge("gpuheal_gpu_reset_required", "1 if a call was refused until the GPU is reset."),
    _gauge("gpuheal_gpu_performance_state", "Performance state, 0 (fastest) to 15.", U, "state"),
    _gauge("gpuheal_gpu_persistence_mode", "1 if persistence mode is on."),
    _gauge("gpuheal_gpu_mig_enabled", "1 if MIG mode is on."),
    _gauge(
        "gpuheal_mig_device_info",
        "1 for each MIG device; faults are told of the parent GPU.",
        ("gpu_uuid", "mig_uuid", "gpu_instance", "compute_instance"),
    ),
)
_MEMORY = (
    _gauge("gpuheal_gpu_ecc_enabled", "1 if ECC is on."),
    _gauge("gpuheal_gpu_ecc_pending", "1 if ECC will be on after the next reset or reboot."),
    _counter(
        "gpuheal_gpu_ecc_errors_total",
        "ECC errors; volatile ones restart with the driver, aggregate ones are kept in the InfoROM.",
        ("gpu_uuid", "severity", "counter", "location"),
    ),
    _gauge("gpuheal_gpu_sram_threshold_exceeded", "1 if the SRAM error threshold is exceeded: run field diagnostics."),
    _counter(
        "gpuheal_gpu_sram_uncorrected_errors_total",
        "Aggregate uncorrected SRAM errors by detection.",
        ("gpu_uuid", "kind"),
    ),
    _counter("gpuheal_gpu_sram_unit_errors_total", "Aggregate uncorrected SRAM errors by unit.", ("gpu_uuid", "unit")),
    _counter("gpuheal_gpu_remapped_rows_total", "Rows remapped, kept in the InfoROM.", ("gpu_uuid", "cause"), "rows"),
    _gauge("gpuheal_gpu_row_remap_pending", "1 if a remap takes effect at the next GPU reset."),
    _gauge("gpuheal_gpu_row_remap_failed", "1 if a remap failed: no spare row was left."),
    _gauge(
        "gpuheal_gpu_row_remap_banks",
        "Memory banks by spare rows left (max, high, partial, low, none).",
        (*U, "spare"),
        "banks",
    ),
    _gauge("gpuheal_gpu_retired_pages", "Pages retired, GPUs before Ampere.", ("gpu_uuid", "cause"), "pages"),
    _gauge("gpuheal_gpu_retired_pages_pending", "1 if a page retirement waits for a reboot."),
    _gauge("gpuheal_gpu_memory_unrepairable", "1 if the memory can't be repaired any more."),
    _gauge(
        "gpuheal_gpu_repair_pending",
        "1 if a repair of this unit (channel, tpc) waits for a reset.",
        ("gpu_uuid", "unit"),
    ),
)
_LINKS = (
    _gauge("gpuheal_gpu_nvlinks_active", "NVLinks that are up.", U, "links"),
    _gauge(
        "gpuheal_gpu_nvlinks_expected",
        "NVLinks that should be up: all with a fabric, else the most ever seen up on this GPU or its siblings.",
        U,
        "links",
        "NVML, inventory",
    ),
    _gauge(
        "gpuheal_gpu_nvlink_down",
        "1 for a link that is down while others are expected up; no series for links that are up.",
        LINK,
    ),
    _gauge("gpuheal_gpu_nvlink_info", "1 for the NVLink version.", ("gpu_uuid", "version")),
    _counter(
        "gpuheal_gpu_nvlink_errors_total",
        "NVLink errors by kind, only counters that are not zero; link=all where the GPU counts all links together.",
        (*LINK, "kind"),
    ),
    _gauge(
        "gpuheal_gpu_nvlink_bit_error_ratio", "Bit error ratio (NVLink5), only if not zero.", (*LINK, "kind"), "ratio"
    ),
    _gauge(
        "gpuheal_gpu_fabric_state",
        "Fabric registration: 0 not supported, 1 not started, 2 in progress, 3 completed.",
        U,
        "code",
    ),
    _gauge("gpuheal_gpu_fabric_status", "NVML code of a completed registration, 0 is success.", U, "code"),
    _gauge(
        "gpuheal_gpu_fabric_problem",
        "1 if the fabric reports this problem, 0 if it says there is none.",
        ("gpu_uuid", "problem"),
    ),
    _gauge(
        "gpuheal_gpu_fabric_misconfiguration_info",
        "1 for the incorrect configuration the fabric reports.",
        ("gpu_uuid", "reason"),
    ),
    _gauge("gpuheal_gpu_fabric_health", "Summary: 1 healthy, 2 unhealthy, 3 limited capacity.", U, "code"),
    _gauge(
        "gpuheal_gpu_fabric_info",
        "1 for the NVLink domain and clique of the GPU.",
        ("gpu_uuid", "cluster_uuid", "clique"),
    ),
)
_PCIE = (
    _gauge("gpuheal_gpu_pcie_link_width", "PCIe lanes in use.", U, "lanes"),
    _gauge("gpuheal_gpu_pcie_link_width_max", "PCIe lanes GPU and slot can use.", U, "lanes"),
    _gauge("gpuheal_gpu_pcie_link_generation", "PCIe generation in use; falls at idle.", U, "generation"),
    _gauge("gpuheal_gpu_pcie_link_generation_max", "PCIe generation GPU and slot can use.", U, "generation"),
    _gauge(
        "gpuheal_gpu_pcie_link_generation_under_load",
        "PCIe generation when the GPU was last seen at 10 % load or more: the one to compare with the maximum.",
        U,
        "generation",
    ),
    _counter("gpuheal_gpu_pcie_replays_total", "PCIe replays since the driver was loaded.", U, "replays"),
    _counter(
        "gpuheal_gpu_pcie_errors_total", "PCIe errors by kind, only counters that are not zero.", ("gpu_uuid", "kind")
    ),
)
_THERMAL = (
    _gauge("gpuheal_gpu_temperature_celsius", "Temperature of the GPU.", U, "celsius"),
    _gauge("gpuheal_gpu_memory_temperature_celsius", "Temperature of the memory.", U, "celsius"),
    _gauge(
        "gpuheal_gpu_temperature_limit_celsius",
        "The device's own limits: shutdown, slowdown, memory, gpu_max.",
        ("gpu_uuid", "limit"),
        "celsius",
    ),
    _gauge(
        "gpuheal_gpu_temperature_margin_celsius", "Distance to the thermal limit; Ada, Hopper and newer.", U, "celsius"
    ),
    _gauge(
        "gpuheal_gpu_temperature_limit_margin_celsius",
        "The margin at which slowdown, shutdown … begin; Ada, Hopper and newer.",
        ("gpu_uuid", "limit"),
        "celsius",
    ),
    _gauge("gpuheal_gpu_power_watts", "Power drawn.", U, "watts"),
    _gauge("gpuheal_gpu_power_limit_watts", "Power limit in force.", U, "watts"),
    _gauge("gpuheal_gpu_clocks_event", "1 while this reason holds the clocks down.", ("gpu_uuid", "reason")),
    _counter(
        "gpuheal_gpu_throttled_seconds_total",
        "Time the clocks were held down, by reason.",
        ("gpu_uuid", "reason"),
        "seconds",
    ),
)
_SOFTWARE = (
    _gauge("gpuheal_driver_module_loaded", "1 if the kernel module is loaded.", ("module",), source="/proc/modules"),
    _gauge(
        "gpuheal_driver_kernel_info",
        "1 for the loaded kernel module's version and kind (open or proprietary).",
        ("version", "kind"),
        source="/proc/driver/nvidia/version",
    ),
    _gauge(
        "gpuheal_driver_version_mismatch",
        "1 if NVML's library and the kernel module are of different versions.",
        (),
        source="NVML, /proc/driver/nvidia/version",
    ),
    _gauge(
        "gpuheal_driver_pci_gpus",
        "NVIDIA GPUs on the PCI bus, whatever the driver thinks of them.",
        (),
        "GPUs",
        "/sys/bus/pci/devices",
    ),
    _gauge(
        "gpuheal_software_up",
        "1 if the component runs, 0 if not; no series where it can't be told (processes of the host not visible).",
        ("component",),
        source="/proc, unix sockets",
    ),
    _gauge(
        "gpuheal_software_expected",
        "1 if this node needs the component: it has NVSwitches, or it was seen since the exporter started.",
        ("component",),
        source="/dev, /sys, /proc",
    ),
)
_SYSFS = "/sys/class/infiniband"
_RDMA = (
    _gauge("gpuheal_rdma_port_state", "Logical state: 1 down, 2 init, 3 armed, 4 active.", PORT, "code", _SYSFS),
    _gauge(
        "gpuheal_rdma_port_physical_state", "Physical state: 2 polling, 3 disabled, 5 link up.", PORT, "code", _SYSFS
    ),
    _gauge(
        "gpuheal_rdma_port_info",
        "1 for what the port is: InfiniBand or Ethernet, and the network device.",
        (*PORT, "link_layer", "net_device"),
        source=_SYSFS,
    ),
    _gauge("gpuheal_rdma_port_rate_bytes_per_second", "Signalling rate of the port.", PORT, "bytes/s", _SYSFS),
    _counter("gpuheal_rdma_port_link_downed_total", "Times the link went down.", PORT, "events", _SYSFS),
    _counter(
        "gpuheal_rdma_port_errors_total",
        "Port errors by kind, as the kernel names them.",
        (*PORT, "kind"),
        "errors",
        _SYSFS,
    ),
)
_PODS = (
    _gauge(
        "gpuheal_gpu_pod_info",
        "1 for each container that holds the GPU or one of its MIG devices.",
        ("gpu_uuid", "namespace", "pod", "container"),
        source="kubelet pod-resources",
    ),
    _gauge(
        "gpuheal_pod_resources_up",
        "1 if the kubelet's pod-resources socket answers.",
        (),
        source="kubelet pod-resources",
    ),
    _gauge(
        "gpuheal_pod_resources_observed_timestamp_seconds",
        "Unix time of the kubelet's last answer.",
        (),
        "seconds",
        "kubelet pod-resources",
    ),
)
METRICS: tuple[MetricDef, ...] = _SOURCE + _GPU + _MEMORY + _LINKS + _PCIE + _THERMAL + _SOFTWARE + _RDMA + _PODS
_BY_NAME: Mapping[str, MetricDef] = {metric.name: metric for metric in (*KERNEL_METRICS, *METRICS)}


class Families:
    """Families filled in any order and given out in the order of first use, so that each name appears once."""

    def __init__(self) -> None:
        self._families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """One sample of a metric in the tables, unless the value is None; KeyError for a name that is in none of
        them.
        """
        if value is None:
            return
        made = self._families.get(name)
        if made is None:
            made = self._families[name] = family_of(_BY_NAME[name])
        made.add_metric(labels, float(value))

    def all(self) -> list[Metric]:
        return list(self._families.values())
