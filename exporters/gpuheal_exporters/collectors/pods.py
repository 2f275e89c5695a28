"""Which containers hold which GPU, as the kubelet says."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, Hardware
from gpuheal_exporters.metrics.definition import MetricTable, gauge
from gpuheal_exporters.pods.attribution import NodeAttribution

METRICS = MetricTable(
    "kubelet pod-resources",
    gauge(
        "gpuheal_gpu_pod_info",
        "1 for each container that holds the GPU or one of its MIG devices.",
        ("gpu_uuid", "namespace", "pod", "container"),
    ),
    gauge("gpuheal_pod_resources_up", "1 if the kubelet's pod-resources socket responds."),
    gauge(
        "gpuheal_pod_resources_observed_timestamp_seconds", "Unix time of the kubelet's last response.", (), "seconds"
    ),
)


class PodCollector(Collector):
    """Who holds which GPU now, one series per GPU and container."""

    def __init__(self, attribution: NodeAttribution) -> None:
        self._attribution = attribution

    def collect(self) -> Iterable[Metric]:
        """Ask the kubelet and return the families of its last answer."""
        self._attribution.refresh()
        held, out = self._attribution.view(), METRICS.families()
        out.add("gpuheal_pod_resources_up", held.up)
        out.add("gpuheal_pod_resources_observed_timestamp_seconds", held.observed_at or None)
        for row in held.rows:
            out.add("gpuheal_gpu_pod_info", 1, *row)
        return out.all()


COLLECTOR: CollectorDef[Hardware] = CollectorDef(
    name="pods", metrics=METRICS, build=lambda hardware: PodCollector(hardware.attribution), poll_seconds=15.0
)
