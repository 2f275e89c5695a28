"""A life of the chart on a real API server: installed, upgraded with a case in flight, uninstalled, installed again.

Pods are played; what a pod of the uninstall would run is run here, with its arguments and a token of its account.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.cluster.test_upgrade import PREVIOUS, previous
from tests.integration.plane import NODES, REMEDIATIONS, SYNC, WallClock, helm, restrict

from gpuheal_lab.chart import render
from gpuheal_lab.controlplane.manifests import NAMESPACE, write_kubeconfig
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import CommandFailed, LabError, run
from gpuheal_lab.servers.stack import wait_for
from gpuheal_responder.actions.taint import UNHEALTHY
from gpuheal_responder.core.node import UndoRecord
from gpuheal_responder.core.undo import cordoned, mark, tainted
from gpuheal_responder.shell.kube.api import connect
from gpuheal_responder.shell.kube.cluster import ClusterSettings, KubeCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

Json = dict[str, Any]

FIRST = Path(__file__).parent / "data" / "gpuheal-chart-0.1.0.tgz"
GPUHEAL = Path(sys.executable).with_name("gpuheal")
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
LEASES = "medik8s-leases"
OPERATOR = ("PodMonitor", "PrometheusRule", "AlertmanagerConfig")
VALUES: Json = {
    "alertmanagerConfig": {"enabled": True},
    "tokens": {"copyTo": ["monitoring"]},
    "rules": {"enabled": False},  # large; the installation of the README has them
    "dashboards": {"enabled": False},
    # The played kubelet would end the pods of the uninstall well; they are ended here.
    "uninstall": {"podAnnotations": {"lab.gpu.health/run-seconds": "600"}},
}


def operator_crd(kind: str) -> Json:
    """A CRD of prometheus-operator that takes any object: its own schema is not what is tested here."""
    plural = f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1" if kind == "AlertmanagerConfig" else "v1", "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{**version, "schema": {"openAPIV3Schema": anything}}],
        },
    }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of its own with prometheus-operator's CRDs, two GPU nodes that are tainted and two without GPUs.

    The namespace of node locks is there already, made by another tool.
    """
    with ControlPlane(tmp_path / "plane") as plane:
        for kind in OPERATOR:
            plane.admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", operator_crd(kind))
        for name in (NAMESPACE, "monitoring", LEASES):
            plane.create_namespace(name)
        restrict(plane)
        for node in plane.create_nodes(2, prefix="gpu"):
            plane.admin.patch(f"{NODES}/{node}", {"spec": {"taints": [TAINT]}})
        plane.create_nodes(2, prefix="cpu", gpus=0)
        yield plane


VARIANT: Json = {
    **VALUES,
    "responder": {"replicas": 1, "priorityClassName": "system-cluster-critical", "podAnnotations": {"a": "b"}},
    "exporter": {
        "kernelLog": {"access": "device-plugin"},
        "nvidia": {"runtimeClassName": "nvidia", "libraryPath": "/opt/nvidia/lib"},
        "podLabels": {"team": "gpu"},
    },
    "imagePullSecrets": [{"name": "registry"}],
    "reboot": {"image": f"tools@sha256:{'0' * 64}"},
    "prometheus": {"serviceAccount": {"name": "prometheus-k8s"}, "rulesConfigMap": True},
    "dashboards": {},
    "rules": {"groups": [{"name": "own", "rules": [{"record": "a:b", "expr": "vector(1)"}]}]},
    "uninstall": {"marks": "revert", "podAnnotations": {"sidecar.istio.io/inject": "false"}},
}
"""Values that change what an object is made of."""


def check_every_object(plane: ControlPlane, folder: Path, values: Json) -> None:
    """The API server takes every object of the chart, and knows every field of it."""
    file = folder / "objects.yaml"
    file.write_text(render.render(values), encoding="utf-8")
    how = [
        "apply",
        "--server-side",
        "--field-manager=helm",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
    ]
    count = len(render.objects(file.read_text(encoding="utf-8")))
    config = f"--kubeconfig={plane.kubeconfig()}"
    said = run(find("kubectl").command(config, *how, f"--filename={file}", folder=folder), deadline_s=60)
    assert said.count("serverside-applied (server dry run)") == count


