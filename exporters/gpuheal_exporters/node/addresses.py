"""Which GPU an address in the kernel log belongs to: by inventory, by the bus, or by what the log itself said."""

from __future__ import annotations

from collections.abc import Mapping, Set

from gpuheal_exporters.host.identity import Inventory

MAX_LEARNED = 64


class Addresses:
    """What is known of the PCI addresses of one node.

    `upstream` maps the address of a PCIe port to the one GPU below it, or to an empty text where there are several;
    `on_bus` holds the addresses of the GPUs that the bus shows, whether a driver knows them or not.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.upstream: Mapping[str, str] = {}
        self.on_bus: Set[str] = frozenset()
        self.learned: dict[str, str] = {}

    def uuid_of(self, pci: str) -> str:
        """Return the UUID of the GPU at an address, or below that port; empty if neither inventory nor log named it."""
        for address in (pci, self.upstream.get(pci, "")):
            known = self.inventory.by_pci(address) if address else None
            if known is not None:
                return known.gpu_uuid
            if address in self.learned:
                return self.learned[address]
        return ""

    def pci_of(self, uuid: str) -> str:
        """Return the address of a GPU, or an empty text if the inventory does not know it."""
        return next((gpu.pci_bus_id for gpu in self.inventory.gpus() if gpu.gpu_uuid == uuid), "")

    def leads_to_gpu(self, pci: str) -> bool:
        """Return whether a GPU is at this address, or below the port that is there."""
        return pci in self.upstream or pci in self.on_bus or self.uuid_of(pci) != ""

    def learn(self, pci: str, uuid: str) -> bool:
        """Remember what the log says of an address, which the inventory outranks; return False if there is no room."""
        if pci not in self.learned and len(self.learned) >= MAX_LEARNED:
            return False
        self.learned[pci] = uuid
        return True
