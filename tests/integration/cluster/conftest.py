"""The adapter on a real control plane, as the service account that deploy/kustomize/base gives it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_lab.controlplane import ControlPlane
from gpuheal_lab.process import run
from gpuheal_lab.servers import find
from gpuheal_lab.stack import wait_for
from gpuheal_responder.shell.kube import ClusterSettings, KubeCluster
from gpuheal_responder.shell.kube_api import Api, connect
from gpuheal_responder.shell.remediations import KubeRemediations

BASE = Path(__file__).parents[3] / "deploy" / "kustomize" / "base"
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
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with `kubectl apply -k deploy/kustomize/base` done; its Deployment runs no pods."""
    kubectl = find("kubectl")
    config = f"--kubeconfig={control_plane.kubeconfig()}"

    def call(*args: str) -> str:
        return run(kubectl.command(config, *args, folder=BASE), deadline_s=60)

    call("apply", "-k", str(BASE))
    call("-n", "gpuheal", "scale", "deployment/gpuheal-responder", "--replicas=0")
    definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/remediations.gpu.health"

    def established() -> bool:
        conditions = control_plane.admin.get(definition).get("status", {}).get("conditions", ())
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    wait_for(established, "the CRD to be established")
    wait_for(
        lambda: control_plane.admin.get("/api/v1/namespaces/gpuheal/serviceaccounts/gpuheal-responder"), "the account"
    )
    yield control_plane
    call("delete", "-k", str(BASE), "--wait=false")


@pytest.fixture(scope="session")
def kubeconfig(plane: ControlPlane) -> Path:
    """A kubeconfig of the responder's service account."""
    return write_kubeconfig(plane, plane.url, str(plane.ca_file))


def write_kubeconfig(plane: ControlPlane, url: str, ca_file: str = "", account: str = "gpuheal-responder") -> Path:
    """A kubeconfig of a service account in namespace gpuheal, for the server at `url`."""
    token = plane.service_account_token("gpuheal", account)
    cluster = {"server": url, **({"certificate-authority": ca_file} if ca_file else {})}
    path = plane.folder / f"account-{next(_NUMBERS)}.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            }
        ),
        encoding="utf-8",
    )
    return path


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
