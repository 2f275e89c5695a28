"""ECC errors, row remapping, page retirement and pending repairs of each GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, Hardware
from gpuheal_exporters.metrics.definition import Families, MetricTable, counter, gauge
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot, Reading

U = ("gpu_uuid",)
METRICS = MetricTable(
    "NVML",
    gauge("gpuheal_gpu_ecc_enabled", "1 if ECC is enabled.", U),
    gauge("gpuheal_gpu_ecc_pending", "1 if ECC will be enabled after the next reset or reboot.", U),
    counter(
        "gpuheal_gpu_ecc_errors_total",
        "ECC errors; volatile counters restart with the driver, aggregate counters are kept in the InfoROM.",
        ("gpu_uuid", "severity", "counter", "location"),
        "errors",
    ),
    gauge(
        "gpuheal_gpu_sram_threshold_exceeded", "1 if the SRAM error threshold is exceeded (run field diagnostics).", U
    ),
    counter(
        "gpuheal_gpu_sram_uncorrected_errors_total",
        "Aggregate uncorrected SRAM errors by detection method.",
        ("gpu_uuid", "kind"),
        "errors",
    ),
    counter(
        "gpuheal_gpu_sram_unit_errors_total",
        "Aggregate uncorrected SRAM errors by unit.",
        ("gpu_uuid", "unit"),
        "errors",
    ),
    counter("gpuheal_gpu_remapped_rows_total", "Rows remapped, kept in the InfoROM.", ("gpu_uuid", "cause"), "rows"),
    gauge("gpuheal_gpu_row_remap_pending", "1 if a row remap is pending until the next GPU reset.", U),
    gauge("gpuheal_gpu_row_remap_failed", "1 if a row remap failed because no spare row was left.", U),
    gauge(
        "gpuheal_gpu_row_remap_banks",
        "Memory banks by spare rows left (max, high, partial, low, none).",
        (*U, "spare"),
        "banks",
    ),
    gauge("gpuheal_gpu_retired_pages", "Retired pages (GPUs before Ampere).", ("gpu_uuid", "cause"), "pages"),
    gauge("gpuheal_gpu_retired_pages_pending", "1 if a page retirement is pending until the next reboot.", U),
    gauge("gpuheal_gpu_memory_unrepairable", "1 if the memory can no longer be repaired.", U),
    gauge(
        "gpuheal_gpu_repair_pending",
        "1 if a repair of this unit (channel, tpc) is pending until the next reset.",
        ("gpu_uuid", "unit"),
    ),
)


class MemoryCollector(Collector):
    """What NVML says about the memory of each present GPU."""

    def __init__(self, snapshot: Callable[[], NvmlSnapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Return the families of one snapshot."""
        out = METRICS.families()
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


COLLECTOR: CollectorDef[Hardware] = CollectorDef(
    name="memory", metrics=METRICS, build=lambda hardware: MemoryCollector(hardware.snapshot)
)
