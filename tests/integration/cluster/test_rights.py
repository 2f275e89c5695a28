"""What the responder's service account may not do, on a real API server with RBAC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.plane import Eventually, WallClock

from gpuheal_lab.controlplane.kubeapi import ApiRefused
from gpuheal_lab.controlplane.manifests import BASE, write_kubeconfig
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.demo.kubefleet import JOBS
from gpuheal_lab.servers.stack import wait_for
from gpuheal_responder.actions import REGISTRY
from gpuheal_responder.core.node import Node, Pod
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import ObserveError, Permanent
from gpuheal_responder.providers.job import JobReboot, JobSettings, job_name
from gpuheal_responder.shell.kube.api import Api, connect
from gpuheal_responder.shell.kube.cluster import KubeCluster
from gpuheal_responder.shell.kube.jobs import KubeJobs

pytestmark = pytest.mark.cluster

MakeNodes = Callable[..., list[str]]
PODS = "/api/v1/namespaces/gpuheal-privileged/pods"
IMAGE = "tools@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/v1/nodes/{node}"),
        ("PUT", "/api/v1/nodes/{node}"),
        ("POST", "/api/v1/nodes"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces/gpuheal/secrets"),
        ("DELETE", "/api/v1/namespaces/{namespace}/pods/any"),
        ("PATCH", "/api/v1/namespaces/{namespace}/pods/any"),
        ("POST", "/api/v1/namespaces/gpuheal/pods"),
        ("POST", "/api/v1/namespaces/gpuheal-privileged/pods"),
        ("POST", "/apis/batch/v1/namespaces/gpuheal/jobs"),
        ("PATCH", f"{JOBS}/any"),
        ("GET", JOBS),
        ("PATCH", "/apis/gpu.health/v1alpha1/remediations/any"),
        ("PUT", "/apis/gpu.health/v1alpha1/remediations/any"),
        ("PUT", "/apis/gpu.health/v1alpha1/remediations/any/status"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/gpuheal/leases/other"),
        ("POST", "/apis/gpu.health/v1alpha1/remediations/any/approve"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
        ("POST", "/api/v1/namespaces/gpuheal/serviceaccounts/gpuheal-responder/token"),
    ],
)
def test_s23_the_responder_has_no_right_it_does_not_need(
    plane: ControlPlane, namespace: str, make_nodes: MakeNodes, method: str, path: str
) -> None:
    """Nodes are never created, replaced or deleted, pods never deleted, secrets never read: 403 from the API server."""
    (node,) = make_nodes(1)
    responder = plane.as_service_account("gpuheal", "gpuheal-responder")
    with pytest.raises(ApiRefused) as caught:
        responder.request(method, path.format(node=node, namespace=namespace), {} if method != "GET" else None)
    assert caught.value.status == 403


def test_the_account_of_reboot_pods_has_no_rights(plane: ControlPlane, make_nodes: MakeNodes) -> None:
    """The service account that privileged pods run as may not even read a node."""
    (node,) = make_nodes(1)
    wait_for(lambda: plane.admin.get("/api/v1/namespaces/gpuheal-privileged/serviceaccounts/gpuheal-reboot"), "account")
    with pytest.raises(ApiRefused) as caught:
        plane.as_service_account("gpuheal-privileged", "gpuheal-reboot").get(f"/api/v1/nodes/{node}")
    assert caught.value.status == 403


async def test_without_rights_reading_says_so_and_changing_is_for_people(
    plane: ControlPlane, make_nodes: MakeNodes
) -> None:
    """As an account without any rights the adapter gives ObserveError and Permanent `forbidden`, and never syncs."""
    await asyncio.to_thread(make_nodes, 1)
    api = await connect(await asyncio.to_thread(write_kubeconfig, plane, account="default"))
    cluster = KubeCluster(api, WallClock())
    cluster.start()
    with pytest.raises(ObserveError, match="forbidden"):
        await cluster.mirror.wait_synced(timedelta(seconds=1))
    with pytest.raises(ObserveError, match="403"):
        await cluster.node("any")
    with pytest.raises(Permanent) as caught:
        await cluster.evict(Pod(namespace="default", name="p", uid="u"))
    assert caught.value.reason == "forbidden"
    await cluster.stop()
    await api.close()


def test_every_right_an_action_names_is_given() -> None:
    """The rules of all actions in the registry are in the manifests, so none fails for lack of rights."""
    documents = list(yaml.safe_load_all((BASE / "rbac.yaml").read_text(encoding="utf-8")))
    given: set[tuple[str, str, str]] = set()
    for document in documents:
        if "responder" in str(document["metadata"]["name"]) or document["kind"] == "Role":
            for rule in document.get("rules", ()):
                given |= {(g, r, v) for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    wanted = {
        (rule.group, resource, verb)
        for action in REGISTRY.values()
        for rule in action.rbac
        for resource in rule.resources
        for verb in rule.verbs
    }
    assert wanted - given == set()
    assert wanted


def responder_pod(**changes: Any) -> dict[str, Any]:
    """A pod as the base's Deployment makes it."""
    template = yaml.safe_load((BASE / "deployment.yaml").read_text(encoding="utf-8"))["spec"]["template"]
    metadata = {**template["metadata"], "generateName": "responder-", "namespace": "gpuheal"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**template["spec"], **changes}}


