"""The scene of `gpuheal demo --cluster kube`: a real control plane, the responder on it as its own service account.

Only machines are simulated: their exporters, their reboots, and what their kubelets and device plugins would report.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from gpuheal_lab.controlplane.kubeapi import MERGE, STRATEGIC, ApiRefused
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.demo.scene import Addresses, settings
from gpuheal_lab.fleet.clock import WallClock
from gpuheal_lab.fleet.cluster import SimulatedMachines, Simulation
from gpuheal_lab.fleet.machine import GpuFault, Machine, Power, Timings, Watcher
from gpuheal_lab.fleet.objects import GPU_RESOURCE, Json, node_object
from gpuheal_lab.fleet.sim import FleetServer
from gpuheal_lab.fleet.spec import NodeSpec
from gpuheal_lab.fleet.telemetry import Telemetry
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import LabError, run
from gpuheal_lab.servers.stack import wait_for
from gpuheal_responder import app
from gpuheal_responder.config.settings import Kubernetes
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.verdict import Verdict
from gpuheal_responder.errors import ConfigError, ObserveError
from gpuheal_responder.shell.build import parts_of
from gpuheal_responder.shell.wiring import Parts

MANIFESTS = Path(__file__).parents[3] / "kustomize" / "base"
WORK = Path(__file__).with_name("demo-work.yaml")
NAMESPACE, ACCOUNT = "gpuheal", "gpuheal-responder"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/remediations.gpu.health"
DEADLINE_S = 60.0
PUMP_S = 0.05
LIST_S = 1.0


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


class KubeScene:
    """A control plane with one Node per machine of a simulated fleet."""

    def __init__(self, specs: Sequence[NodeSpec], *, folder: Path, timings: Timings) -> None:
        self.specs = specs
        self.simulation = Simulation(specs, clock=WallClock(), timings=timings)
        self.objects: dict[str, Json] = {}
        telemetry = Telemetry(self.simulation.fleet, self.simulation.schedule, self.objects)
        self.server = FleetServer(self.simulation, telemetry)
        self.plane = ControlPlane(folder)
        self.audit = io.StringIO()
        self._agent = KubeNodeAgent(self.plane, self.simulation)
        self._app: app.App | None = None
        self._parts: Parts | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start_fleet(self, port: int) -> str:
        """The control plane runs with Nodes, work on them, and the responder's own objects; exporters answer."""
        await asyncio.to_thread(self.prepare)
        address = await self.server.start(port)
        self._pump = asyncio.create_task(self._run_machines())
        return address

    async def start_responder(self, where: Addresses, token_file: Path, cluster: str) -> None:
        """The responder runs in this process on the real API server, with the rights of its service account."""
        kubeconfig = await asyncio.to_thread(self.kubeconfig)
        made = replace(settings(where, token_file, cluster), kubernetes=Kubernetes(kubeconfig=kubeconfig))
        machines = SimulatedMachines(machines=self.simulation.fleet, gate=self.simulation.gate)
        with contextlib.redirect_stdout(self.audit):  # its audit lines would run through the timeline
            self._parts = await parts_of(made, machines=machines)
        self._app = app.build(made, self._parts)
        try:
            await self._app.start()
        except (OSError, ConfigError) as problem:
            raise LabError(f"the responder cannot listen on {where.responder}: {problem}") from problem

    async def raw(self, node: str) -> Json:
        """The raw Node as it is now."""
        self._check_pump()
        return await asyncio.to_thread(self.plane.node, node)

    async def cases(self) -> Sequence[Case]:
        """All cases in the store."""
        assert self._parts is not None
        try:
            return [stored.case for stored in await self._parts.ports.remediations.list()]
        except ObserveError:
            return []

    def verdict(self, case: str) -> Verdict | None:
        """What the responder's last look decided about an open case."""
        return self._app.parts.telemetry.verdict_of(case) if self._app is not None else None

    async def break_gpu(self, node: str, gpu: str, fault: GpuFault) -> None:
        """The GPU has the fault, and its kernel has said so."""
        self.simulation.break_gpu(node, gpu, fault)

    async def close(self) -> None:
        """Responder, exporters and control plane have ended."""
        if self._app is not None:
            await self._app.stop()
            self._app = None
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
            self._pump = None
        await self.server.stop()
        await asyncio.to_thread(self.plane.close)

    def prepare(self) -> None:
        """The control plane runs, with Nodes, work on the third, and the responder's own objects. Blocks."""
        self.plane.start()
        for spec in self.specs:
            self.plane.admin.create("/api/v1/nodes", self._node(spec))
        self._kubectl("apply", "-k", str(MANIFESTS))
        self._kubectl("-n", NAMESPACE, "scale", f"deployment/{ACCOUNT}", "--replicas=0")
        for spec in self.specs:
            self.plane.wait_until_ready(spec.name)
        target = self.specs[min(2, len(self.specs) - 1)].name
        work = self.plane.folder / "work.yaml"
        work.write_text(WORK.read_text(encoding="utf-8").replace("TARGET", target), encoding="utf-8")
        self._kubectl("apply", "-f", str(work))
        wait_for(self._established, "the CRD to be established", DEADLINE_S)
        wait_for(partial(self._works_on, target), f"the work on {target} to run", DEADLINE_S)
        self._list()

    def _node(self, spec: NodeSpec) -> Json:
        machine = self.simulation.fleet[spec.name]
        node = node_object(spec, uid="", boot_id=machine.boot_id, at=machine.booted_at)
        for key in ("uid", "resourceVersion", "creationTimestamp"):
            del node["metadata"][key]
        del node["status"]["conditions"]
        return node

    def _kubectl(self, *args: str) -> None:
        if not MANIFESTS.is_dir():
            raise LabError(f"{MANIFESTS} is not there: --cluster kube needs a checkout of the project")
        kubectl = find("kubectl")
        run(kubectl.command(f"--kubeconfig={self.plane.kubeconfig()}", *args, folder=MANIFESTS), deadline_s=DEADLINE_S)

    def _established(self) -> bool:
        conditions = self.plane.admin.get(DEFINITION).get("status", {}).get("conditions", ())
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    def _works_on(self, node: str) -> bool:
        """Whether both pods of the service and one of the gang run on the node."""
        running = [p for p in self.plane.admin.list("/api/v1/pods") if p["status"].get("phase") == "Running"]
        here = [p["metadata"]["namespace"] for p in running if p["spec"].get("nodeName") == node]
        return here.count("serving") == 3 and "training" in here

    def kubeconfig(self) -> Path:
        """A kubeconfig with a token of the responder's service account. Blocks."""
        token = self.plane.service_account_token(NAMESPACE, ACCOUNT)
        path = self.plane.folder / "responder.kubeconfig"
        server = {"server": self.plane.url, "certificate-authority": str(self.plane.ca_file)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": server}],
            "users": [{"name": ACCOUNT, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": ACCOUNT}}],
            "current-context": "lab",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    async def _run_machines(self) -> None:
        """Machines live on, what they report reaches the API server, and what it knows reaches kube-state-metrics."""
        loop = asyncio.get_running_loop()
        listed = loop.time()
        while True:
            self.simulation.schedule.catch_up()
            await asyncio.to_thread(self._agent.send)
            if loop.time() - listed >= LIST_S:
                listed = loop.time()
                with contextlib.suppress(ApiRefused):
                    await asyncio.to_thread(self._list)
            await asyncio.sleep(PUMP_S)

    def _list(self) -> None:
        self.objects.update({raw["metadata"]["name"]: raw for raw in self.plane.admin.list("/api/v1/nodes")})

    def _check_pump(self) -> None:
        if self._pump is not None and self._pump.done():
            self._pump.result()
