"""Simulated metal under a real control plane: machines, exporters and kubelets' reports are played, all else is real.

    fleet = KubeFleet(plane, specs, timings=Timings())
    fleet.register()                       # blocking: one Node per machine, Ready
    address = await fleet.start()          # exporters answer under /nodes/NODE/..., reboot Jobs are obeyed
    fleet.simulation.break_gpu(name, 3, fell_off_bus())
    await fleet.stop()

A reboot Job of the responder's provider `job` does to the machine what its script would do: nothing if the boot id is
another one by now, else a reboot a moment after its pod has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from gpuheal_lab.controlplane.kubeapi import MERGE, STRATEGIC, ApiRefused
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.fleet.clock import WallClock
from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.machine import Machine, Power, Timings, Watcher
from gpuheal_lab.fleet.objects import GPU_RESOURCE, Json, node_object
from gpuheal_lab.fleet.sim import FleetServer
from gpuheal_lab.fleet.spec import NodeSpec, fleet
from gpuheal_lab.fleet.telemetry import Telemetry
from gpuheal_lab.servers.process import LabError

JOBS = "/apis/batch/v1/namespaces/gpuheal-privileged/jobs"
NODE_ANNOTATION = "gpu.health/node"
PUMP_S = 0.05
LIST_S = 0.5
REBOOT_AFTER = timedelta(milliseconds=500)
"""What the Job's script waits, ten seconds in earnest, so that its pod can end before the machine goes down."""


def machines(prefix: str, count: int, *, gpus: int = 8, seed: int) -> tuple[NodeSpec, ...]:
    """A pool of its own named PREFIX, nodes PREFIX-001 up; GPUs and machines differ with the seed."""
    made = fleet(count, gpus, pool=prefix, seed=seed)
    return tuple(
        replace(spec, name=f"{prefix}-{index:03}", rack=f"{prefix}-{spec.rack}")
        for index, spec in enumerate(made, start=1)
    )


class KubeNodeAgent(Watcher):
    """Reports on the real Nodes what a kubelet and a device plugin would: allocatable GPUs, Ready, the boot id.

    Reports are queued, and sent in their order by `send`.
    """

    def __init__(self, plane: ControlPlane, simulation: Simulation) -> None:
        self._plane = plane
        self._schedule = simulation.schedule
        self._timings = simulation.timings
        self._queue: list[Callable[[], object]] = []
        for machine in simulation.fleet.values():
            machine.watchers.append(self)

    def gpus_changed(self, machine: Machine, /) -> None:
        """The allocatable GPUs follow a moment later."""
        self._schedule.after(self._timings.device_plugin, partial(self._report_gpus, machine))

    def went_down(self, machine: Machine, /) -> None:
        """A kubelet that shuts down says so, and is not heard of again."""
        name = machine.spec.name
        self._queue.append(partial(self._plane.leave, name))
        stopped = {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "node is shutting down"}
        self._queue.append(partial(self._patch, name, {"conditions": [stopped]}, STRATEGIC))

    def came_up(self, machine: Machine, /) -> None:
        """The kubelet registers with the new boot id, before the device plugin is back."""
        self._schedule.after(self._timings.kubelet_ready, partial(self._registered, machine))

    def send(self) -> None:
        """What is queued has been reported, except on Nodes that are gone; LabError when the API server refuses."""
        while self._queue:
            try:
                self._queue.pop(0)()
            except ApiRefused as refused:
                if refused.status != 404:
                    raise

    def _report_gpus(self, machine: Machine) -> None:
        if machine.power is Power.DOWN:
            return
        count = sum(not s.unhealthy for s in machine.states.values()) if machine.gpus_ready else 0
        self._queue.append(partial(self._patch, machine.spec.name, {"allocatable": {GPU_RESOURCE: str(count)}}, MERGE))

    def _registered(self, machine: Machine) -> None:
        if machine.power is not Power.UP:
            return
        status: Json = {"nodeInfo": {"bootID": machine.boot_id}}
        if not machine.gpus_ready:
            status["allocatable"] = {GPU_RESOURCE: "0"}
        self._queue.append(partial(self._patch, machine.spec.name, status, MERGE))
        self._queue.append(partial(self._plane.rejoin, machine.spec.name))

    def _patch(self, name: str, status: Json, kind: str) -> None:
        self._plane.admin.patch(f"/api/v1/nodes/{name}/status", {"status": status}, kind)


