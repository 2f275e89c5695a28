"""The PCIe link of each GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, Hardware
from gpuheal_exporters.metrics.definition import MetricTable, counter, gauge
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot

U = ("gpu_uuid",)
METRICS = MetricTable(
    "NVML",
    gauge("gpuheal_gpu_pcie_link_width", "PCIe lanes in use.", U, "lanes"),
    gauge("gpuheal_gpu_pcie_link_width_max", "PCIe lanes that both GPU and slot support.", U, "lanes"),
    gauge("gpuheal_gpu_pcie_link_generation", "PCIe generation in use; drops at idle.", U, "generation"),
    gauge("gpuheal_gpu_pcie_link_generation_max", "PCIe generation that both GPU and slot support.", U, "generation"),
    gauge(
        "gpuheal_gpu_pcie_link_generation_under_load",
        "PCIe generation when the GPU was last at 10 % utilisation or more: the one to compare with the maximum.",
        U,
        "generation",
    ),
    counter("gpuheal_gpu_pcie_replays_total", "PCIe replays since the driver was loaded.", U, "replays"),
    counter(
        "gpuheal_gpu_pcie_errors_total",
        "PCIe errors by kind, nonzero counters only.",
        ("gpu_uuid", "kind"),
        "errors",
    ),
)
_VALUES = {
    "gpuheal_gpu_pcie_link_width": "width",
    "gpuheal_gpu_pcie_link_width_max": "width_max",
    "gpuheal_gpu_pcie_link_generation": "generation",
    "gpuheal_gpu_pcie_link_generation_max": "generation_max",
    "gpuheal_gpu_pcie_link_generation_under_load": "generation_under_load",
    "gpuheal_gpu_pcie_replays_total": "replays",
}


class PcieCollector(Collector):
    """Width, generation (now, at most, and when last under load), replays and errors of each present GPU."""

    def __init__(self, snapshot: Callable[[], NvmlSnapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Return the families of one snapshot."""
        out = METRICS.families()
        for gpu in self._snapshot().served():
            reading = gpu.reading("pcie")
            for name, key in _VALUES.items():
                out.add(name, reading.number(key), gpu.uuid)
            for kind, count in reading.table("errors").items():
                out.add("gpuheal_gpu_pcie_errors_total", count, gpu.uuid, kind)
        return out.all()


COLLECTOR: CollectorDef[Hardware] = CollectorDef(
    name="pcie", metrics=METRICS, build=lambda hardware: PcieCollector(hardware.snapshot)
)
