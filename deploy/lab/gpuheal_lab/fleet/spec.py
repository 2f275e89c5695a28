"""What the simulated fleet consists of: racks of nodes with GPUs, every name and number derived from a seed."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

NAMESPACE = uuid.UUID("6f0a5d0e-6c7b-5d0e-9a51-0d5f3f1f2b77")
PRODUCT = "NVIDIA H100 80GB HBM3"
# An HGX H100 board's usual PCIe buses (dmesg and nvidia-smi listings in public issue threads).
BUSES = ("19", "3b", "4c", "5d", "9b", "bb", "cb", "db")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU; `pci_bus_id` as the kernel writes it (0000:3b:00.0), `slot` the baseboard module."""

    index: int
    uuid: str
    pci_bus_id: str
    serial: str
    slot: str
    product: str = PRODUCT

    @property
    def kernel_address(self) -> str:
        """The address as it stands in the driver's Xid lines: without the function."""
        return self.pci_bus_id.rpartition(".")[0]

    @property
    def dcgm_address(self) -> str:
        """The address as dcgm-exporter writes it: eight-digit domain, upper case."""
        return f"0000{self.pci_bus_id}".upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One node as it was bought and racked."""

    name: str
    rack: str
    zone: str
    pool: str
    system_uuid: str
    gpus: tuple[Gpu, ...]
    fabric_domain: str = ""
    seed: int = 0

    def boot_id(self, boots: int) -> str:
        """The boot id of the machine's n-th boot."""
        return _uuid("boot", self.seed, self.name, boots)

    def gpu(self, name: str) -> Gpu:
        """The GPU with this UUID, index or PCI address; raises KeyError if the node has none such."""
        for gpu in self.gpus:
            if name in {gpu.uuid, str(gpu.index), gpu.pci_bus_id, gpu.kernel_address, gpu.dcgm_address}:
                return gpu
        raise KeyError(f"{self.name} has no GPU {name!r}")


def fleet(
    nodes: int = 8,
    gpus: int = 8,
    *,
    nodes_per_rack: int = 4,
    racks_per_zone: int = 2,
    pool: str = "h100",
    fabric_domains: bool = False,
    seed: int = 0,
) -> tuple[NodeSpec, ...]:
    """The nodes gpu-node-001 … in racks rack-01 … of zones zone-a …, the same for the same arguments."""
    if not 1 <= nodes <= 100_000 or not 0 <= gpus <= 16:
        raise ValueError(f"expected 1 to 100000 nodes with 0 to 16 GPUs, got {nodes} and {gpus}")
    made = []
    for index in range(nodes):
        rack = index // nodes_per_rack
        name = f"gpu-node-{index + 1:03}"
        made.append(
            NodeSpec(
                name=name,
                rack=f"rack-{rack + 1:02}",
                zone=f"zone-{_letters(rack // racks_per_zone)}",
                pool=pool,
                fabric_domain=f"nvl-{rack + 1:02}" if fabric_domains else "",
                system_uuid=_uuid("machine", seed, name),
                gpus=tuple(_gpu(seed, name, index * gpus + number, number) for number in range(gpus)),
                seed=seed,
            )
        )
    return tuple(made)


def successor(spec: NodeSpec) -> NodeSpec:
    """The machine that comes in place of this one: same name and place, another serial, other GPUs."""
    seed = spec.seed + 1
    gpus = tuple(_gpu(seed, spec.name, int(gpu.serial[-8:]), gpu.index) for gpu in spec.gpus)
    return replace(spec, system_uuid=_uuid("machine", seed, spec.name), gpus=gpus, seed=seed)


def _gpu(seed: int, node: str, overall: int, number: int) -> Gpu:
    bus = BUSES[number] if number < len(BUSES) else f"{0xE0 + number:02x}"
    return Gpu(
        index=number,
        uuid=f"GPU-{_uuid('gpu', seed, node, number)}",
        pci_bus_id=f"0000:{bus}:00.0",
        serial=f"165{seed % 100:02}{overall:08}",
        slot=f"SXM{number + 1}",
    )


def _uuid(*parts: object) -> str:
    return str(uuid.uuid5(NAMESPACE, "/".join(map(str, parts))))


def _letters(number: int) -> str:
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters
