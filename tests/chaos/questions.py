"""Questions that rules ask about the fleet, answered from raw objects and machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.responder.stage import Stage

from gpuheal_lab.fleet.injection import Call
from gpuheal_lab.fleet.objects import Json, pod_over

if TYPE_CHECKING:
    from tests.chaos.observer import Observer

LABELS = {"pool": "gpu.health/pool", "rack": "topology.kubernetes.io/rack"}
GANG = "jobset.sigs.k8s.io/jobset-name"


class Questions(Stage):
    """What a world knows of its nodes, machines and pods."""

    observer: Observer

    def named(self, index: int) -> str:
        """Return the name of the n-th node; a smaller fleet is counted around."""
        return self.names[index % len(self.names)]

    def machine_of(self, node: str) -> str:
        """Return the serial of the machine that now has this name."""
        machine = self.sim.fleet.get(node)
        return machine.spec.system_uuid if machine is not None else ""

    def node_of(self, machine: str) -> str:
        """Return the name of the node that this machine now is, or an empty text."""
        return next((n for n, m in self.sim.fleet.items() if m.spec.system_uuid == machine), "")

    def uid_of(self, node: str) -> str:
        """Return the UID of the Node object of this name."""
        raw = self.sim.api.nodes.get(node)
        return str(raw["metadata"]["uid"]) if raw else ""

    def peers_of(self, node: str, dimension: str) -> list[str]:
        """Return the other nodes in the node's pool, or in its rack."""
        raws, key = self.sim.api.nodes, LABELS[dimension]
        mine = raws[node]["metadata"]["labels"].get(key) if node in raws else None
        return [n for n, raw in raws.items() if n != node and raw["metadata"]["labels"].get(key) == mine]

    def gangs_on(self, node: str) -> set[str]:
        """Return the gangs that have pods on the node."""
        pods = [p for p in self.sim.api.pods_on(node) if not pod_over(p)]
        return {p["metadata"]["labels"][GANG] for p in pods if GANG in p["metadata"].get("labels", {})}

    def pod_of(self, call: Call) -> Json | None:
        """Return the bound pod that an eviction meant, or None if there is none of that UID any more."""
        namespace, _, name = call.target.partition("/")
        pod = self.sim.api.pods.get((namespace, name))
        same = pod is not None and pod["metadata"]["uid"] == call.detail and bool(pod["spec"].get("nodeName"))
        return pod if same else None

    def rebooting_by(self, operation: str) -> bool:
        """Return whether the newest reboot that was carried out is this operation's, and was not told before."""
        done = self.sim.machines.reboots
        return bool(done) and done[-1][1] == operation and len(done) > len(self.observer.boots)
