"""Who the GPUs of this node are."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, KernelLog
from gpuheal_exporters.metrics.definition import MetricTable, gauge
from gpuheal_exporters.node.state import NodeExporterState

GPU = ("gpu_uuid", "pci_bus_id")
METRICS = MetricTable(
    "inventory",
    gauge(
        "gpuheal_gpu_info",
        "1 for every GPU known on this node, including lost ones.",
        (*GPU, "serial", "slot", "product"),
    ),
)


class InventoryCollector(Collector):
    """gpuheal_gpu_info for every GPU that the inventory knows or the log named."""

    def __init__(self, state: NodeExporterState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """Return one family."""
        info = METRICS.family("gpuheal_gpu_info")
        known = self._state.addresses.inventory.gpus()
        for gpu in known:
            info.add_metric((gpu.gpu_uuid, gpu.pci_bus_id, gpu.serial, gpu.slot, gpu.product), 1.0)
        with self._state.lock:
            learned = dict(self._state.addresses.learned)
        uuids, addresses = {gpu.gpu_uuid for gpu in known}, {gpu.pci_bus_id for gpu in known}
        for pci, uuid in learned.items():
            if uuid not in uuids and pci not in addresses:
                uuids.add(uuid)
                info.add_metric((uuid, pci, "", "", ""), 1.0)
        return [info]


COLLECTOR: CollectorDef[KernelLog] = CollectorDef(
    name="inventory", metrics=METRICS, build=lambda log: InventoryCollector(log.state)
)
