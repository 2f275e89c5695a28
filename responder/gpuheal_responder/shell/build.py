"""The parts on real servers: Kubernetes, Alertmanager and Prometheus as the settings name them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from gpuheal_responder.config.settings import Kubernetes, Settings
from gpuheal_responder.ports import Machines
from gpuheal_responder.providers import made
from gpuheal_responder.providers.provider import Tools
from gpuheal_responder.shell.http.approval import KubeHolds
from gpuheal_responder.shell.kube.api import Api, connect
from gpuheal_responder.shell.kube.cluster import ClusterSettings, KubeCluster
from gpuheal_responder.shell.kube.controls import KubeControls
from gpuheal_responder.shell.kube.election import Election
from gpuheal_responder.shell.kube.fence import Fence
from gpuheal_responder.shell.kube.histories import KubeHistories
from gpuheal_responder.shell.kube.jobs import KubeJobs
from gpuheal_responder.shell.kube.mirror import WatchSettings
from gpuheal_responder.shell.kube.remediations import KubeRemediations
from gpuheal_responder.shell.kube.review import KubePeople, KubeReviewer
from gpuheal_responder.shell.policies import known_faults, watched_policies
from gpuheal_responder.shell.process.interpreter import Interpreter
from gpuheal_responder.shell.process.reload import Following
from gpuheal_responder.shell.process.stall import StallMonitor
from gpuheal_responder.shell.round.observe import Ports
from gpuheal_responder.shell.sources.alertmanager import AlertmanagerAlerts
from gpuheal_responder.shell.sources.deadman import Pipeline
from gpuheal_responder.shell.sources.prometheus import PrometheusEvidence
from gpuheal_responder.shell.telemetry import Telemetry
from gpuheal_responder.shell.wiring import Parts

IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class WallClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)


@dataclass(slots=True)
class Closing:
    """A service that only has to be closed."""

    close: Any

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin nothing."""
        return ()

    async def stop(self) -> None:
        """Close it."""
        await self.close()


async def api_of(kubernetes: Kubernetes) -> Api:
    """Return a connection as the settings say: by the named kubeconfig, else by the default one."""
    kubeconfig = kubernetes.kubeconfig or default_kubeconfig()
    return await connect(
        kubeconfig, kubernetes.context, connections=kubernetes.concurrency + 8, deadline=kubernetes.timeout
    )


def default_kubeconfig() -> Path | None:
    """Return the kubeconfig that $KUBECONFIG names, None for a pod's own account, else the user's own.

    A person in a toolbox pod who chose a cluster must not act on the pod's: the choice wins, as it does for kubectl.
    """
    chosen = os.environ.get("KUBECONFIG")
    if chosen:
        return Path(chosen)
    if os.environ.get("KUBERNETES_SERVICE_HOST") and IN_CLUSTER.exists():
        return None
    return Path.home() / ".kube" / "config"


def machines_of(settings: Settings, tools: Tools) -> Machines:
    """Return the providers that the settings make usable."""
    return made(settings.providers.default, settings.providers.by_name, tools)


def _leading(leads: bool, telemetry: Telemetry, pipeline: Pipeline, fence: Fence) -> None:
    telemetry.leading(leads)
    fence.moved()
    if leads:
        pipeline.begin()


def evidence_of(settings: Settings, telemetry: Telemetry) -> PrometheusEvidence:
    """Return the reader of the Prometheus that the settings name."""
    return PrometheusEvidence(
        settings.prometheus,
        window=settings.engine.health_window,
        cluster=settings.cluster,
        on_problem=telemetry.config_error,
        on_ignored=telemetry.ignored,
    )


def pipeline_of(settings: Settings, evidence: PrometheusEvidence, clock: WallClock, telemetry: Telemetry) -> Pipeline:
    """Return the judge of whether alerts and evidence can be trusted."""
    return Pipeline(
        clock=clock,
        interval=settings.watchdog.interval,
        thaw=settings.watchdog.thaw,
        prometheus=lambda: evidence.pipeline(clock),
        told=telemetry.frozen,
    )


async def parts_of(settings: Settings, *, audit: TextIO | None = None) -> Parts:
    """Return all parts on real servers; ConfigError when a file they need cannot be used. Nothing is started.

    Audit lines go to `audit`, by default standard output.
    """
    clock = WallClock()
    telemetry = Telemetry(cluster=settings.cluster, clock=clock, audit=audit or sys.stdout)
    policies = Following(watched_policies(settings.policies, telemetry.config_error), "policies")
    api = await api_of(settings.kubernetes)
    fence = Fence()
    fenced = api.fenced(fence.may_act)
    watching = WatchSettings(page=settings.kubernetes.page_size)
    cluster = KubeCluster(fenced, clock, ClusterSettings(watch=watching))
    remediations = KubeRemediations(fenced, watching)
    telemetry.count_unreadable(remediations.strange)
    histories = KubeHistories(fenced, clock, settings.namespace, watching)
    alerts = AlertmanagerAlerts(settings.alertmanagers, on_problem=telemetry.config_error, clock=clock)
    evidence = evidence_of(settings, telemetry)
    pipeline = pipeline_of(settings, evidence, clock, telemetry)
    election = Election(
        api,
        clock,
        namespace=settings.namespace,
        name=settings.kubernetes.lease,
        identity=f"{socket.gethostname()}-{os.getpid()}",
        changed=lambda leads: _leading(leads, telemetry, pipeline, fence),
    )
    fence.guard(election, (cluster.mirror, remediations.mirror, histories.mirror))
    controls = KubeControls(
        api=api,
        namespace=settings.namespace,
        name=settings.kubernetes.controls,
        mode=settings.engine.mode,
        pipeline=pipeline,
    )
    return Parts(
        ports=Ports(
            cluster=cluster,
            remediations=remediations,
            histories=histories,
            machines=machines_of(settings, Tools(jobs=KubeJobs(fenced), clock=clock)),
            alerts=alerts,
            evidence=evidence,
            controls=controls,
            clock=clock,
        ),
        policies=policies.current,
        faults=known_faults(settings.policies),
        people=KubePeople(reviewer=KubeReviewer(api), clock=clock),
        holds=KubeHolds(api),
        telemetry=telemetry,
        pipeline=pipeline,
        may_act=fence.may_act,
        holder=lambda: election.holder,
        services=(
            *(Closing(source.close) for source in (api, alerts, evidence)),
            *(policies, Interpreter(), StallMonitor(telemetry.stalled), cluster, remediations, histories),
            *(fence, election),
        ),
    )
