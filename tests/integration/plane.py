"""The real control plane of a session, one for all its tests, and the adapter on it as the responder's service account.

`tests/conftest.py` makes the fixtures known everywhere. Tests share the servers and nothing else: each has nodes and
namespaces of its own names, and what the responder sees of the whole cluster is empty before and after.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gpuheal_lab.chart import render
from gpuheal_lab.controlplane.kubeapi import ApiRefused
from gpuheal_lab.controlplane.manifests import ACCOUNT, NAMESPACE, kubectl, wait_until_installed, write_kubeconfig
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.demo.kubefleet import JOBS
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import run
from gpuheal_lab.servers.stack import wait_for
from gpuheal_responder.shell.kube.api import Api, connect
from gpuheal_responder.shell.kube.cluster import ClusterSettings, KubeCluster
from gpuheal_responder.shell.kube.remediations import KubeRemediations

PEOPLE = {"nobody": ["lab:people"], "ann": ["sre"], "bob": ["sre"]}
"""They have no rights but what a test gives them."""
REMEDIATIONS = "/apis/gpu.health/v1alpha1/remediations"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/gpuheal/leases"
LOCKS = "/apis/coordination.k8s.io/v1/namespaces/medik8s-leases/leases"
NODES = "/api/v1/nodes"
SYNC = timedelta(seconds=30)
_NUMBERS = itertools.count()

Json = dict[str, Any]
Eventually = Callable[..., Awaitable[Any]]


class WallClock:
    """The port Clock."""

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane for the session. Leave it as found: own namespaces, own nodes."""
    with ControlPlane(tmp_path_factory.mktemp("plane"), identities=PEOPLE) as made:
        yield made


QUIET: Json = {
    "responder": {"existingSettings": "none"},
    "exporter": {"enabled": False},
    "rules": {"enabled": False},
    "prometheus": {"operator": {"enabled": False}},
}
"""Values of the chart for tests that run the responder themselves."""


@pytest.fixture(scope="session")
def plane(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with the Helm chart installed, so roles and admission are the chart's; no responder runs.

    What kustomize installs is the same (test_chart.py), and `gpuheal demo --cluster kube` installs that.
    """
    control_plane.create_namespace(NAMESPACE)
    restrict(control_plane)
    helm(control_plane, "install", "gpuheal", str(render.CHART), values=QUIET)
    kubectl(control_plane, "-n", NAMESPACE, "scale", f"deployment/{ACCOUNT}", "--replicas=0")
    wait_until_installed(control_plane)
    return control_plane


def restrict(plane: ControlPlane) -> None:
    """Pods of gpuheal's namespace have to be restricted, as the chart's README says."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.admin.patch(f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": labels}})


def helm(plane: ControlPlane, *args: str, values: Json | None = None, deadline_s: float = 90.0) -> str:
    """Run helm as the plane's administrator in gpuheal's namespace, with a home of its own."""
    options = [f"--kubeconfig={plane.kubeconfig()}", f"--namespace={NAMESPACE}"]
    options += [f"--set-json={name}={json.dumps(value)}" for name, value in (values or {}).items()]
    env = {**os.environ, "HOME": str(plane.folder)}
    return run(find("helm").command(*args, *options, folder=render.ROOT), deadline_s=deadline_s, env=env)


def sweep(plane: ControlPlane) -> None:
    """No case, reboot Job, node lock, Lease of the election and Node is there: a responder finds an empty cluster."""
    for path in (REMEDIATIONS, JOBS, LEASES, LOCKS, NODES):
        for left in plane.admin.list(path):
            with contextlib.suppress(ApiRefused):  # the garbage collector was faster
                plane.admin.delete(f"{path}/{left['metadata']['name']}?propagationPolicy=Background")
    for path in (REMEDIATIONS, JOBS, LEASES, LOCKS, NODES):
        wait_for(lambda path=path: not plane.admin.list(path), f"{path} to be empty")  # type: ignore[misc]


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace in the control plane, being deleted afterwards."""
    name = control_plane.create_namespace(f"lab-{next(_NUMBERS)}")
    yield name
    control_plane.admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def make_nodes(control_plane: ControlPlane) -> Iterator[Callable[..., list[str]]]:
    """`make_nodes(count, **like create_nodes)` gives Ready nodes with names of their own, deleted afterwards."""
    made: list[str] = []

    def make(count: int, **settings: object) -> list[str]:
        names = control_plane.create_nodes(count, prefix=f"n{next(_NUMBERS)}", **settings)  # type: ignore[arg-type]
        made.extend(names)
        return names

    yield make
    control_plane.delete_nodes(made)


@pytest.fixture(scope="session")
def kubeconfig(plane: ControlPlane) -> Path:
    """A kubeconfig of the responder's service account."""
    return write_kubeconfig(plane)


@pytest.fixture
async def api(kubeconfig: Path) -> AsyncIterator[Api]:
    """A connection as the responder's service account."""
    made = await connect(kubeconfig)
    yield made
    await made.close()


@pytest.fixture
async def cluster(api: Api) -> AsyncIterator[KubeCluster]:
    """The adapter, its cache complete."""
    made = KubeCluster(api, WallClock(), ClusterSettings())
    made.start()
    await made.mirror.wait_synced(SYNC)
    yield made
    await made.stop()


@pytest.fixture
async def remediations(api: Api) -> AsyncIterator[KubeRemediations]:
    """The store, its cache complete and its objects removed afterwards."""
    made = KubeRemediations(api)
    made.start()
    await made.mirror.wait_synced(SYNC)
    yield made
    for stored in await made.list():
        await made.delete(stored.case.name)
    await made.stop()


@pytest.fixture
def eventually() -> Eventually:
    """`await eventually(check, "words")` polls until `check` (plain or async) gives something true, and returns it."""

    async def poll(check: Callable[[], Any], words: str, deadline_s: float = 30.0) -> Any:
        end = asyncio.get_running_loop().time() + deadline_s
        while True:
            found = check()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            if asyncio.get_running_loop().time() > end:
                raise AssertionError(f"waited {deadline_s:g} s for {words}")
            await asyncio.sleep(0.05)

    return poll


def deployment(name: str, node: str, replicas: int, labels: dict[str, str] | None = None, **template: Any) -> Json:
    """A Deployment whose pods run on one node."""
    marks = {"app": name, **(labels or {})}
    container = {"name": "main", "image": "x:1", "resources": template.pop("resources", {})}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": marks, "annotations": template.pop("annotations", {})},
                "spec": {
                    "containers": [container],
                    "nodeSelector": {"kubernetes.io/hostname": node},
                    "terminationGracePeriodSeconds": 0,
                    **template,
                },
            },
        },
    }
