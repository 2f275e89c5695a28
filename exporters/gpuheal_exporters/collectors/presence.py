"""Whether NVML answers, how its probes fare, and which GPUs are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.polled import Polled
from gpuheal_exporters.host.inventory import NodeInventory
from gpuheal_exporters.metrics.nvml import Families
from gpuheal_exporters.nvml.schedule import PROBES
from gpuheal_exporters.nvml.snapshot import Gpu, NvmlSnapshot


class SourceCollector(Collector):
    """The condition of NVML and of the child that asks it."""

    def __init__(self, snapshot: Callable[[], NvmlSnapshot], polled: Sequence[Polled] = ()) -> None:
        self._snapshot = snapshot
        self._polled = polled

    def collect(self) -> Iterable[Metric]:
        """The families of one snapshot; polled collectors are groups beside the NVML probes."""
        now, out = self._snapshot(), Families()
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
        for polled in self._polled:
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
        """The families of one snapshot; a lost GPU keeps its presence series and nothing else."""
        now, out = self._snapshot(), Families()
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
