"""The lab's in-memory ports keep the contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from tests.contract.rig import Json
from tests.contract.suite import PortContract

from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.spec import fleet
from gpuheal_responder.core.world import NodeLock

MOST_STEPS = 600


class SimulatedRig:
    """A fleet of two nodes whose time moves only when a check waits."""

    def __init__(self) -> None:
        self.simulation = Simulation(fleet(2, 8))
        self.cluster = self.simulation.cluster
        self.remediations = self.simulation.remediations
        self.machines = self.simulation.machines
        one, two = self.simulation.specs
        self.nodes = (one, two)

    async def raw(self, node: str) -> Json:
        """The raw Node."""
        return self.simulation.raw(node)

    async def delete_node(self, node: str) -> None:
        """The Node object is deleted."""
        self.simulation.api.delete_node(node)

    async def label(self, node: str, key: str, value: str) -> None:
        """A label is set."""

        def change(raw: Json) -> None:
            raw["metadata"]["labels"][key] = value

        self.simulation.edit(node, change)

    async def taint(self, node: str, key: str) -> None:
        """A taint is added."""

        def change(raw: Json) -> None:
            raw["spec"]["taints"] = [{"key": key, "effect": "NoSchedule"}, *raw["spec"].get("taints", ())]

        self.simulation.edit(node, change)

    async def deployment(self, name: str, node: str, replicas: int, gpus: int) -> None:
        """A Deployment runs."""
        self.simulation.workloads.deployment(name, replicas=replicas, gpus=gpus, nodes=(node,))

    async def gang(self, name: str, node: str, size: int) -> None:
        """A gang runs."""
        self.simulation.workloads.gang(name, size=size, gpus=1, nodes=(node,))

    async def daemonset(self, name: str, node: str) -> None:
        """A DaemonSet's pods run everywhere."""
        self.simulation.workloads.daemonset(name)

    async def bare_pod(self, name: str, node: str) -> None:
        """A pod runs."""
        self.simulation.workloads.bare_pod(name, node=node)

    async def budget(self, name: str, app: str, minimum: int) -> None:
        """A budget guards."""
        self.simulation.workloads.budget(name, selector={"app": app}, min_available=minimum)

    async def stand_still(self, node: str) -> None:
        """The provider only takes note."""
        self.simulation.machines.waits = True

    async def foreign_lock(self, node: str, holder: str, span: timedelta) -> None:
        """Somebody else holds the lock."""
        self.cluster.locks[node] = NodeLock(holder=holder, expires_at=self.simulation.now() + span)

    async def until(self, check: Callable[[], Awaitable[object]], words: str) -> None:
        """Seconds pass until the check is true."""
        for _ in range(MOST_STEPS):
            if await check():
                return
            self.simulation.advance(timedelta(seconds=1))
        raise AssertionError(f"waited {MOST_STEPS} simulated seconds for {words}")


@pytest.fixture
def rig() -> SimulatedRig:
    """A fresh simulation."""
    return SimulatedRig()


class TestSimulated(PortContract):
    """All of it on the simulation."""
