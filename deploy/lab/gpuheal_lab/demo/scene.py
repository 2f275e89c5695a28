"""Where a demo plays: a fleet, a cluster and a responder on it. This one is simulated; see `kubescene` for the other.

The responder is the real application with its real engine, web server and readers of Alertmanager and Prometheus; only
its cluster, its store and its machines are simulated.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from gpuheal_lab.demo.pipeline import scrape_token
from gpuheal_lab.fleet.clock import WallClock
from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.machine import GpuFault, Timings
from gpuheal_lab.fleet.objects import Json
from gpuheal_lab.fleet.provider import SimulatedControls
from gpuheal_lab.fleet.sim import FleetServer
from gpuheal_lab.fleet.spec import NodeSpec
from gpuheal_lab.fleet.telemetry import Telemetry
from gpuheal_lab.servers.process import LabError
from gpuheal_responder import app
from gpuheal_responder.config.settings import AlertmanagerPeer, Engine, Listen, PrometheusServer, Settings, Watchdog
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.verdict import Verdict
from gpuheal_responder.core.world import Controls
from gpuheal_responder.errors import ConfigError, ObserveError
from gpuheal_responder.ports import Clock
from gpuheal_responder.shell.kube.review import Denial, Permission, Person
from gpuheal_responder.shell.policies import fault_slugs, watched_policies
from gpuheal_responder.shell.round.observe import Ports
from gpuheal_responder.shell.sources.alertmanager import AlertmanagerAlerts
from gpuheal_responder.shell.sources.deadman import Pipeline
from gpuheal_responder.shell.sources.prometheus import PrometheusEvidence
from gpuheal_responder.shell.telemetry import Telemetry as ResponderTelemetry
from gpuheal_responder.shell.wiring import Parts

POLICY = Path(__file__).with_name("demo-policy.yaml")
SETTLE = timedelta(seconds=1)
THAW = timedelta(seconds=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where everything of a demo listens, as host:port."""

    fleet: str
    responder: str
    webhook: str
    alertmanager: str
    prometheus: str


class Scene(Protocol):
    """A fleet and a cluster, with a responder that may be started on it."""

    specs: Sequence[NodeSpec]

    async def start_fleet(self, port: int) -> str:
        """The nodes exist and their exporters answer; returns their address."""
        ...

    async def start_responder(self, where: Addresses, token_file: Path, cluster: str) -> None:
        """The responder runs and has looked once."""
        ...

    async def raw(self, node: str) -> Json:
        """The raw Node as it is now."""
        ...

    async def cases(self) -> Sequence[Case]:
        """All cases, open and closed."""
        ...

    def verdict(self, case: str) -> Verdict | None:
        """What the responder's last look decided about an open case."""
        ...

    async def break_gpu(self, node: str, gpu: str, fault: GpuFault) -> None:
        """The GPU has the fault, and its kernel has said so."""
        ...

    async def close(self) -> None:
        """Nothing of it runs any more. Repeatable."""
        ...


class Nobody:
    """Who may do what in the lab: nobody, for there is no API server to ask."""

    async def admit(self, token: str, permission: Permission, name: str = "") -> Person | Denial:
        """A refusal."""
        del token, name
        return Denial(status=403, message=f"permission denied to {permission.verb}: the simulated cluster has no users")

    async def put(self, node: str, text: str | None) -> None:
        """An error: holds are put by people."""
        del text
        raise ObserveError("kubernetes", f"{node}: the simulated cluster does not support holds")


@dataclass(frozen=True, slots=True)
class FrozenControls:
    """The simulated controls, frozen while the real pipeline is not well."""

    simulated: SimulatedControls
    pipeline: Pipeline

    async def controls(self) -> Controls:
        """The controls in force."""
        return replace(await self.simulated.controls(), frozen=await self.pipeline.frozen())


def settings(where: Addresses, token_file: Path, cluster: str, policies: Sequence[Path] = (POLICY,)) -> Settings:
    """The responder's settings for a demo: real servers of a few seconds' age are trusted, and it looks often."""
    host, _, port = where.responder.rpartition(":")
    return Settings(
        cluster=cluster,
        policies=tuple(policies),
        listen=Listen(
            host=host,
            port=int(port),
            webhook_token_files=(token_file,),
            metrics_token_files=(scrape_token(token_file),),
        ),
        alertmanagers=(AlertmanagerPeer(url=f"http://{where.alertmanager}", settle=SETTLE),),
        prometheus=PrometheusServer(url=f"http://{where.prometheus}", settle=SETTLE, job="prometheus"),
        engine=Engine(tick=timedelta(seconds=1)),
        watchdog=Watchdog(thaw=THAW),
    )


