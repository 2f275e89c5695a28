"""Every metric of the kernel-log half and of the exporter itself, as data; METRICS.md is made from this table.

The label `node` is never set here: Prometheus attaches it when it scrapes. `pci_bus_id` is always `dddd:bb:dd` in
lower case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.metrics.exposition import exposition

GPU = ("gpu_uuid", "pci_bus_id")
XID = (*GPU, "xid")
SXID = ("switch", "pci_bus_id", "sxid", "link", "severity")
FAULT = (*GPU, "kind", "severity")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDef:
    """One metric: `type` is counter or gauge, `unit` what the value counts, `source` where it is read."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()
    unit: str = "1"
    source: str = "kernel log"


def _gauge(
    name: str, help_: str, labels: tuple[str, ...] = (), unit: str = "1", source: str = "kernel log"
) -> MetricDef:
    return MetricDef(name=name, type="gauge", help=help_, labels=labels, unit=unit, source=source)


def _counter(
    name: str, help_: str, labels: tuple[str, ...] = (), unit: str = "events", source: str = "kernel log"
) -> MetricDef:
    return MetricDef(name=name, type="counter", help=help_, labels=labels, unit=unit, source=source)


_XIDS = (
    _counter("gpuheal_xid_total", "Xid events since the latch state of this boot began.", XID),
    _gauge(
        "gpuheal_xid_latched",
        "1 while the Xid is latched: from its first event to reboot, reset or acknowledgement.",
        XID,
    ),
    _gauge("gpuheal_xid_first_timestamp_seconds", "Unix time of the first event of the latch.", XID, "seconds"),
    _gauge("gpuheal_xid_last_timestamp_seconds", "Unix time of the last event of the latch.", XID, "seconds"),
    _gauge(
        "gpuheal_xid_resolution_info",
        "1 while latched: the strongest action asked for, who decided it, and whether the link's peer is blamed.",
        (*XID, "action", "basis", "severity", "blames"),
    ),
    _gauge(
        "gpuheal_xid_cause_info",
        "1 while latched: the first Xid of the group of events this one belongs to.",
        (*XID, "cause"),
    ),
    _gauge(
        "gpuheal_xid_recovery_action", "Recovery step the driver asked for in the last Xid 154 (0 none).", GPU, "code"
    ),
    _counter("gpuheal_xid_link_total", "NVLink Xid events by link.", (*XID, "link")),
)
_SWITCH = (
    _counter("gpuheal_sxid_total", "NVSwitch events since the latch state of this boot began; one per headline.", SXID),
    _gauge("gpuheal_sxid_latched", "1 while the switch event is latched.", SXID),
    _gauge("gpuheal_sxid_first_timestamp_seconds", "Unix time of the first event of the latch.", SXID, "seconds"),
    _gauge("gpuheal_sxid_last_timestamp_seconds", "Unix time of the last event of the latch.", SXID, "seconds"),
    _gauge(
        "gpuheal_sxid_resolution_info",
        "1 while latched: the action the switch event asks for and how far it reaches (device, link).",
        (*SXID, "action", "scope"),
    ),
)
_FAULTS = (
    _counter("gpuheal_kernel_fault_total", "Kernel lines that report a fault without an Xid.", FAULT),
    _gauge("gpuheal_kernel_fault_latched", "1 while a fault that carries no Xid is latched.", FAULT),
    _gauge(
        "gpuheal_kernel_fault_first_timestamp_seconds", "Unix time of the first line of the latch.", FAULT, "seconds"
    ),
    _gauge("gpuheal_kernel_fault_last_timestamp_seconds", "Unix time of the last line of the latch.", FAULT, "seconds"),
)
_NODE = (
    _gauge(
        "gpuheal_gpu_info",
        "1 for every GPU known on this node, lost ones too.",
        (*GPU, "serial", "slot", "product"),
        source="inventory",
    ),
    _gauge("gpuheal_gpu_present", "1 if NVML sees the GPU, 0 if it is lost; absent without NVML.", GPU, source="NVML"),
    _gauge(
        "gpuheal_gpu_recovery_action",
        "Recovery step NVML reports (0 none, 1 GPU reset, 2 reboot, 3 drain P2P, 4 drain and reset).",
        ("gpu_uuid",),
        "code",
        "NVML",
    ),
    _gauge("gpuheal_nvml_up", "1 if NVML answers.", source="NVML"),
    _gauge(
        "gpuheal_node_boot_info",
        "1 for the boot the node runs in.",
        ("boot_id",),
        source="/proc/sys/kernel/random/boot_id",
    ),
    _gauge("gpuheal_node_boot_timestamp_seconds", "Unix time of the boot.", (), "seconds", "/proc/stat"),
)
_SOURCE = (
    _gauge("gpuheal_kmsg_up", "1 if the kernel log can be read."),
    _gauge("gpuheal_kmsg_source_info", "1 for the source in use: kmsg, journal, file or none.", ("source",)),
    _counter("gpuheal_kmsg_records_total", "Kernel log records read."),
    _counter("gpuheal_kmsg_overruns_total", "Times the ring overwrote records before they were read (EPIPE)."),
    _counter("gpuheal_kmsg_sequence_gaps_total", "Gaps in the sequence numbers of the records read."),
    _counter("gpuheal_kmsg_lost_records_total", "Records missing in those gaps."),
    _counter(
        "gpuheal_kmsg_foreign_records_total", "GPU fault texts that user space wrote into the kernel log; not believed."
    ),
    _counter("gpuheal_kmsg_orphan_lines_total", "Follow-up lines whose headline was not seen."),
    _gauge("gpuheal_kmsg_last_record_timestamp_seconds", "Unix time of the last record read.", (), "seconds"),
)
_SELF = (
    _gauge(
        "gpuheal_exporter_heartbeat_timestamp_seconds",
        "Unix time of the exporter's last own cycle.",
        (),
        "seconds",
        "exporter",
    ),
    _gauge("gpuheal_exporter_build_info", "1 for the version that runs.", ("version",), source="exporter"),
    _gauge(
        "gpuheal_exporter_drill",
        "1 if records written by user space count: a drill, never production.",
        source="exporter",
    ),
    _counter("gpuheal_latch_overflow_total", "Events dropped because a latch store was full.", source="exporter"),
    _counter("gpuheal_latch_cleared_total", "Latches cleared, by reason.", ("reason",), "latches", "exporter"),
    _counter(
        "gpuheal_acknowledge_requests_total",
        "Acknowledgement requests, by outcome.",
        ("outcome",),
        "requests",
        "exporter",
    ),
    _counter("gpuheal_state_write_errors_total", "Failed writes of the state file.", (), "writes", "exporter"),
    _counter(
        "gpuheal_state_load_errors_total", "State files found unusable at start and set aside.", (), "files", "exporter"
    ),
)
METRICS: tuple[MetricDef, ...] = _XIDS + _SWITCH + _FAULTS + _NODE + _SOURCE + _SELF
_BY_NAME: Mapping[str, MetricDef] = {metric.name: metric for metric in METRICS}


def family(name: str) -> GaugeMetricFamily | CounterMetricFamily:
    """An empty metric family of a metric in METRICS; KeyError for any other name."""
    return family_of(_BY_NAME[name])


def family_of(definition: MetricDef) -> GaugeMetricFamily | CounterMetricFamily:
    """An empty metric family for a definition; label values are given in the order of its `labels`."""
    if definition.type == "counter":
        return CounterMetricFamily(definition.name.removesuffix("_total"), definition.help, labels=definition.labels)
    return GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)


def single(name: str, value: float, *labels: str) -> Metric:
    """A family with one sample."""
    made = family(name)
    made.add_metric(labels, value)
    return made


class Collectors(Collector):
    """Several collectors seen as one, in order; takes the place of a registry."""

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._collectors = tuple(collectors)

    def collect(self) -> Iterable[Metric]:
        """Every family of every collector that has samples."""
        for collector in self._collectors:
            for metric in collector.collect():
                if metric.samples:
                    yield metric

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()


def render(*collectors: Collector) -> bytes:
    """The text exposition (format 0.0.4) of these collectors; no global registry is involved."""
    return exposition(Collectors(collectors).collect())