def test_s23_the_responders_pod_is_admitted_as_restricted_and_no_other(plane: ControlPlane) -> None:
    """The Deployment's pod passes Pod Security `restricted`; the same pod with the host's processes does not."""
    dry_run = "/api/v1/namespaces/gpuheal/pods?dryRun=All"
    made = plane.admin.create(dry_run, responder_pod())
    assert made["spec"]["serviceAccountName"] == "gpuheal-responder"
    with pytest.raises(ApiRefused, match="PodSecurity") as caught:
        plane.admin.create(dry_run, responder_pod(hostPID=True))
    assert caught.value.status == 403


async def wait_phase(plane: ControlPlane, name: str) -> dict[str, Any]:
    """The Job's pod, when there is one."""
    path = f"{PODS}?labelSelector=batch.kubernetes.io/job-name={name}"

    def check() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = plane.admin.get(path)["items"]
        return items

    (pod,) = await asyncio.to_thread(wait_for, check, "the Job's pod")
    found: dict[str, Any] = pod
    return found


async def test_a_reboot_is_one_privileged_job_on_the_node(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, api: Api
) -> None:
    """Asked twice there is one Job, its pod on the tainted, cordoned node; lookup: first not-found, then accepted."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    taint = {"key": "gpu.health/unhealthy", "value": "true", "effect": "NoExecute"}
    change = {"spec": {"unschedulable": True, "taints": [taint]}}
    await asyncio.to_thread(plane.admin.patch, f"/api/v1/nodes/{name}", change)
    node = await cluster.node(name)
    assert node is not None
    provider = JobReboot(JobSettings(image=IMAGE), KubeJobs(api), WallClock())
    operation = f"{name}-1-reboot-1"
    assert await provider.lookup(node, operation) is OperationState.NOT_FOUND
    await provider.reboot(node, operation)
    await provider.reboot(node, operation)
    assert await provider.lookup(node, operation) is OperationState.ACCEPTED
    pod = await wait_phase(plane, job_name(operation))
    assert pod["spec"]["nodeName"] == name
    (container,) = pod["spec"]["containers"]
    assert container["image"] == IMAGE
    assert container["securityContext"]["privileged"] is True
    assert {"name": "BOOT_ID", "value": node.boot_id} in container["env"]
    assert len((await asyncio.to_thread(plane.admin.get, JOBS))["items"]) == 1
    job = f"{JOBS}/{job_name(operation)}"
    await asyncio.to_thread(plane.admin.delete, job + "?propagationPolicy=Background")


async def test_a_job_that_ran_out_of_time_has_failed(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, api: Api
) -> None:
    """A reboot pod that could not end in time makes the operation failed."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    node = await cluster.node(name)
    assert node is not None
    provider = JobReboot(JobSettings(image=IMAGE, deadline=timedelta(seconds=1)), KubeJobs(api), WallClock())
    await provider.reboot(node, "op-late")
    for _ in range(200):
        state = await provider.lookup(node, "op-late")
        if state is OperationState.FAILED:
            break
        await asyncio.sleep(0.1)
    assert state is OperationState.FAILED
    await asyncio.to_thread(plane.admin.delete, f"{JOBS}/{job_name('op-late')}?propagationPolicy=Background")


async def test_without_a_boot_id_a_reboot_is_never_asked_for(api: Api) -> None:
    """A late pod could not be told from a new one."""
    provider = JobReboot(JobSettings(image=IMAGE), KubeJobs(api), WallClock())
    with pytest.raises(Permanent, match="boot ID"):
        await provider.reboot(Node(name="n", uid="u"), "op")
    assert await provider.lookup(None, "op") is OperationState.NOT_FOUND


async def test_a_withdrawn_reboot_leaves_no_pod_behind(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, api: Api, eventually: Eventually
) -> None:
    """The Job goes, and its pod with it; the next reboot of the node has an id of its own."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    node = await cluster.node(name)
    assert node is not None
    provider = JobReboot(JobSettings(image=IMAGE), KubeJobs(api), WallClock())
    operation = f"{name}-1-reboot-1"
    await asyncio.to_thread(plane.leave, name)
    await provider.reboot(node, operation)
    await wait_phase(plane, job_name(operation))
    await provider.withdraw(node, operation)
    await provider.withdraw(None, operation)
    assert await provider.lookup(node, operation) is OperationState.NOT_FOUND
    pods = f"{PODS}?labelSelector=batch.kubernetes.io/job-name={job_name(operation)}"

    async def gone() -> bool:
        return not (await asyncio.to_thread(plane.admin.get, pods))["items"]

    await eventually(gone, "the pod to go")


def test_the_manifests_name_no_registry() -> None:
    """Images in the base are plain names that a site replaces."""
    text = Path(BASE / "deployment.yaml").read_text(encoding="utf-8")
    images = [line.split()[-1] for line in text.splitlines() if "image:" in line]
    assert images
    assert all("/" not in image for image in images)
