"""Turns the state of a node into metric families."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.catalogue.codes import sxid_rows
from gpuheal_exporters.collectors.definition import CollectorDef, KernelLog
from gpuheal_exporters.kernel.xid import RECOVERY_XID
from gpuheal_exporters.metrics.definition import MetricTable, counter, gauge
from gpuheal_exporters.node.latch import KeyT, LatchStore
from gpuheal_exporters.node.state import NodeExporterState

GPU = ("gpu_uuid", "pci_bus_id")
XID = (*GPU, "xid")
SXID = ("switch", "pci_bus_id", "sxid", "link", "severity")
FAULT = (*GPU, "kind", "severity")
METRICS = MetricTable(
    "kernel log",
    counter("gpuheal_xid_total", "Xid events since this boot's latch state was created.", XID),
    gauge(
        "gpuheal_xid_latched",
        "1 while the Xid is latched: from its first event to reboot, reset or acknowledgement.",
        XID,
    ),
    gauge("gpuheal_xid_first_timestamp_seconds", "Unix time of the first event of the latch.", XID, "seconds"),
    gauge("gpuheal_xid_last_timestamp_seconds", "Unix time of the last event of the latch.", XID, "seconds"),
    gauge(
        "gpuheal_xid_resolution_info",
        "1 while latched: the strongest required action, its source, and whether the link peer is to blame.",
        (*XID, "action", "basis", "severity", "blames"),
    ),
    gauge(
        "gpuheal_xid_cause_info",
        "1 while latched: the first Xid of the group of events that this one belongs to.",
        (*XID, "cause"),
    ),
    gauge("gpuheal_xid_recovery_action", "Recovery action requested in the last Xid 154 (0 none).", GPU, "code"),
    counter("gpuheal_xid_link_total", "NVLink Xid events by link.", (*XID, "link")),
    counter(
        "gpuheal_sxid_total",
        "NVSwitch SXid events since this boot's latch state was created; one per header line.",
        SXID,
    ),
    gauge("gpuheal_sxid_latched", "1 while the SXid is latched.", SXID),
    gauge("gpuheal_sxid_first_timestamp_seconds", "Unix time of the first event of the latch.", SXID, "seconds"),
    gauge("gpuheal_sxid_last_timestamp_seconds", "Unix time of the last event of the latch.", SXID, "seconds"),
    gauge(
        "gpuheal_sxid_resolution_info",
        "1 while latched: the action that the SXid requires, and its scope (device, link).",
        (*SXID, "action", "scope"),
    ),
    counter("gpuheal_kernel_fault_total", "Kernel log lines that report a fault without an Xid.", FAULT),
    gauge("gpuheal_kernel_fault_latched", "1 while a fault without an Xid is latched.", FAULT),
    gauge(
        "gpuheal_kernel_fault_first_timestamp_seconds", "Unix time of the first line of the latch.", FAULT, "seconds"
    ),
    gauge("gpuheal_kernel_fault_last_timestamp_seconds", "Unix time of the last line of the latch.", FAULT, "seconds"),
    gauge(
        "gpuheal_node_boot_info",
        "1 for the node's current boot.",
        ("boot_id",),
        source="/proc/sys/kernel/random/boot_id",
    ),
    gauge("gpuheal_node_boot_timestamp_seconds", "Unix time of the current boot.", (), "seconds", source="/proc/stat"),
    gauge(
        "gpuheal_exporter_drill",
        "1 if records written by user space are accepted (for drills only, never in production).",
        source="exporter",
    ),
    counter(
        "gpuheal_kmsg_foreign_records_total", "GPU fault messages that user space wrote to the kernel log; ignored."
    ),
    counter("gpuheal_kmsg_orphan_lines_total", "Continuation lines whose header line was not seen."),
    counter(
        "gpuheal_kmsg_not_understood_total",
        "NVIDIA driver lines that could not be parsed: wrapping (unknown prefix before the message), "
        "headline (Xid or SXid in a new format), message (any other line; most are unrelated to health).",
        ("reason",),
        "lines",
    ),
    counter(
        "gpuheal_kmsg_other_device_lines_total",
        "PCIe errors and lost links of devices that are neither a GPU nor a port upstream of one; not a GPU fault.",
        (),
        "lines",
    ),
    counter("gpuheal_latch_overflow_total", "Events dropped because a latch store was full.", source="exporter"),
    counter("gpuheal_latch_cleared_total", "Cleared latches, by reason.", ("reason",), "latches", source="exporter"),
)


def _levels(prefix: str, store: LatchStore[KeyT]) -> Iterator[Metric]:
    """Yield total, latched, first and last of one store; times only while latched."""
    total, latched = METRICS.family(f"{prefix}_total"), METRICS.family(f"{prefix}_latched")
    first, last = (
        METRICS.family(f"{prefix}_first_timestamp_seconds"),
        METRICS.family(f"{prefix}_last_timestamp_seconds"),
    )
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
        """Return the families of one consistent moment."""
        with self._state.lock:
            self._state.adopt()
            return [
                *self._xids(),
                *self._switches(),
                *_levels("gpuheal_kernel_fault", self._state.levels.faults),
                *self._node(),
            ]

    def _xids(self) -> Iterator[Metric]:
        state = self._state
        yield from _levels("gpuheal_xid", state.levels.xids)
        resolution, cause = METRICS.family("gpuheal_xid_resolution_info"), METRICS.family("gpuheal_xid_cause_info")
        recovery, links = METRICS.family("gpuheal_xid_recovery_action"), METRICS.family("gpuheal_xid_link_total")
        for key, entry in state.levels.xids.items():
            if entry.latched and entry.resolution is not None:
                why = entry.resolution
                resolution.add_metric((*key, why.action, why.basis, why.severity, why.blames), 1.0)
            if entry.latched and entry.cause:
                cause.add_metric((*key, entry.cause), 1.0)
            if key.xid == str(RECOVERY_XID) and key.pci_bus_id in state.levels.recovery:
                wanted = state.levels.recovery[key.pci_bus_id] if entry.latched else 0
                recovery.add_metric(key[:2], wanted)
        for link, entry in state.levels.links.items():
            links.add_metric(link, entry.total)
        yield from (resolution, cause, recovery, links)

    def _switches(self) -> Iterator[Metric]:
        yield from _levels("gpuheal_sxid", self._state.levels.sxids)
        resolution = METRICS.family("gpuheal_sxid_resolution_info")
        for key, entry in self._state.levels.sxids.items():
            if entry.latched and entry.resolution is not None:
                row = sxid_rows().get(int(key.sxid))
                scope = row.reach if row is not None and row.reach != "-" else ""
                resolution.add_metric((*key, entry.resolution.action, scope), 1.0)
        yield resolution

    def _node(self) -> Iterator[Metric]:
        state = self._state
        yield METRICS.single("gpuheal_node_boot_info", 1.0, state.boot_id)
        if state.boot_time:
            yield METRICS.single("gpuheal_node_boot_timestamp_seconds", state.boot_time)
        yield METRICS.single("gpuheal_exporter_drill", float(state.situation.drill))
        yield METRICS.single("gpuheal_kmsg_foreign_records_total", state.counts.foreign)
        yield METRICS.single("gpuheal_kmsg_orphan_lines_total", state.counts.orphans)
        yield METRICS.single("gpuheal_kmsg_other_device_lines_total", state.counts.other_devices)
        not_understood = METRICS.family("gpuheal_kmsg_not_understood_total")
        for reason, count in state.counts.not_understood.items():
            not_understood.add_metric((reason,), count)
        yield not_understood
        yield METRICS.single("gpuheal_latch_overflow_total", state.levels.overflow)
        cleared = METRICS.family("gpuheal_latch_cleared_total")
        for reason, count in state.levels.cleared.items():
            cleared.add_metric((reason,), count)
        yield cleared


COLLECTOR: CollectorDef[KernelLog] = CollectorDef(
    name="kernel", metrics=METRICS, build=lambda log: KernelCollector(log.state)
)