class KubeFleet:
    """One Node of the control plane per machine, from `register` to `remove`; alive from `start` to `stop`."""

    def __init__(self, plane: ControlPlane, specs: Sequence[NodeSpec], *, timings: Timings, seed: int = 0) -> None:
        self.plane = plane
        self.simulation = Simulation(specs, clock=WallClock(), timings=timings, seed=seed)
        self.objects: dict[str, Json] = {}
        self.problems: list[str] = []
        """What went wrong behind the scenes; empty when all is well."""
        telemetry = Telemetry(self.simulation.fleet, self.simulation.schedule, self.objects)
        self.server = FleetServer(self.simulation, telemetry)
        self.reboots: list[str] = []
        """Names of the Jobs that were obeyed, in their order."""
        self._agent = KubeNodeAgent(plane, self.simulation)
        self._seen_jobs: set[str] = set()
        self._pump: asyncio.Task[None] | None = None

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return list(self.simulation.specs)

    def register(self) -> None:
        """Every machine has its Node, Ready and without taints."""
        for name, machine in self.simulation.fleet.items():
            node = node_object(machine.spec, uid="", boot_id=machine.boot_id, at=machine.booted_at)
            for key in ("uid", "resourceVersion", "creationTimestamp"):
                del node["metadata"][key]
            del node["status"]["conditions"]
            self.plane.admin.create("/api/v1/nodes", node)
            self.objects[name] = node | {"status": node["status"] | {"conditions": []}}
        for name in self.names:
            self.plane.wait_until_ready(name)

    def remove(self) -> None:
        """The Nodes are gone."""
        self.plane.delete_nodes(self.names)

    async def start(self, port: int = 0) -> str:
        """The exporters answer and the machines live; returns the exporters' address."""
        address = await self.server.start(port)
        self._pump = asyncio.create_task(self._live())
        return address

    async def stop(self) -> None:
        """Nothing of it runs any more. Repeatable."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
            self._pump = None
        await self.server.stop()

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        listed = loop.time() - LIST_S
        while True:
            self.simulation.schedule.catch_up()
            try:
                await asyncio.to_thread(self._agent.send)
                if loop.time() - listed >= LIST_S:
                    listed = loop.time()
                    nodes, jobs = await asyncio.gather(
                        asyncio.to_thread(partial(self.plane.admin.list, "/api/v1/nodes")),
                        asyncio.to_thread(partial(self.plane.admin.list, JOBS)),
                    )
                    names = self.simulation.specs.keys()
                    self.objects.update(
                        {n["metadata"]["name"]: n for n in nodes if n["metadata"]["name"] in names and _told(n)}
                    )
                    self._obey(jobs)
            except LabError as problem:
                self.problems.append(str(problem))
            await asyncio.sleep(PUMP_S)

    def _obey(self, jobs: Sequence[Json]) -> None:
        for job in jobs:
            meta = job["metadata"]
            machine = self.simulation.fleet.get(meta.get("annotations", {}).get(NODE_ANNOTATION, ""))
            if machine is None or meta["uid"] in self._seen_jobs or not job.get("status", {}).get("succeeded"):
                continue
            self._seen_jobs.add(meta["uid"])
            if _boot_id(job) == machine.boot_id:
                self.reboots.append(meta["name"])
                self.simulation.schedule.after(REBOOT_AFTER, machine.reboot)


def _told(node: Json) -> bool:
    """Whether the kubelet has reported already."""
    return bool(node["status"].get("conditions"))


def _boot_id(job: Json) -> str:
    container: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return next((str(entry["value"]) for entry in container["env"] if entry["name"] == "BOOT_ID"), "")
