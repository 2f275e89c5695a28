"""Kubernetes objects of the simulated cluster as the API server would show them, and what of them is compared."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpuheal_lab.fleet.spec import NodeSpec

Json = dict[str, Any]

GPU_RESOURCE = "nvidia.com/gpu"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
_PLAIN = frozenset({str, int, bool, float, type(None)})
# Conditions a kubelet writes beside Ready (k8s.io/api/core/v1, NodeConditionType), with its own words.
_PRESSURES = (
    ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
)


def copied(raw: Json) -> Json:
    """The object with nothing in common with the given one; faster than copy.deepcopy, which knows cycles."""
    return {key: _copied(value) for key, value in raw.items()}


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _copied(one) for key, one in value.items()}
    if kind is list:
        return [_copied(one) for one in value]
    return value if kind in _PLAIN else copy.deepcopy(value)


def stamp(at: datetime) -> str:
    """The time as Kubernetes writes it, in whole seconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def node_object(spec: NodeSpec, *, uid: str, boot_id: str, at: datetime, padding_bytes: int = 0) -> Json:
    """A Node as a kubelet has registered it; `padding_bytes` of image names make it as heavy as a real one."""
    gpus = str(len(spec.gpus))
    capacity = {"cpu": "192", "memory": "2113462276Ki", "pods": "110", GPU_RESOURCE: gpus}
    labels = {
        "kubernetes.io/hostname": spec.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "gpu.8xlarge",
        "topology.kubernetes.io/region": "region-1",
        "topology.kubernetes.io/zone": spec.zone,
        "topology.kubernetes.io/rack": spec.rack,
        "gpu.health/pool": spec.pool,
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.count": gpus,
    }
    if spec.gpus:
        labels["nvidia.com/gpu.product"] = spec.gpus[0].product.replace(" ", "-")
    if spec.fabric_domain:
        labels["nvidia.com/gpu.clique"] = spec.fabric_domain
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": spec.name,
            "uid": uid,
            "resourceVersion": "1",
            "creationTimestamp": stamp(at),
            "labels": labels,
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": {"providerID": f"lab:///{spec.zone}/{spec.name}"},
        "status": {
            "capacity": dict(capacity),
            "allocatable": dict(capacity),
            "conditions": [
                *(_condition(kind, "False", reason, text, at) for kind, reason, text in _PRESSURES),
                _condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", at),
            ],
            "nodeInfo": {
                "bootID": boot_id,
                "systemUUID": spec.system_uuid,
                "machineID": spec.system_uuid.replace("-", ""),
                "kernelVersion": "6.8.0-51-generic",
                "kubeletVersion": "v1.33.1",
            },
            "images": [
                {"names": [f"registry.example/image-{number:04}:v1"], "sizeBytes": 1_000_000}
                for number in range(padding_bytes // 75)
            ],
        },
    }


def _condition(kind: str, status: str, reason: str, message: str, at: datetime) -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": stamp(at),
        "lastTransitionTime": stamp(at),
    }


def put_condition(node: Json, *, kind: str, status: str, reason: str, message: str, at: datetime) -> None:
    """The node carries the condition; the transition time moves only when the status does."""
    made = _condition(kind, status, reason, message, at)
    conditions: list[Json] = node["status"]["conditions"]
    for index, old in enumerate(conditions):
        if old["type"] == kind:
            if old["status"] == status:
                made["lastTransitionTime"] = old["lastTransitionTime"]
            conditions[index] = made
            return
    conditions.append(made)


