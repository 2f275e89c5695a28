"""The PCIe link of each GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.metrics.nvml import Families
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot

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
        """The families of one snapshot."""
        out = Families()
        for gpu in self._snapshot().served():
            reading = gpu.reading("pcie")
            for name, key in _VALUES.items():
                out.add(name, reading.number(key), gpu.uuid)
            for kind, count in reading.table("errors").items():
                out.add("gpuheal_gpu_pcie_errors_total", count, gpu.uuid, kind)
        return out.all()
