"""Whether NVML answers, how its probes fare, and which GPUs are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, Hardware
from gpuheal_exporters.collectors.polled import Polled
from gpuheal_exporters.host.inventory import NodeInventory
from gpuheal_exporters.metrics.definition import Families, MetricTable, counter, gauge
from gpuheal_exporters.nvml.schedule import PROBES
from gpuheal_exporters.nvml.snapshot import Gpu, NvmlSnapshot

GPU = ("gpu_uuid", "pci_bus_id")
U = ("gpu_uuid",)
METRICS = MetricTable(
    "NVML",
    gauge("gpuheal_nvml_up", "1 if NVML responds."),
    gauge("gpuheal_nvml_state_info", "1 for the reason why NVML responds or does not.", ("state",)),
    gauge(
        "gpuheal_nvml_driver_info",
        "1 for the versions that NVML reports.",
        ("driver_version", "nvml_version", "cuda_version"),
    ),
    gauge("gpuheal_nvml_devices", "GPUs listed by NVML, including lost GPUs that the driver still lists.", (), "GPUs"),
    gauge("gpuheal_nvml_observed_timestamp_seconds", "Unix time of NVML's last response.", (), "seconds"),
    counter(
        "gpuheal_nvml_restarts_total",
        "NVML child processes that died or had to be killed.",
        (),
        "processes",
        source="exporter",
    ),
    gauge(
        "gpuheal_nvml_abandoned_children",
        "Child processes that survived SIGKILL because they are blocked in the driver.",
        (),
        "processes",
    ),
    gauge("gpuheal_probe_stuck", "1 while a probe of the group is past its deadline.", ("group",)),
    gauge(
        "gpuheal_gpu_probe_stuck", "1 while this GPU's probe of the group is past its deadline.", ("gpu_uuid", "group")
    ),
    gauge("gpuheal_probe_duration_seconds", "Duration of the group's last cycle over all GPUs.", ("group",), "seconds"),
    gauge(
        "gpuheal_probe_last_round_timestamp_seconds",
        "Unix time of the group's last complete cycle.",
        ("group",),
        "seconds",
    ),
    counter("gpuheal_probe_errors_total", "NVML errors by group and return code.", ("group", "code"), "errors"),
    gauge("gpuheal_gpu_present", "1 if NVML sees the GPU, 0 if it is lost; absent without NVML.", GPU),
    gauge(
        "gpuheal_gpu_recovery_action",
        "Recovery action reported by NVML (0 none, 1 GPU reset, 2 reboot, 3 drain P2P, 4 drain and reset).",
        ("gpu_uuid",),
        "code",
    ),
    gauge("gpuheal_gpu_observed_timestamp_seconds", "Unix time of the GPU's last response.", U, "seconds"),
    gauge("gpuheal_gpu_reset_required", "1 if NVML calls fail until the GPU is reset.", U),
    gauge("gpuheal_gpu_performance_state", "Performance state, 0 (fastest) to 15.", U, "state"),
    gauge("gpuheal_gpu_persistence_mode", "1 if persistence mode is enabled.", U),
    gauge("gpuheal_gpu_mig_enabled", "1 if MIG mode is enabled.", U),
    gauge(
        "gpuheal_mig_device_info",
        "1 for each MIG device; faults are reported for its parent GPU.",
        ("gpu_uuid", "mig_uuid", "gpu_instance", "compute_instance"),
    ),
)


class SourceCollector(Collector):
    """The condition of NVML and of the child that asks it."""

    def __init__(self, snapshot: Callable[[], NvmlSnapshot], polled: Callable[[], Sequence[Polled]] = tuple) -> None:
        self._snapshot = snapshot
        self._polled = polled

    def collect(self) -> Iterable[Metric]:
        """Return the families of one snapshot; polled collectors are groups beside the NVML probes."""
        now, out = self._snapshot(), METRICS.families()
        out.add("gpuheal_nvml_up", now.up)
        out.add("gpuheal_nvml_state_info", 1, now.state.value)
        if now.driver_version:
            out.add("gpuheal_nvml_driver_info", 1, now.driver_version, now.nvml_version, now.cuda_version)
        out.add("gpuheal_nvml_devices", now.device_count if now.serving else None)
        out.add("gpuheal_nvml_observed_timestamp_seconds", now.observed_at or None)
        out.add("gpuheal_nvml_restarts_total", now.restarts)
        out.add("gpuheal_nvml_abandoned_children", now.abandoned)
        stuck = {each.group for each in now.stuck}
        for group in PROBES:
            out.add("gpuheal_probe_stuck", group in stuck, group)
        for polled in self._polled():
            out.add("gpuheal_probe_stuck", polled.stuck, polled.name)
            out.add("gpuheal_probe_duration_seconds", polled.duration_seconds, polled.name)
            out.add("gpuheal_probe_last_round_timestamp_seconds", polled.observed_at or None, polled.name)
        for each in now.stuck:
            if each.gpu_uuid:
                out.add("gpuheal_gpu_probe_stuck", 1, each.gpu_uuid, each.group)
        for group, health in sorted(now.groups.items()):
            if health.observed_at:
                out.add("gpuheal_probe_duration_seconds", health.duration_seconds, group)
                out.add("gpuheal_probe_last_round_timestamp_seconds", health.observed_at, group)
            for code, count in sorted(health.errors.items()):
                out.add("gpuheal_probe_errors_total", count, group, str(code))
        return out.all()


class PresenceCollector(Collector):
    """Every GPU of the inventory, present or lost, with the driver's verdict on it."""

    def __init__(self, snapshot: Callable[[], NvmlSnapshot], inventory: NodeInventory) -> None:
        self._snapshot = snapshot
        self._inventory = inventory

    def collect(self) -> Iterable[Metric]:
        """Return the families of one snapshot; a lost GPU keeps its presence series and nothing else."""
        now, out = self._snapshot(), METRICS.families()
        for record in self._inventory.records():
            if record.present is not None and now.serving:
                out.add("gpuheal_gpu_present", record.present, record.uuid, record.pci)
        for gpu in now.gpus if now.serving else ():
            out.add("gpuheal_gpu_observed_timestamp_seconds", gpu.observed_at or None, gpu.uuid)
            if gpu.present:
                _verdict(out, gpu)
        return out.all()


