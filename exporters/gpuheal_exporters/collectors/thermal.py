"""Temperature against the device's own limits, power, and what holds the clocks down."""

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
    gauge("gpuheal_gpu_temperature_celsius", "GPU temperature.", U, "celsius"),
    gauge("gpuheal_gpu_memory_temperature_celsius", "GPU memory temperature.", U, "celsius"),
    gauge(
        "gpuheal_gpu_temperature_limit_celsius",
        "Temperature limits reported by the GPU: shutdown, slowdown, memory, gpu_max.",
        ("gpu_uuid", "limit"),
        "celsius",
    ),
    gauge(
        "gpuheal_gpu_temperature_margin_celsius", "Margin to the thermal limit (Ada, Hopper and newer).", U, "celsius"
    ),
    gauge(
        "gpuheal_gpu_temperature_limit_margin_celsius",
        "Margin at which slowdown, shutdown … start (Ada, Hopper and newer).",
        ("gpu_uuid", "limit"),
        "celsius",
    ),
    gauge("gpuheal_gpu_power_watts", "Power drawn.", U, "watts"),
    gauge("gpuheal_gpu_power_limit_watts", "Power limit in force.", U, "watts"),
    gauge("gpuheal_gpu_clocks_event", "1 while the clocks are throttled for this reason.", ("gpu_uuid", "reason")),
    counter(
        "gpuheal_gpu_throttled_seconds_total",
        "Time the clocks were throttled, by reason.",
        ("gpu_uuid", "reason"),
        "seconds",
    ),
)
_POWER = {"gpuheal_gpu_power_watts": "power_mw", "gpuheal_gpu_power_limit_watts": "power_limit_mw"}
_REASONS = {
    # nvmlClocksEventReason* in nvml.h; idle, application clocks and display clocks say nothing about health
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "hw_power_brake": 0x80,
}


class ThermalCollector(Collector):
    """Thermal, power and clock state of each present GPU."""

    def __init__(self, snapshot: Callable[[], NvmlSnapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Return the families of one snapshot."""
        out = METRICS.families()
        for gpu in self._snapshot().served():
            reading = gpu.reading("thermal")
            _temperatures(out, gpu.uuid, reading)
            for name, key in (
                ("gpuheal_gpu_power_watts", "power_mw"),
                ("gpuheal_gpu_power_limit_watts", "power_limit_mw"),
            ):
                milliwatts = reading.number(key)
                out.add(name, None if milliwatts is None else milliwatts / 1e3, gpu.uuid)
            mask = reading.number("reasons")
            for reason, bit in _REASONS.items() if mask is not None else ():
                out.add("gpuheal_gpu_clocks_event", bool(int(mask or 0) & bit), gpu.uuid, reason)
            for reason, nanoseconds in reading.table("throttled_ns").items():
                out.add("gpuheal_gpu_throttled_seconds_total", nanoseconds / 1e9, gpu.uuid, reason)
        return out.all()


def _temperatures(out: Families, uuid: str, reading: Reading) -> None:
    out.add("gpuheal_gpu_temperature_celsius", reading.number("temperature"), uuid)
    out.add("gpuheal_gpu_memory_temperature_celsius", reading.number("memory_temperature"), uuid)
    out.add("gpuheal_gpu_temperature_margin_celsius", reading.number("margin"), uuid)
    for limit, degrees in reading.table("limits").items():
        out.add("gpuheal_gpu_temperature_limit_celsius", degrees, uuid, limit)
    for limit, degrees in reading.table("margins").items():
        out.add("gpuheal_gpu_temperature_limit_margin_celsius", degrees, uuid, limit)


COLLECTOR: CollectorDef[Hardware] = CollectorDef(
    name="thermal", metrics=METRICS, build=lambda hardware: ThermalCollector(hardware.snapshot)
)
