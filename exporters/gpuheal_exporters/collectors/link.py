"""NVLinks and the fabric behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, Hardware
from gpuheal_exporters.host.inventory import NodeInventory, active_links
from gpuheal_exporters.metrics.definition import Families, MetricTable, counter, gauge
from gpuheal_exporters.nvml.snapshot import Gpu, NvmlSnapshot

LINK = ("gpu_uuid", "link")
U = ("gpu_uuid",)
METRICS = MetricTable(
    "NVML",
    gauge("gpuheal_gpu_nvlinks_active", "NVLinks that are up.", U, "links"),
    gauge(
        "gpuheal_gpu_nvlinks_expected",
        "NVLinks expected to be up: all on a fabric, else the most ever seen on this GPU or its siblings.",
        U,
        "links",
        source="NVML, inventory",
    ),
    gauge(
        "gpuheal_gpu_nvlink_down",
        "1 for a link that is down but expected to be up; no series for links that are up.",
        LINK,
    ),
    gauge("gpuheal_gpu_nvlink_info", "1 for the NVLink version.", ("gpu_uuid", "version")),
    counter(
        "gpuheal_gpu_nvlink_errors_total",
        "NVLink errors by kind, nonzero counters only; link=all if the GPU counts all links together.",
        (*LINK, "kind"),
        "errors",
    ),
    gauge(
        "gpuheal_gpu_nvlink_bit_error_ratio", "Bit error ratio (NVLink5), only if nonzero.", (*LINK, "kind"), "ratio"
    ),
    gauge(
        "gpuheal_gpu_fabric_state",
        "Fabric registration: 0 not supported, 1 not started, 2 in progress, 3 completed.",
        U,
        "code",
    ),
    gauge("gpuheal_gpu_fabric_status", "NVML return code of a completed registration (0 success).", U, "code"),
    gauge(
        "gpuheal_gpu_fabric_problem",
        "1 if the fabric reports this problem, 0 if it reports none.",
        ("gpu_uuid", "problem"),
    ),
    gauge(
        "gpuheal_gpu_fabric_misconfiguration_info",
        "1 for the incorrect configuration that the fabric reports.",
        ("gpu_uuid", "reason"),
    ),
    gauge("gpuheal_gpu_fabric_health", "Fabric health summary: 1 healthy, 2 unhealthy, 3 limited capacity.", U, "code"),
    gauge(
        "gpuheal_gpu_fabric_info",
        "1 for the GPU's NVLink domain and clique.",
        ("gpu_uuid", "cluster_uuid", "clique"),
    ),
)
_PROBLEMS = (
    # name, first bit, value that means a problem, value that means none; NVML_GPU_FABRIC_HEALTH_MASK_* in nvml.h
    ("degraded_bandwidth", 0, 1, 2),
    ("route_recovery", 2, 1, 2),
    ("route_unhealthy", 4, 1, 2),
    ("access_timeout", 6, 1, 2),
    ("partition_unassigned", 12, 2, 1),  # these two are the other way round: 1 says assigned, connected
    ("manager_disconnected", 14, 2, 1),
)
_MISCONFIGURATION_BIT = 8
_MISCONFIGURATIONS = {
    2: "system_guid",
    3: "chassis_serial",
    4: "no_partition",
    5: "insufficient_nvlinks",
    6: "gpu_firmware",
    7: "location",
    8: "gpu_state",
}


def fabric_problems(mask: int) -> tuple[dict[str, bool], str]:
    """Return problem → whether it exists, for each the mask speaks of, and why a configuration is incorrect, or "".

    0x1aa and 0x51aa are healthy. A value the header does not know is left out, an unknown reason is its number.
    """
    problems = {}
    for name, bit, bad, good in _PROBLEMS:
        value = mask >> bit & 0x3
        if value in (bad, good):
            problems[name] = value == bad
    code = mask >> _MISCONFIGURATION_BIT & 0xF
    if code == 0:
        return problems, ""
    problems["incorrect_configuration"] = code != 1
    return problems, "" if code == 1 else _MISCONFIGURATIONS.get(code, str(code))


class LinkCollector(Collector):
    """Links up, expected and down, errors that are not zero, and the fabric's health, of each present GPU."""

    def __init__(self, snapshot: Callable[[], NvmlSnapshot], inventory: NodeInventory) -> None:
        self._snapshot = snapshot
        self._inventory = inventory

    def collect(self) -> Iterable[Metric]:
        """Return the families of one snapshot."""
        out = METRICS.families()
        for gpu in self._snapshot().served():
            self._links(out, gpu)
            _fabric(out, gpu)
        return out.all()

    def _links(self, out: Families, gpu: Gpu) -> None:
        reading = gpu.reading("nvlink")
        expected = self._inventory.expected_links(gpu)
        if expected is not None:
            out.add("gpuheal_gpu_nvlinks_active", active_links(gpu), gpu.uuid)
            out.add("gpuheal_gpu_nvlinks_expected", expected, gpu.uuid)
            for link, state in reading.table("states").items():
                if not state and active_links(gpu) < expected:
                    out.add("gpuheal_gpu_nvlink_down", 1, gpu.uuid, link)
        if reading.text("version"):
            out.add("gpuheal_gpu_nvlink_info", 1, gpu.uuid, reading.text("version"))
        for link, kinds in reading.tables("errors").items():
            for kind, count in kinds.items():
                out.add("gpuheal_gpu_nvlink_errors_total", count, gpu.uuid, link, kind)
        for link, kinds in reading.tables("ratios").items():
            for kind, ratio in kinds.items():
                out.add("gpuheal_gpu_nvlink_bit_error_ratio", ratio, gpu.uuid, link, kind)


def _fabric(out: Families, gpu: Gpu) -> None:
    reading = gpu.reading("fabric")
    state = reading.number("state")
    out.add("gpuheal_gpu_fabric_state", state, gpu.uuid)
    if state == 3:
        out.add("gpuheal_gpu_fabric_status", reading.number("status"), gpu.uuid)
        problems, reason = fabric_problems(int(reading.number("mask") or 0))
        for problem, exists in problems.items():
            out.add("gpuheal_gpu_fabric_problem", exists, gpu.uuid, problem)
        if reason:
            out.add("gpuheal_gpu_fabric_misconfiguration_info", 1, gpu.uuid, reason)
        out.add("gpuheal_gpu_fabric_health", reading.number("summary") or None, gpu.uuid)
        if reading.text("cluster"):
            clique = str(int(reading.number("clique") or 0))
            out.add("gpuheal_gpu_fabric_info", 1, gpu.uuid, reading.text("cluster"), clique)


COLLECTOR: CollectorDef[Hardware] = CollectorDef(
    name="link", metrics=METRICS, build=lambda hardware: LinkCollector(hardware.snapshot, hardware.inventory)
)
