"""Node objects of a simulated GPU fleet, as a kubelet would register them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

GPU_RESOURCE = "nvidia.com/gpu"
ZONE_LABEL = "topology.kubernetes.io/zone"
RACK_LABEL = "gpu.health/rack"
HOSTNAME_LABEL = "kubernetes.io/hostname"
MACHINES = uuid.UUID("5f8a1d0e-0c57-4a6b-9d1f-6d6163680001")  # our own namespace, so that machine ids repeat over runs


def node_object(
    name: str, *, gpus: int = 8, zone: str = "zone-a", rack: str = "rack-0", labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A Node with `gpus` GPUs; systemUUID and machineID follow from the name, bootID is new each time."""
    machine = uuid.uuid5(MACHINES, name)
    amounts = {"cpu": "96", "memory": "1Ti", "pods": "110", "ephemeral-storage": "1Ti"}
    if gpus:
        amounts[GPU_RESOURCE] = str(gpus)
    shown = {HOSTNAME_LABEL: name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    if gpus:
        shown["nvidia.com/gpu.present"] = "true"  # what GPU feature discovery sets
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**shown, ZONE_LABEL: zone, RACK_LABEL: rack, **(labels or {})}},
        "spec": {"providerID": f"lab://{zone}/{name}"},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "127.0.0.1"}],
            "nodeInfo": {
                "machineID": machine.hex,
                "systemUUID": str(machine),
                "bootID": str(uuid.uuid4()),
                "kernelVersion": "6.8.0-lab",
                "osImage": "gpuheal lab",
                "containerRuntimeVersion": "containerd://2.0.0",
                "kubeletVersion": "v1.36.0",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        },
    }


def boot_id_patch() -> tuple[str, dict[str, Any]]:
    """A new boot id, and the merge patch for /status that makes it the node's, as after a reboot."""
    boot_id = str(uuid.uuid4())
    return boot_id, {"status": {"nodeInfo": {"bootID": boot_id}}}