def first_chart(folder: Path) -> Path:
    """The chart as it was first released, with the CRD of the version before."""
    shutil.unpack_archive(FIRST, folder)
    chart = folder / "gpuheal"
    crd = yaml.safe_load((PREVIOUS / "crd.yaml").read_text(encoding="utf-8"))
    crd["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    (chart / "templates" / "crd.yaml").write_text(yaml.safe_dump(crd), encoding="utf-8")
    return chart


def pods_of(plane: ControlPlane, component: str) -> list[Json]:
    """The pods of a component in the responder's namespace."""
    found: list[Json] = plane.admin.get(f"{PODS}?labelSelector=app.kubernetes.io/component%3D{component}")["items"]
    return found


def wait_for_responders(plane: ControlPlane, prefix: str) -> None:
    """Both replicas run, on nodes of this prefix."""

    def there() -> bool:
        pods = pods_of(plane, "responder")
        up = [p["spec"]["nodeName"] for p in pods if p["status"]["phase"] == "Running"]
        return len(up) == len(pods) == len(set(up)) == 2 and all(name.startswith(prefix) for name in up)

    wait_for(there, f"two responders on nodes named {prefix}-…", deadline_s=60)


def tokens(plane: ControlPlane, *, copies: bool = True) -> dict[str, str]:
    """All tokens by namespace and name."""
    places = [(NAMESPACE, "webhook"), (NAMESPACE, "metrics"), ("gpuheal-exporter", "exporter")]
    places += [("monitoring", "webhook")] if copies else []
    found = {}
    for namespace, name in places:
        secret = plane.admin.get(f"/api/v1/namespaces/{namespace}/secrets/gpuheal-{name}-token")
        found[f"{namespace}/{name}"] = secret["data"]["token"]
    return found


def contain(plane: ControlPlane, name: str) -> None:
    """The node is tainted and cordoned as the responder does it, with its account."""

    async def act() -> None:
        api = await connect(write_kubeconfig(plane))
        cluster = KubeCluster(api, WallClock(), ClusterSettings())
        cluster.start()
        await cluster.mirror.wait_synced(SYNC)
        node = await cluster.node(name)
        assert node is not None
        record = UndoRecord(
            case=f"{name}-1",
            owner="gpuheal",
            at=datetime.now(UTC),
            policy="p",
            faults=("gpu-fell-off-bus",),
            changes=(tainted(UNHEALTHY), cordoned()),
        )
        await cluster.mark(node, mark(node, record))
        await cluster.stop()
        await api.close()

    asyncio.run(act())


def spec_of(plane: ControlPlane, node: str) -> Json:
    """What gpuheal could have left on a node; taints of Kubernetes' controllers follow in their own time."""
    raw = plane.node(node)
    taints = [each for each in raw["spec"].get("taints", ()) if not each["key"].startswith("node.kubernetes.io/")]
    ours = {k: v for k, v in raw["metadata"].get("annotations", {}).items() if k.startswith("gpu.health/")}
    return {"taints": taints, "unschedulable": raw["spec"].get("unschedulable", False), **ours}


class Containers:
    """Runs what the pods of the uninstall would run, and ends them with its status."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.said: list[str] = []
        self.over = threading.Event()
        self._done: set[str] = set()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Containers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join(60)

    def _follow(self) -> None:
        while not self.over.wait(0.2):
            with contextlib.suppress(LabError):  # the next look sees it
                self._look()

    def _look(self) -> None:
        for pod in pods_of(self.plane, "uninstall"):
            uid = pod["metadata"]["uid"]
            if uid not in self._done and pod["status"]["phase"] == "Running":
                self._run(pod)
                self._done.add(uid)

    def _run(self, pod: Json) -> None:
        (container,) = pod["spec"]["containers"]
        account = write_kubeconfig(self.plane, account=pod["spec"]["serviceAccountName"])
        env = {**os.environ, "KUBECONFIG": str(account)}
        try:
            said, phase = run([str(GPUHEAL), *container["args"]], deadline_s=60, env=env), "Succeeded"
        except CommandFailed as problem:
            said, phase = str(problem), "Failed"
        self.said.append(said)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ended = {"exitCode": int(phase == "Failed"), "startedAt": now, "finishedAt": now}
        statuses = [
            {**each, "ready": False, "state": {"terminated": ended}} for each in pod["status"]["containerStatuses"]
        ]
        path = f"{PODS}/{pod['metadata']['name']}/status"
        self.plane.admin.patch(path, {"status": {"phase": phase, "containerStatuses": statuses}})


def left(plane: ControlPlane) -> set[str]:
    """Everything of gpuheal that is on the cluster, but for what Kubernetes makes in every namespace."""
    kinds = (
        "all,serviceaccounts,roles,rolebindings,secrets,configmaps,networkpolicies,resourcequotas,poddisruptionbudgets"
    )
    wide = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings"
    policies = "validatingadmissionpolicies,validatingadmissionpolicybindings"
    operator = ",".join(f"{kind.lower()}s.monitoring.coreos.com" for kind in OPERATOR)
    found = set()
    for asked in (f"{kinds},{operator}", f"{wide},{policies}"):
        config = f"--kubeconfig={plane.kubeconfig()}"
        command = [
            "get",
            asked,
            "--all-namespaces",
            "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name}{'\\n'}{end}",
        ]
        found |= set(run(find("kubectl").command(config, *command, folder=plane.folder), deadline_s=60).split())
    return {name for name in found if "gpuheal" in name or "gpu.health" in name or LEASES in name}


def as_the_readme_says(plane: ControlPlane, folder: Path) -> None:
    """The commands of the README, in a checkout, once the namespace of the last installation is gone."""
    path = f"/api/v1/namespaces/{NAMESPACE}"
    plane.admin.delete(path)
    namespaces = "/api/v1/namespaces"
    wait_for(
        lambda: NAMESPACE not in {each["metadata"]["name"] for each in plane.admin.list(namespaces)},
        "the namespace to go",
    )
    text = (render.CHART.parent / "README.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", text, re.DOTALL))
    folder.mkdir()
    (folder / "deploy").symlink_to(render.ROOT / "deploy")
    (folder / "my-values.yaml").write_text(shown["values"], encoding="utf-8")
    env = {**os.environ, "HOME": str(folder), "KUBECONFIG": str(plane.kubeconfig())}
    for line in shown["install"].splitlines():
        program, *words = shlex.split(line)
        run(find(program).command(*words, folder=folder), deadline_s=90, cwd=folder, env=env)


def release_size(plane: ControlPlane) -> int:
    """Bytes of what Helm stores of the release."""
    secrets = plane.admin.list(f"/api/v1/namespaces/{NAMESPACE}/secrets")
    return max(len(each["data"]["release"]) for each in secrets if each["type"] == "helm.sh/release.v1")


def test_a_life_of_the_chart(world: ControlPlane, tmp_path: Path) -> None:
    """Cases, tokens and foreign namespaces survive an upgrade; an uninstall asks first and then leaves no trace."""
    helm(world, "install", "gpuheal", str(first_chart(tmp_path)), values=VALUES)
    wait_for_responders(world, "cpu")
    made = tokens(world)
    assert made["monitoring/webhook"] == made[f"{NAMESPACE}/webhook"]
    assert len(set(made.values())) == 3
    old = world.admin.create(REMEDIATIONS, previous())

    helm(world, "upgrade", "gpuheal", str(render.CHART), "--reset-then-reuse-values", values={"mode": "propose"})
    now = world.admin.get(f"{REMEDIATIONS}/{old['metadata']['name']}")
    assert (now["metadata"]["uid"], now["spec"], now["status"]) == (old["metadata"]["uid"], old["spec"], old["status"])
    assert tokens(world) == made
    check_every_object(world, tmp_path, VARIANT)
    account = world.as_service_account(NAMESPACE, "gpuheal-responder")
    status = f"{REMEDIATIONS}/{old['metadata']['name']}/status"
    wait_for(lambda: account.patch(status, {"status": {"escalated": "x"}}), "the CRD of this version to be served")
    assert (
        "propose"
        in world.admin.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/gpuheal-settings")["data"]["settings.yaml"]
    )
    world.delete_nodes(["cpu-0000", "cpu-0001"])
    for pod in pods_of(world, "responder"):  # nobody is there to end them
        world.admin.delete(f"{PODS}/{pod['metadata']['name']}?gracePeriodSeconds=0")
    wait_for_responders(world, "gpu")

    before = spec_of(world, "gpu-0000")
    contain(world, "gpu-0000")
    marked = spec_of(world, "gpu-0000")
    assert marked != before
    with Containers(world) as containers, pytest.raises(CommandFailed, match="uninstall-pre-delete"):
        helm(world, "uninstall", "gpuheal")
    assert "gpu-0000: gpu-fell-off-bus; would be: taint gpu.health/unhealthy removed" in containers.said[0]
    assert spec_of(world, "gpu-0000") == marked
    helm(world, "rollback", "gpuheal", "2")  # or go on with what was refused; see the chart's README
    helm(world, "upgrade", "gpuheal", str(render.CHART), "--reset-then-reuse-values", "--set=uninstall.marks=revert")
    wait_for_responders(world, "gpu")

    with Containers(world) as containers:
        helm(world, "uninstall", "gpuheal")
    assert containers.said[0].startswith("gpu-0000: taint gpu.health/unhealthy removed, uncordoned")
    assert containers.said[1] == "no node has an undo record\n"
    assert spec_of(world, "gpu-0000") == before
    stays = {"Namespace/gpuheal", f"Namespace/{LEASES}", "CustomResourceDefinition/remediations.gpu.health"}
    wait_for(lambda: left(world) == stays, "all but CRD and given namespaces to go", deadline_s=60, poll_s=2)
    assert world.admin.get(f"{REMEDIATIONS}/{old['metadata']['name']}")["spec"] == old["spec"]
    assert "helm" not in str(world.admin.get(f"/api/v1/namespaces/{LEASES}")["metadata"].get("annotations", {}))

    as_the_readme_says(world, tmp_path / "readme")
    assert tokens(world, copies=False).keys() < made.keys()
    assert release_size(world) < 700_000, "a Secret holds 1 MiB"
