"""ECC errors, row remapping, page retirement and pending repairs of each GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.metrics.nvml import Families
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot, Reading


class MemoryCollector(Collector):
    """What NVML says about the memory of each present GPU."""

    def __init__(self, snapshot: Callable[[], NvmlSnapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """The families of one snapshot."""
        out = Families()
        for gpu in self._snapshot().served():
            reading = gpu.reading("memory")
            _ecc(out, gpu.uuid, reading)
            _rows(out, gpu.uuid, reading)
        return out.all()


def _ecc(out: Families, uuid: str, reading: Reading) -> None:
    out.add("gpuheal_gpu_ecc_enabled", reading.number("ecc"), uuid)
    out.add("gpuheal_gpu_ecc_pending", reading.number("ecc_pending"), uuid)
    for key, count in reading.table("errors").items():
        severity, counter, location = key.split("/")
        out.add("gpuheal_gpu_ecc_errors_total", count, uuid, severity, counter, location)
    out.add("gpuheal_gpu_sram_threshold_exceeded", reading.number("sram_exceeded"), uuid)
    for kind, count in reading.table("sram_kinds").items():
        out.add("gpuheal_gpu_sram_uncorrected_errors_total", count, uuid, kind)
    for unit, count in reading.table("sram_units").items():
        out.add("gpuheal_gpu_sram_unit_errors_total", count, uuid, unit)


def _rows(out: Families, uuid: str, reading: Reading) -> None:
    out.add("gpuheal_gpu_remapped_rows_total", reading.number("rows_correctable"), uuid, "correctable")
    out.add("gpuheal_gpu_remapped_rows_total", reading.number("rows_uncorrectable"), uuid, "uncorrectable")
    out.add("gpuheal_gpu_row_remap_pending", reading.number("rows_pending"), uuid)
    out.add("gpuheal_gpu_row_remap_failed", reading.number("rows_failed"), uuid)
    for spare, banks in reading.table("banks").items():
        out.add("gpuheal_gpu_row_remap_banks", banks, uuid, spare)
    for cause, pages in reading.table("pages").items():
        out.add("gpuheal_gpu_retired_pages", pages, uuid, cause)
    out.add("gpuheal_gpu_retired_pages_pending", reading.number("pages_pending"), uuid)
    out.add("gpuheal_gpu_memory_unrepairable", reading.number("unrepairable"), uuid)
    out.add("gpuheal_gpu_repair_pending", reading.number("channel_repair"), uuid, "channel")
    out.add("gpuheal_gpu_repair_pending", reading.number("tpc_repair"), uuid, "tpc")
