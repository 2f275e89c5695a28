"""The scene of `gpuheal demo --cluster kube`: a fleet on a real control plane, the responder on it as its own account.

Only machines are simulated, see `kubefleet`; a reboot is the Job that the responder makes on any cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gpuheal_lab.controlplane import manifests
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.demo.kubefleet import KubeFleet
from gpuheal_lab.demo.scene import Addresses, settings
from gpuheal_lab.fleet.machine import GpuFault, Timings
from gpuheal_lab.fleet.objects import Json
from gpuheal_lab.fleet.spec import NodeSpec
from gpuheal_lab.servers.process import LabError
from gpuheal_lab.servers.stack import wait_for
from gpuheal_responder import app
from gpuheal_responder.config.settings import Kubernetes, Providers
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.verdict import Verdict
from gpuheal_responder.errors import ConfigError, ObserveError
from gpuheal_responder.providers.job import JobSettings
from gpuheal_responder.shell.build import parts_of
from gpuheal_responder.shell.wiring import Parts

WORK = Path(__file__).with_name("demo-work.yaml")
DEADLINE_S = 60.0
IMAGE = "tools@sha256:" + "0" * 64
"""Of the reboot Jobs; played kubelets pull nothing."""


class KubeScene:
    """A control plane of its own with one Node per machine of a simulated fleet."""

    def __init__(self, specs: Sequence[NodeSpec], *, folder: Path, timings: Timings) -> None:
        self.specs = specs
        self.plane = ControlPlane(folder)
        self.fleet = KubeFleet(self.plane, specs, timings=timings)
        self.audit = io.StringIO()
        self._app: app.App | None = None
        self._parts: Parts | None = None

    async def start_fleet(self, port: int) -> str:
        """The control plane runs with Nodes, work on them, and the responder's own objects; exporters answer."""
        await asyncio.to_thread(self.prepare)
        return await self.fleet.start(port)

    async def start_responder(self, where: Addresses, token_file: Path, cluster: str) -> None:
        """The responder runs in this process on the real API server, with the rights of its service account."""
        kubeconfig = await asyncio.to_thread(manifests.write_kubeconfig, self.plane)
        made = replace(
            settings(where, token_file, cluster),
            kubernetes=Kubernetes(kubeconfig=kubeconfig),
            providers=Providers(by_name={"job": JobSettings(image=IMAGE)}),
        )
        with contextlib.redirect_stdout(self.audit):  # its audit lines would run through the timeline
            self._parts = await parts_of(made)
        self._app = app.build(made, self._parts)
        try:
            await self._app.start()
        except (OSError, ConfigError) as problem:
            raise LabError(f"the responder cannot listen on {where.responder}: {problem}") from problem

    async def raw(self, node: str) -> Json:
        """The raw Node as it is now; raises LabError when the fleet behind it is in trouble."""
        if self.fleet.problems:
            raise LabError(f"the simulated fleet failed: {self.fleet.problems[-1]}")
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
        self.fleet.simulation.break_gpu(node, gpu, fault)

    async def close(self) -> None:
        """Responder, exporters and control plane have ended."""
        if self._app is not None:
            await self._app.stop()
            self._app = None
        await self.fleet.stop()
        await asyncio.to_thread(self.plane.close)

    def prepare(self) -> None:
        """The control plane runs, with Nodes, work on the third, and the responder's own objects. Blocks."""
        self.plane.start()
        self.fleet.register()
        manifests.install(self.plane)
        target = self.specs[min(2, len(self.specs) - 1)].name
        work = self.plane.folder / "work.yaml"
        work.write_text(WORK.read_text(encoding="utf-8").replace("TARGET", target), encoding="utf-8")
        manifests.kubectl(self.plane, "apply", "-f", str(work))
        wait_for(partial(self._works_on, target), f"the work on {target} to run", DEADLINE_S)

    def _works_on(self, node: str) -> bool:
        """Whether both pods of the service and one of the gang run on the node."""
        running = [p for p in self.plane.admin.list("/api/v1/pods") if p["status"].get("phase") == "Running"]
        here = [p["metadata"]["namespace"] for p in running if p["spec"].get("nodeName") == node]
        return here.count("serving") == 3 and "training" in here
