"""What a collector is to the registry: its metrics, how it is built, and how often it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.polled import Polled
from gpuheal_exporters.host.inventory import NodeInventory
from gpuheal_exporters.metrics.definition import MetricTable
from gpuheal_exporters.node.follower import Follower
from gpuheal_exporters.node.state import NodeExporterState
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot
from gpuheal_exporters.pods.attribution import NodeAttribution


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLog:
    """What a collector of the kernel log may read; `outcomes` counts acknowledgements."""

    state: NodeExporterState
    follower: Follower
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a collector of the hardware may read: files below `root`, the newest picture of NVML, the inventory.

    `polled` gives the collectors that run in threads of their own, once all are built.
    """

    root: Path
    snapshot: Callable[[], NvmlSnapshot]
    inventory: NodeInventory
    attribution: NodeAttribution
    polled: Callable[[], Sequence[Polled]]


SideT = TypeVar("SideT", KernelLog, Hardware)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorDef(Generic[SideT]):
    """A registered collector.

    One that may block (sysfs of a sick device, sockets) has `poll_seconds` and is asked by a thread of its own under
    its `name`; the others are asked in the scrape.
    """

    name: str
    metrics: MetricTable
    build: Callable[[SideT], Collector]
    poll_seconds: float | None = None


def build(definitions: Sequence[CollectorDef[SideT]], side: SideT) -> tuple[Collector, ...]:
    """Return the collectors in the order of the registry, those that may block behind a thread that is not started."""
    return tuple(
        each.build(side)
        if each.poll_seconds is None
        else Polled(each.name, each.build(side), interval_seconds=each.poll_seconds)
        for each in definitions
    )
