"""Turns the state of a node into metric families."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.catalogue.codes import sxid_rows
from gpuheal_exporters.kernel.xid import RECOVERY_XID
from gpuheal_exporters.metrics.kernel import family, single
from gpuheal_exporters.node.latch import KeyT, LatchStore
from gpuheal_exporters.node.state import NodeExporterState


def _levels(prefix: str, store: LatchStore[KeyT]) -> Iterator[Metric]:
    """total, latched, first and last of one store; times only while latched."""
    total, latched = family(f"{prefix}_total"), family(f"{prefix}_latched")
    first, last = family(f"{prefix}_first_timestamp_seconds"), family(f"{prefix}_last_timestamp_seconds")
    for key, entry in store.items():
        total.add_metric(key, entry.total)
        if not (entry.latched or entry.first):
            continue  # was only counted, never a level
        latched.add_metric(key, 1.0 if entry.latched else 0.0)
        if entry.latched:
            first.add_metric(key, entry.first)
            last.add_metric(key, entry.last)
    yield from (total, latched, first, last)


class KernelCollector(Collector):
    """The kernel-log half of one node: Xids, switch events, other faults, and the node's boot."""

    def __init__(self, state: NodeExporterState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """The families of one consistent moment."""
        with self._state.lock:
            self._state.adopt()
            return [
                *self._xids(),
                *self._switches(),
                *_levels("gpuheal_kernel_fault", self._state.faults),
                *self._node(),
            ]

    def _xids(self) -> Iterator[Metric]:
        state = self._state
        yield from _levels("gpuheal_xid", state.xids)
        resolution, cause = family("gpuheal_xid_resolution_info"), family("gpuheal_xid_cause_info")
        recovery, links = family("gpuheal_xid_recovery_action"), family("gpuheal_xid_link_total")
        for key, entry in state.xids.items():
            if entry.latched and entry.resolution is not None:
                why = entry.resolution
                resolution.add_metric((*key, why.action, why.basis, why.severity, why.blames), 1.0)
            if entry.latched and entry.cause:
                cause.add_metric((*key, entry.cause), 1.0)
            if key.xid == str(RECOVERY_XID) and key.pci_bus_id in state.recovery:
                wanted = state.recovery[key.pci_bus_id] if entry.latched else 0
                recovery.add_metric(key[:2], wanted)
        for link, entry in state.links.items():
            links.add_metric(link, entry.total)
        yield from (resolution, cause, recovery, links)

    def _switches(self) -> Iterator[Metric]:
        yield from _levels("gpuheal_sxid", self._state.sxids)
        resolution = family("gpuheal_sxid_resolution_info")
        for key, entry in self._state.sxids.items():
            if entry.latched and entry.resolution is not None:
                row = sxid_rows().get(int(key.sxid))
                scope = row.reach if row is not None and row.reach != "-" else ""
                resolution.add_metric((*key, entry.resolution.action, scope), 1.0)
        yield resolution

    def _node(self) -> Iterator[Metric]:
        state = self._state
        yield single("gpuheal_node_boot_info", 1.0, state.boot_id)
        if state.boot_time:
            yield single("gpuheal_node_boot_timestamp_seconds", state.boot_time)
        yield single("gpuheal_exporter_drill", float(state.drill))
        yield single("gpuheal_kmsg_foreign_records_total", state.counts.foreign)
        yield single("gpuheal_kmsg_orphan_lines_total", state.counts.orphans)
        yield single("gpuheal_latch_overflow_total", state.overflow)
        cleared = family("gpuheal_latch_cleared_total")
        for reason, count in state.counts.cleared.items():
            cleared.add_metric((reason,), count)
        yield cleared


class InventoryCollector(Collector):
    """gpuheal_gpu_info for every GPU that the inventory knows or the log named."""

    def __init__(self, state: NodeExporterState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """One family."""
        info = family("gpuheal_gpu_info")
        known = self._state.inventory.gpus()
        for gpu in known:
            info.add_metric((gpu.gpu_uuid, gpu.pci_bus_id, gpu.serial, gpu.slot, gpu.product), 1.0)
        with self._state.lock:
            learned = dict(self._state.learned)
        uuids, addresses = {gpu.gpu_uuid for gpu in known}, {gpu.pci_bus_id for gpu in known}
        for pci, uuid in learned.items():
            if uuid not in uuids and pci not in addresses:
                uuids.add(uuid)
                info.add_metric((uuid, pci, "", "", ""), 1.0)
        return [info]
