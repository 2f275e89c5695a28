"""The control plane of the lab: what is real in it, and what its played kubelets do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from gpuheal_lab.controlplane.kubeapi import STRATEGIC, ApiRefused
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import run
from gpuheal_lab.servers.stack import wait_for

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
MakeNodes = Callable[..., list[str]]
LABELS = {"app": "train"}


def template(*, gpus: int = 1, annotations: dict[str, str] | None = None, **spec: Any) -> Json:
    container = {"name": "main", "image": "train:1", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    return {
        "metadata": {"labels": LABELS, "annotations": annotations or {}},
        "spec": {"containers": [container], **spec},
    }


def create_deployment(plane: ControlPlane, namespace: str, replicas: int, **settings: Any) -> None:
    plane.admin.create(
        f"/apis/apps/v1/namespaces/{namespace}/deployments",
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "train"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template(**settings)},
        },
    )


def pods(plane: ControlPlane, namespace: str, phase: str = "Running") -> list[Json]:
    items: list[Json] = plane.admin.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return [pod for pod in items if pod["status"]["phase"] == phase and "deletionTimestamp" not in pod["metadata"]]


def wait_for_pods(plane: ControlPlane, namespace: str, count: int, phase: str = "Running") -> list[Json]:
    def check() -> list[Json] | None:
        found = pods(plane, namespace, phase)
        return found if len(found) == count else None

    found = wait_for(check, f"{count} {phase} pods")
    assert found is not None
    return found


def evict(plane: ControlPlane, namespace: str, name: str) -> Json:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
    return plane.admin.create(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", eviction)


def condition(node: Json, kind: str) -> Json | None:
    return next((item for item in node["status"]["conditions"] if item["type"] == kind), None)


def renewed_at(plane: ControlPlane, node: str) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
    return str(plane.admin.get(path)["spec"]["renewTime"])


def test_a_deployment_is_scheduled_by_gpu_capacity_and_runs(
    control_plane: ControlPlane, namespace: str, make_nodes: MakeNodes
) -> None:
    """Two nodes of 8 GPUs run 4 pods of 4 GPUs each; a fifth stays Pending: scheduler and quotas are real."""
    nodes = make_nodes(2, labels={"pool": namespace})
    create_deployment(control_plane, namespace, 5, gpus=4, nodeSelector={"pool": namespace})
    running = wait_for_pods(control_plane, namespace, 4)
    assert sorted(pod["spec"]["nodeName"] for pod in running) == sorted(nodes * 2)
    assert len(wait_for_pods(control_plane, namespace, 1, "Pending")) == 1


def test_eviction_is_refused_by_the_budget_then_accepted(
    control_plane: ControlPlane, namespace: str, make_nodes: MakeNodes
) -> None:
    """A full PodDisruptionBudget answers 429 with cause DisruptionBudget; when it allows one, the pod goes."""
    make_nodes(1, labels={"pool": namespace})
    create_deployment(control_plane, namespace, 1, nodeSelector={"pool": namespace})
    pod = wait_for_pods(control_plane, namespace, 1)[0]["metadata"]
    budgets = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    control_plane.admin.create(
        budgets,
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "keep"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": LABELS}},
        },
    )
    wait_for(lambda: control_plane.admin.get(f"{budgets}/keep")["status"].get("currentHealthy") == 1, "its status")

    with pytest.raises(ApiRefused) as caught:
        evict(control_plane, namespace, pod["name"])
    assert caught.value.status == 429
    assert [cause["reason"] for cause in caught.value.body["details"]["causes"]] == ["DisruptionBudget"]

    control_plane.admin.patch(f"{budgets}/keep", {"spec": {"minAvailable": 0}})
    wait_for(lambda: control_plane.admin.get(f"{budgets}/keep")["status"]["disruptionsAllowed"] == 1, "its allowance")
    assert evict(control_plane, namespace, pod["name"])["status"] == "Success"
    successor = wait_for(
        lambda: [p for p in pods(control_plane, namespace) if p["metadata"]["uid"] != pod["uid"]], "its successor"
    )
    assert len(successor) == 1


def test_a_lease_is_taken_by_compare_and_swap(control_plane: ControlPlane, namespace: str) -> None:
    """An update with the resourceVersion read wins once; a second one with the same version gets 409."""
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "executor"}, "spec": {}}
    read = control_plane.admin.create(leases, lease)
    taken = {**read, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}
    control_plane.admin.request("PUT", f"{leases}/executor", taken)
    with pytest.raises(ApiRefused) as caught:
        control_plane.admin.request("PUT", f"{leases}/executor", {**taken, "spec": {"holderIdentity": "b"}})
    assert caught.value.status == 409
    assert control_plane.admin.get(f"{leases}/executor")["spec"]["holderIdentity"] == "a"


def test_a_node_left_goes_not_ready_and_comes_back(control_plane: ControlPlane, make_nodes: MakeNodes) -> None:
    """Without a Lease the controller manager sets Ready to Unknown and taints; only that node; rejoining undoes it."""
    dead, alive = make_nodes(2)
    control_plane.leave(dead)
    control_plane.wait_until_ready(dead, ready=False)
    ready = condition(control_plane.node(dead), "Ready")
    assert ready is not None
    assert ready["status"] == "Unknown"
    control_plane.wait_until_ready(alive)
    control_plane.rejoin(dead)
    control_plane.wait_until_ready(dead)


def test_a_pod_on_a_dead_node_stays_terminating(
    control_plane: ControlPlane, namespace: str, make_nodes: MakeNodes
) -> None:
    """A pod deleted on a node that was left stays, when one on a live node has long gone; it goes with the rejoin."""
    node, alive = make_nodes(2)
    pod = {"apiVersion": "v1", "kind": "Pod", **template()}
    path = f"/api/v1/namespaces/{namespace}/pods"
    control_plane.admin.create(path, {**pod, "metadata": {"name": "stuck"}, "spec": {**pod["spec"], "nodeName": node}})
    wait_for_pods(control_plane, namespace, 1)
    control_plane.leave(node)
    control_plane.wait_until_ready(node, ready=False)
    control_plane.admin.delete(f"{path}/stuck", {"gracePeriodSeconds": 1})
    control_plane.admin.create(path, {**pod, "metadata": {"name": "other"}, "spec": {**pod["spec"], "nodeName": alive}})
    wait_for_pods(control_plane, namespace, 1)
    control_plane.admin.delete(f"{path}/other", {"gracePeriodSeconds": 1})
    wait_for(lambda: len(control_plane.admin.get(path)["items"]) == 1, "the pod on the live node to go")
    assert "deletionTimestamp" in control_plane.admin.get(f"{path}/stuck")["metadata"]
    control_plane.rejoin(node)
    wait_for(lambda: not control_plane.admin.get(path)["items"], "the pod to go")


def test_a_changed_boot_id_persists(control_plane: ControlPlane, make_nodes: MakeNodes) -> None:
    """After `reboot` the new boot id stays over heartbeats, a death and rejoin, and a restart of the kubelets."""
    (node,) = make_nodes(1)
    before = control_plane.node(node)["status"]["nodeInfo"]
    boot_id = control_plane.reboot(node)
    assert boot_id != before["bootID"]
    renewed = renewed_at(control_plane, node)
    wait_for(lambda: renewed_at(control_plane, node) > renewed, "a heartbeat")
    control_plane.leave(node)
    control_plane.wait_until_ready(node, ready=False)
    control_plane.rejoin(node)
    control_plane.wait_until_ready(node)
    control_plane.kubelets.restart()
    renewed = renewed_at(control_plane, node)
    wait_for(lambda: renewed_at(control_plane, node) > renewed, "a heartbeat of the new process")
    assert control_plane.node(node)["status"]["nodeInfo"] == {**before, "bootID": boot_id}


def test_conditions_of_others_and_capacity_stay(control_plane: ControlPlane, make_nodes: MakeNodes) -> None:
    """The played kubelet overwrites neither a foreign condition nor a patched capacity, also when it comes back."""
    (node,) = make_nodes(1)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ours = {"type": "GPUHealthy", "status": "False", "reason": "Xid79", "message": "m", "lastTransitionTime": now}
    status = {"conditions": [ours], "capacity": {"nvidia.com/gpu": "7"}}
    control_plane.admin.patch(f"/api/v1/nodes/{node}/status", {"status": status}, STRATEGIC)
    control_plane.leave(node)
    control_plane.wait_until_ready(node, ready=False)
    control_plane.rejoin(node)
    control_plane.wait_until_ready(node)
    found = control_plane.node(node)
    kept = condition(found, "GPUHealthy")
    assert kept is not None
    assert kept["reason"] == "Xid79"
    assert found["status"]["capacity"]["nvidia.com/gpu"] == "7"


@pytest.mark.parametrize(("code", "phase", "outcome"), [("0", "Succeeded", "Complete"), ("3", "Failed", "Failed")])
def test_a_job_ends_as_its_annotation_says(
    control_plane: ControlPlane, namespace: str, make_nodes: MakeNodes, code: str, phase: str, outcome: str
) -> None:
    """The pod of a Job ends by itself with the exit code asked for, and the Job controller draws its conclusion."""
    make_nodes(1, labels={"pool": namespace})
    pod = template(
        annotations={"lab.gpu.health/exit-code": code}, restartPolicy="Never", nodeSelector={"pool": namespace}
    )
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    spec = {"backoffLimit": 0, "template": pod}
    control_plane.admin.create(
        jobs, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "reset"}, "spec": spec}
    )

    def ended() -> bool:
        conditions = control_plane.admin.get(f"{jobs}/reset")["status"].get("conditions", ())
        return any(item["type"] == outcome and item["status"] == "True" for item in conditions)

    wait_for(ended, f"the Job to be {outcome}")
    assert len(pods(control_plane, namespace, phase)) == 1


def test_identities_have_the_rights_rbac_gives_them(control_plane: ControlPlane, namespace: str) -> None:
    """A user without a role gets 403; a service account gets in with its token and what a RoleBinding allows."""
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    for client in (control_plane.as_user("nobody"), control_plane.as_service_account(namespace, "default")):
        with pytest.raises(ApiRefused) as caught:
            client.get(leases)
        assert caught.value.status == 403
    rbac = "rbac.authorization.k8s.io"
    control_plane.admin.create(
        f"/apis/{rbac}/v1/namespaces/{namespace}/rolebindings",
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "edit"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        },
    )
    client = control_plane.as_service_account(namespace, "default")
    pods_path = f"/api/v1/namespaces/{namespace}/pods"
    assert wait_for(lambda: client.get(pods_path), "RBAC to see the binding")["items"] == []


def test_state_survives_the_death_of_api_server_and_etcd(control_plane: ControlPlane, make_nodes: MakeNodes) -> None:
    """After both are killed and started again, nodes are as before and the kubelets renew Leases by themselves."""
    (node,) = make_nodes(1)
    boot_id = control_plane.reboot(node)
    control_plane.apiserver.kill()
    control_plane.etcd.kill()
    control_plane.etcd.start()
    control_plane.apiserver.start()
    renewed = renewed_at(control_plane, node)
    assert control_plane.node(node)["status"]["nodeInfo"]["bootID"] == boot_id
    wait_for(lambda: renewed_at(control_plane, node) > renewed, "a heartbeat")
    control_plane.wait_until_ready(node)


def test_kubectl_drains_a_node(control_plane: ControlPlane, namespace: str, make_nodes: MakeNodes) -> None:
    """kubectl works with the kubeconfig, and a drained node is cordoned and empty."""
    (node,) = make_nodes(1, labels={"pool": namespace})
    create_deployment(control_plane, namespace, 2, nodeSelector={"pool": namespace})
    wait_for_pods(control_plane, namespace, 2)
    argv = find("kubectl").command(
        "--kubeconfig", str(control_plane.kubeconfig()), "drain", node, "--timeout=60s", folder=control_plane.folder
    )
    run(argv, deadline_s=70)
    assert control_plane.node(node)["spec"]["unschedulable"] is True
    bound = control_plane.admin.get(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}")["items"]
    assert bound == []