def _verdict(out: Families, gpu: Gpu) -> None:
    recovery = gpu.reading("recovery")
    out.add("gpuheal_gpu_recovery_action", recovery.number("action"), gpu.uuid)
    if recovery.observed_at:
        out.add("gpuheal_gpu_reset_required", recovery.number("reset_required") or 0, gpu.uuid)
    out.add("gpuheal_gpu_performance_state", recovery.number("pstate"), gpu.uuid)
    out.add("gpuheal_gpu_persistence_mode", gpu.reading("thermal").number("persistence"), gpu.uuid)
    out.add("gpuheal_gpu_mig_enabled", gpu.mig, gpu.uuid)
    for each in gpu.instances:
        out.add("gpuheal_mig_device_info", 1, gpu.uuid, each.uuid, str(each.gpu_instance), str(each.compute_instance))


COLLECTOR: CollectorDef[Hardware] = CollectorDef(
    name="presence", metrics=METRICS, build=lambda hardware: PresenceCollector(hardware.snapshot, hardware.inventory)
)
SOURCE: CollectorDef[Hardware] = CollectorDef(
    name="nvml", metrics=METRICS, build=lambda hardware: SourceCollector(hardware.snapshot, hardware.polled)
)


class NoNvml(Collector):
    """gpuheal_nvml_up 0, for an exporter that was told not to ask NVML."""

    def collect(self) -> Iterable[Metric]:
        """Return one family."""
        return [METRICS.single("gpuheal_nvml_up", 0.0)]