def is_ready(node: Json) -> bool:
    """Whether the node's condition Ready is True."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])


def has_taint(node: Json, key: str) -> bool:
    """Whether any taint of the node has this key."""
    return any(t["key"] == key for t in node["spec"].get("taints", ()))


def put_taint(node: Json, taint: Json) -> None:
    """The node carries the taint, in place of one with the same key and effect."""
    remove_taint(node, taint["key"], taint["effect"])
    node["spec"].setdefault("taints", []).append(taint)


def remove_taint(node: Json, key: str, effect: str | None = None) -> None:
    """The node carries no taint with this key (and effect, if given)."""
    kept = [t for t in node["spec"].get("taints", ()) if t["key"] != key or effect not in {None, t["effect"]}]
    set_or_drop(node["spec"], "taints", kept)


def set_or_drop(target: Json, key: str, value: Any) -> None:
    """`target[key]` is the value; an empty one is left out, as the API server leaves it out."""
    if value:
        target[key] = value
    else:
        target.pop(key, None)


_VOLATILE_METADATA = ("resourceVersion", "managedFields", "generation")


def essence(node: Mapping[str, Any]) -> Json:
    """The part of a raw Node that has to be the same after a case as before it.

    Left out is only what changes by itself: versions, heartbeat and transition times, and of a rebooted machine the
    boot id. Labels, annotations, taints, cordon, conditions, capacity and everything else stay in.
    """
    kept: Json = copy.deepcopy(dict(node))
    for key in _VOLATILE_METADATA:
        kept["metadata"].pop(key, None)
    for key in ("labels", "annotations"):
        set_or_drop(kept["metadata"], key, kept["metadata"].get(key))
    for key in ("taints", "unschedulable"):
        set_or_drop(kept["spec"], key, kept["spec"].get(key))
    status = kept["status"]
    status.get("nodeInfo", {}).pop("bootID", None)
    conditions = [
        {k: v for k, v in c.items() if k not in {"lastHeartbeatTime", "lastTransitionTime"}}
        for c in status.get("conditions", ())
    ]
    status["conditions"] = sorted(conditions, key=lambda c: str(c["type"]))
    return kept


def canonical(value: object) -> bytes:
    """The bytes by which two objects are compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def differences(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> list[str]:
    """Where two plain objects differ, as lines `path: before -> after`; empty when they are equal."""
    found = []
    for key in sorted({*before, *after}):
        where = f"{path}.{key}" if path else str(key)
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, where)
        elif old != new:
            found.append(f"{where}: {json.dumps(old)} -> {json.dumps(new)}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The controller a pod belongs to."""

    kind: str
    name: str


def pod_object(
    *,
    namespace: str,
    name: str,
    uid: str,
    node: str | None,
    owner: Owner | None,
    labels: Mapping[str, str],
    gpus: int,
    at: datetime,
) -> Json:
    """A Pod that is bound to `node` (or waits for one) and does not run yet."""
    metadata: Json = {"namespace": namespace, "name": name, "uid": uid, "labels": dict(labels)}
    metadata["creationTimestamp"] = stamp(at)
    if owner is not None:
        metadata["ownerReferences"] = [
            {"apiVersion": _API[owner.kind], "kind": owner.kind, "name": owner.name, "uid": uid, "controller": True}
        ]
    container: Json = {"name": "main", "image": "registry.example/work:v1"}
    if gpus:
        container["resources"] = {"limits": {GPU_RESOURCE: str(gpus)}, "requests": {GPU_RESOURCE: str(gpus)}}
    spec: Json = {"containers": [container]}
    if node is not None:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}


_API = {
    "ReplicaSet": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "Job": "batch/v1",
    "Node": "v1",
}


def pod_gpus(pod: Json) -> int:
    """How many GPUs the pod asks for."""
    return sum(int(c.get("resources", {}).get("requests", {}).get(GPU_RESOURCE, 0)) for c in pod["spec"]["containers"])


def pod_ready(pod: Json) -> bool:
    """Whether the pod's condition Ready is True and it is not going away."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def set_pod_ready(pod: Json, ready: bool) -> None:
    """The pod's condition Ready says so."""
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]


def pod_over(pod: Json) -> bool:
    """Whether the pod has ended by itself."""
    return pod["status"]["phase"] in {"Succeeded", "Failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A PodDisruptionBudget; one of the two limits is given, as a number or a percentage."""

    namespace: str
    name: str
    selector: Mapping[str, str]
    min_available: int | str | None = None
    max_unavailable: int | str | None = None

    def covers(self, pod: Json) -> bool:
        """Whether the selector picks the pod."""
        meta = pod["metadata"]
        labels = meta.get("labels", {})
        return meta["namespace"] == self.namespace and all(labels.get(k) == v for k, v in self.selector.items())

    def desired(self, expected: int) -> int:
        """How many of `expected` pods have to stay healthy; percentages round up (policy/v1, intstr)."""
        if self.min_available is not None:
            return _share(self.min_available, expected)
        return max(0, expected - _share(self.max_unavailable or 0, expected))

    def standing(self, pods: Sequence[Json]) -> tuple[int, int, int]:
        """Healthy pods, wanted ones, and how many may be disrupted now, over all pods of the cluster."""
        mine = [p for p in pods if self.covers(p) and not pod_over(p)]
        healthy, wanted = sum(map(pod_ready, mine)), self.desired(len(mine))
        return healthy, wanted, max(0, healthy - wanted)


def _share(value: int | str, total: int) -> int:
    if isinstance(value, int):
        return value
    return math.ceil(total * int(value.removesuffix("%")) / 100)