class SimulatedScene:
    """Everything in this process: fleet, cluster, store, machines, and the responder on them."""

    def __init__(self, specs: Sequence[NodeSpec], *, timings: Timings, seed: int = 0) -> None:
        self.specs = specs
        self.simulation = Simulation(specs, clock=WallClock(), timings=timings, seed=seed)
        telemetry = Telemetry(self.simulation.fleet, self.simulation.schedule, self.simulation.api.nodes)
        self.server = FleetServer(self.simulation, telemetry)
        self.audit = io.StringIO()
        self._app: app.App | None = None
        self._alerts: AlertmanagerAlerts | None = None
        self._evidence: PrometheusEvidence | None = None
        work(self.simulation)

    async def start_fleet(self, port: int) -> str:
        """The exporters answer; returns their address."""
        return await self.server.start(port)

    async def start_responder(self, where: Addresses, token_file: Path, cluster: str) -> None:
        """The responder runs in this process and has looked once."""
        made = settings(where, token_file, cluster)
        clock: Clock = self.simulation.clock
        telemetry = ResponderTelemetry(cluster=cluster, clock=clock, audit=self.audit)
        complain = telemetry.config_error
        self._alerts = AlertmanagerAlerts(made.alertmanagers, clock=clock, on_problem=complain)
        self._evidence = PrometheusEvidence(
            made.prometheus, window=made.engine.health_window, on_problem=complain, on_ignored=telemetry.ignored
        )
        evidence = self._evidence
        pipeline = Pipeline(
            clock=clock,
            interval=made.watchdog.interval,
            thaw=made.watchdog.thaw,
            prometheus=lambda: evidence.pipeline(clock),
        )
        ports = Ports(
            cluster=self.simulation.cluster,
            remediations=self.simulation.remediations,
            histories=self.simulation.histories,
            machines=self.simulation.machines,
            alerts=self._alerts,
            evidence=evidence,
            controls=FrozenControls(self.simulation.controls, pipeline),
            clock=clock,
        )
        policies = watched_policies(made.policies, complain)
        parts = Parts(
            ports=ports,
            policies=policies.current,
            faults=fault_slugs(),
            people=Nobody(),
            holds=Nobody(),
            telemetry=telemetry,
            pipeline=pipeline,
        )
        self._app = app.build(made, parts)
        try:
            await self._app.start()
        except (OSError, ConfigError) as problem:
            raise LabError(f"the responder cannot listen on {where.responder}: {problem}") from problem

    async def raw(self, node: str) -> Json:
        """The raw Node as it is now."""
        return self.simulation.raw(node)

    async def cases(self) -> Sequence[Case]:
        """All cases, open and closed."""
        return self.simulation.remediations.cases()

    def verdict(self, case: str) -> Verdict | None:
        """What the responder's last look decided about an open case."""
        return self._app.parts.telemetry.verdict_of(case) if self._app is not None else None

    async def break_gpu(self, node: str, gpu: str, fault: GpuFault) -> None:
        """The GPU has the fault, and its kernel has said so."""
        self.simulation.break_gpu(node, gpu, fault)

    async def close(self) -> None:
        """Responder and exporters have ended."""
        if self._app is not None:
            await self._app.stop()
            self._app = None
        for client in (self._alerts, self._evidence):
            if client is not None:
                await client.close()
        self._alerts = self._evidence = None
        await self.server.stop()


def work(simulation: Simulation) -> None:
    """The fleet has something to do: a DaemonSet everywhere, an inference service with a budget, a training gang.

    The third node carries a part of each, so that its drain has to wait for the budget.
    """
    names = tuple(simulation.specs)
    third = names[min(2, len(names) - 1)]
    simulation.workloads.daemonset("dcgm-exporter", namespace="gpu-operator")
    simulation.workloads.deployment("chat", replicas=2, gpus=1, namespace="serving", nodes=(third,), min_available=1)
    simulation.workloads.gang("llm", size=min(2, len(names)), gpus=4, namespace="training", nodes=(third, *names[:1]))
