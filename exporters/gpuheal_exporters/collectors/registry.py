"""Every collector of the exporter, one line each; their order is the order of /metrics and of METRICS.md."""

from __future__ import annotations

from prometheus_client.core import Metric

from gpuheal_exporters.collectors import (
    driver,
    inventory,
    kernel,
    link,
    memory,
    pcie,
    pods,
    presence,
    rdma,
    self,
    software,
    thermal,
)
from gpuheal_exporters.collectors.definition import CollectorDef, Hardware, KernelLog
from gpuheal_exporters.metrics.definition import Family, MetricDef, family_of

KERNEL_LOG: tuple[CollectorDef[KernelLog], ...] = (
    kernel.COLLECTOR,
    inventory.COLLECTOR,
    self.COLLECTOR,
)
HARDWARE: tuple[CollectorDef[Hardware], ...] = (
    presence.SOURCE,
    presence.COLLECTOR,
    memory.COLLECTOR,
    link.COLLECTOR,
    pcie.COLLECTOR,
    thermal.COLLECTOR,
    driver.VERSION,
    driver.COLLECTOR,
    software.COLLECTOR,
    rdma.COLLECTOR,
    pods.COLLECTOR,
)


def metrics() -> tuple[MetricDef, ...]:
    """Return every metric the exporter can emit, each once."""
    tables = dict.fromkeys([*(each.metrics for each in KERNEL_LOG), *(each.metrics for each in HARDWARE)])
    return tuple(definition for table in tables for definition in table)


def family(name: str) -> Family:
    """Return an empty family of any registered metric, for programs with samples of their own; KeyError for others."""
    return family_of({definition.name: definition for definition in metrics()}[name])


def single(name: str, value: float, *labels: str) -> Metric:
    """Return a family of any registered metric with one sample."""
    made = family(name)
    made.add_metric(labels, value)
    return made
