"""What a kubelet reports about nodes and pods: pure functions from an object to the status it would write."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

Json = dict[str, Any]

PREFIX = "lab.gpu.health/"
JOB_POD_RUNS_S = 1.0
# What a kubelet reports beside Ready: k8s.io/api/core/v1, NodeConditionType.
PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")


def is_ready(node: Json) -> bool:
    """Whether the node's Ready condition is True."""
    conditions = node.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def seconds(pod: Json, name: str, default: float) -> float:
    """The number in the pod's lab.gpu.health/NAME annotation; the default when there is none or it is no number."""
    with contextlib.suppress(ValueError):
        return float(pod["metadata"].get("annotations", {}).get(PREFIX + name, default))
    return default


def node_status(node: Json, now: str) -> Json:
    """The strategic merge patch a kubelet that has just come up sends: its conditions; the rest only where not set."""
    conditions = [_condition("Ready", "True", "KubeletReady", now)]
    conditions += [_condition(kind, "False", "KubeletHasNo" + kind, now) for kind in PRESSURES]
    status: Json = {"conditions": conditions}
    before = node.get("status", {})
    for part in ("capacity", "allocatable"):
        if not before.get(part):
            status[part] = {"cpu": "96", "memory": "1Ti", "pods": "110"}
    if not before.get("nodeInfo", {}).get("bootID"):
        status["nodeInfo"] = {"bootID": str(uuid.uuid4()), "kubeletVersion": "v1.36.0"}
    return {"status": status}


def running(pod: Json, now: str) -> Json:
    """The status of a pod whose containers all run."""
    kinds = ("Initialized", "ContainersReady", "Ready")
    return {
        "phase": "Running",
        "startTime": now,
        "hostIP": "127.0.0.1",
        "podIP": "10.1.0.1",
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
        "containerStatuses": [
            _container(item, {"running": {"startedAt": now}}, ready=True) for item in pod["spec"]["containers"]
        ],
    }


def completed(pod: Json, now: str) -> Json:
    """The status of a pod whose containers ended with the code its annotation asks for, 0 unless given."""
    return _ended(pod, now, int(seconds(pod, "exit-code", 0)))


def killed(pod: Json, now: str) -> Json:
    """The status of a pod that was running when it was deleted: Kubernetes 1.27 made it end in a terminal phase."""
    return _ended(pod, now, 137)  # 128 + SIGKILL


def _ended(pod: Json, now: str, code: int) -> Json:
    reason = "Completed" if code == 0 else "Error"
    ended = {"terminated": {"exitCode": code, "reason": reason, "startedAt": now, "finishedAt": now}}
    kinds = ("ContainersReady", "Ready")
    return {
        "phase": "Succeeded" if code == 0 else "Failed",
        "conditions": [
            {"type": kind, "status": "False", "reason": "PodCompleted", "lastTransitionTime": now} for kind in kinds
        ],
        "containerStatuses": [_container(item, ended, ready=False) for item in pod["spec"]["containers"]],
    }


def completes_after_s(pod: Json) -> float | None:
    """Seconds a running pod goes on; None = for good. Pods of Jobs end by themselves, others when annotated."""
    owned_by_job = any(owner.get("kind") == "Job" for owner in pod["metadata"].get("ownerReferences", ()))
    if not owned_by_job and PREFIX + "run-seconds" not in pod["metadata"].get("annotations", {}):
        return None
    return seconds(pod, "run-seconds", JOB_POD_RUNS_S)


def _container(container: Json, state: Json, *, ready: bool) -> Json:
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "containerID": "lab://" + container["name"],
        "restartCount": 0,
        "ready": ready,
        "started": ready,
        "state": state,
    }


def _condition(kind: str, status: str, reason: str, now: str) -> Json:
    times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "played by gpuheal_lab.controlplane.kubelet",
        **times,
    }
