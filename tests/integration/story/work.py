"""Work on the nodes of a story: a service with a budget, and a gang whose members fail together."""

from __future__ import annotations

from typing import Any

from tests.integration.story.play import Play

from gpuheal_lab.servers.stack import wait_for

Json = dict[str, Any]

APP, GANG = "chat", "llm"
FOREVER = {"lab.gpu.health/run-seconds": "3600"}


def put(play: Play, index: int = 0) -> str:
    """Both replicas of a Deployment with a PDB and a member of a gang Job run on the node; returns their namespace."""
    name = play.node(index)
    namespace = f"work-{name}"
    admin = play.plane.admin
    play.plane.create_namespace(namespace)
    play.ends.callback(lambda: admin.delete(f"/api/v1/namespaces/{namespace}"))
    pool = {"gpu.health/pool": play.raw(name)["metadata"]["labels"]["gpu.health/pool"]}
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": APP},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": APP}}},
    }
    admin.create(f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets", budget)
    admin.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", _service(name, pool))
    admin.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", _gang(name, pool))
    wait_for(lambda: len(running(play, namespace, name)) >= 3, f"three pods to run on {name}", deadline_s=120)
    healthy = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{APP}"
    wait_for(lambda: admin.get(healthy).get("status", {}).get("disruptionsAllowed") == 1, "the budget to allow one")
    return namespace


def pods(play: Play, namespace: str, node: str = "") -> list[Json]:
    """The pods of a namespace that are not going away, on one node if given."""
    found = play.plane.admin.list(f"/api/v1/namespaces/{namespace}/pods")
    here = [p for p in found if not node or p["spec"].get("nodeName") == node]
    return [p for p in here if "deletionTimestamp" not in p["metadata"]]


def running(play: Play, namespace: str, node: str = "") -> list[Json]:
    """Those that run."""
    return [p for p in pods(play, namespace, node) if p["status"].get("phase") == "Running"]


def _service(node: str, pool: Json) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": APP},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": APP}},
            "template": {"metadata": {"labels": {"app": APP}}, "spec": _pod(node, pool, 1)},
        },
    }


def _gang(node: str, pool: Json) -> Json:
    """Two members; a disruption does not count as a failure (Kubernetes' Pod failure policy)."""
    ignore = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    template = {
        "metadata": {"labels": {"app": GANG}, "annotations": FOREVER},
        "spec": _pod(node, pool, 4) | {"restartPolicy": "Never"},
    }
    spec = {"parallelism": 2, "completions": 2, "backoffLimit": 0, "podFailurePolicy": {"rules": [ignore]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": GANG},
        "spec": spec | {"template": template},
    }


def _pod(node: str, pool: Json, gpus: int) -> Json:
    """The node is preferred; any other of the pool will do when it is closed."""
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    preferred = [{"weight": 100, "preference": {"matchExpressions": [hostname]}}]
    amount = {"nvidia.com/gpu": str(gpus)}
    return {
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": pool,
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}},
        "containers": [{"name": "main", "image": "x:1", "resources": {"limits": amount, "requests": amount}}],
    }
