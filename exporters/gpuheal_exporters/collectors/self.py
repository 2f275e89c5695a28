"""The exporter's own condition as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.kernel.follower import Follower
from gpuheal_exporters.metrics.kernel import family, single


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
        """One consistent enough look; no locks."""
        follower, tally = self._follower, self._follower.tally
        yield single("gpuheal_kmsg_up", float(tally.up))
        yield single("gpuheal_kmsg_source_info", 1.0, tally.source)
        yield single("gpuheal_kmsg_records_total", tally.records)
        yield single("gpuheal_kmsg_overruns_total", tally.overruns)
        yield single("gpuheal_kmsg_sequence_gaps_total", tally.gaps)
        yield single("gpuheal_kmsg_lost_records_total", tally.lost)
        if tally.last_record_at:
            yield single("gpuheal_kmsg_last_record_timestamp_seconds", tally.last_record_at)
        if follower.heartbeat_at:
            yield single("gpuheal_exporter_heartbeat_timestamp_seconds", follower.heartbeat_at)
        yield single("gpuheal_exporter_build_info", 1.0, self._version)
        yield single("gpuheal_state_write_errors_total", follower.write_errors)
        yield single("gpuheal_state_load_errors_total", follower.load_errors)
        outcomes = family("gpuheal_acknowledge_requests_total")
        for outcome, count in self._outcomes.items():
            outcomes.add_metric((outcome,), count)
        yield outcomes
