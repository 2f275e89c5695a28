"""The exporter's own condition as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, KernelLog
from gpuheal_exporters.metrics.definition import MetricTable, counter, gauge
from gpuheal_exporters.node.follower import Follower

METRICS = MetricTable(
    "exporter",
    gauge("gpuheal_kmsg_up", "1 if the kernel log can be read.", source="kernel log"),
    gauge(
        "gpuheal_kmsg_source_info",
        "1 for the source in use: kmsg, journal, file or none.",
        ("source",),
        source="kernel log",
    ),
    counter("gpuheal_kmsg_records_total", "Kernel log records read.", source="kernel log"),
    counter(
        "gpuheal_kmsg_overruns_total",
        "Times the kernel ring buffer overwrote records before they were read (EPIPE).",
        source="kernel log",
    ),
    counter(
        "gpuheal_kmsg_sequence_gaps_total", "Gaps in the sequence numbers of the records read.", source="kernel log"
    ),
    counter("gpuheal_kmsg_lost_records_total", "Records missing in those gaps.", source="kernel log"),
    gauge(
        "gpuheal_kmsg_last_record_timestamp_seconds",
        "Unix time of the last record read.",
        (),
        "seconds",
        source="kernel log",
    ),
    gauge(
        "gpuheal_exporter_heartbeat_timestamp_seconds",
        "Unix time of the exporter's last cycle (its heartbeat).",
        (),
        "seconds",
    ),
    gauge("gpuheal_exporter_build_info", "1 for the running version.", ("version",)),
    counter("gpuheal_acknowledge_requests_total", "Acknowledgement requests, by outcome.", ("outcome",), "requests"),
    counter("gpuheal_state_write_errors_total", "Failed writes of the state file.", (), "writes"),
    counter(
        "gpuheal_state_load_errors_total", "State files that were unusable at startup and were set aside.", (), "files"
    ),
)


def _version() -> str:
    try:
        return version("gpuheal")
    except PackageNotFoundError:
        return "unknown"


class SelfCollector(Collector):
    """Log source, heartbeat, state file, acknowledgements; `outcomes` counts the latter."""

    def __init__(self, follower: Follower, outcomes: Mapping[str, int]) -> None:
        self._follower = follower
        self._outcomes = outcomes
        self._version = _version()

    def collect(self) -> Iterable[Metric]:
        """Yield the families of now, without a lock."""
        follower, tally = self._follower, self._follower.tally
        yield METRICS.single("gpuheal_kmsg_up", float(tally.up))
        yield METRICS.single("gpuheal_kmsg_source_info", 1.0, tally.source)
        yield METRICS.single("gpuheal_kmsg_records_total", tally.records)
        yield METRICS.single("gpuheal_kmsg_overruns_total", tally.overruns)
        yield METRICS.single("gpuheal_kmsg_sequence_gaps_total", tally.gaps)
        yield METRICS.single("gpuheal_kmsg_lost_records_total", tally.lost)
        if tally.last_record_at:
            yield METRICS.single("gpuheal_kmsg_last_record_timestamp_seconds", tally.last_record_at)
        if follower.heartbeat_at:
            yield METRICS.single("gpuheal_exporter_heartbeat_timestamp_seconds", follower.heartbeat_at)
        yield METRICS.single("gpuheal_exporter_build_info", 1.0, self._version)
        yield METRICS.single("gpuheal_state_write_errors_total", follower.write_errors)
        yield METRICS.single("gpuheal_state_load_errors_total", follower.load_errors)
        outcomes = METRICS.family("gpuheal_acknowledge_requests_total")
        for outcome, count in self._outcomes.items():
            outcomes.add_metric((outcome,), count)
        yield outcomes


COLLECTOR: CollectorDef[KernelLog] = CollectorDef(
    name="self", metrics=METRICS, build=lambda log: SelfCollector(log.follower, log.outcomes)
)
