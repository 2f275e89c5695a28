"""From the API server's JSON to the few fields that decisions read; pure functions, called object by object."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from gpuheal_responder.core.faults import clean
from gpuheal_responder.core.guards.permission import OPT_OUT_ANNOTATIONS
from gpuheal_responder.core.node import Condition, Node, Pod, Taint
from gpuheal_responder.core.undo import UNDO_ANNOTATION, load, own_record

LONGEST_ANNOTATION = 300
"""More of what people wrote does not fit into an Event beside the rest, nor into a case many times over."""
PREFIX = "gpu.health/"
PRESENT_LABEL = "nvidia.com/gpu.present"
"""Set by GPU feature discovery and the GPU operator on every node with an NVIDIA GPU."""
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
KEEP_ANNOTATION = "gpu.health/do-not-evict"

GANGS = (
    ("JobSet", "jobset.sigs.k8s.io/jobset-name"),
    ("TrainingJob", "training.kubeflow.org/job-name"),
    ("RayCluster", "ray.io/cluster"),
    ("LeaderWorkerSet", "leaderworkerset.sigs.k8s.io/name"),
    ("VolcanoJob", "volcano.sh/job-name"),
    ("Job", "batch.kubernetes.io/job-name"),
)
"""Labels that name the group a pod fails with; the outermost owner first (a JobSet's pods have the Job's too)."""

UNMANAGED = "not managed by a controller, so it would not be recreated"


def gpu_count(quantities: Mapping[str, Any]) -> int:
    """Return how many GPUs or MIG devices a resource list holds, with those shared by time slicing."""
    return sum(
        int(value)
        for key, value in quantities.items()
        if key.startswith(("nvidia.com/gpu", "nvidia.com/mig-")) and str(value).isdecimal()
    )


def is_gpu_node(raw: Mapping[str, Any]) -> bool:
    """Return whether the node has, or is labelled to have, a GPU, or carries our undo record."""
    meta = raw["metadata"]
    status = raw.get("status", {})
    return (
        meta.get("labels", {}).get(PRESENT_LABEL) == "true"
        or any(k.startswith(("nvidia.com/gpu", "nvidia.com/mig-")) for k in status.get("capacity", {}))
        or UNDO_ANNOTATION in meta.get("annotations", {})
    )


def read_node(raw: Mapping[str, Any], known: Node | None = None, now: datetime | None = None) -> Node:
    """Return the node without what no decision reads: images, managed fields, heartbeats, foreign annotations.

    `known` is how it was last heard of: a boot ID that is another `now` tells of a reboot.
    """
    meta, spec, status = raw["metadata"], raw.get("spec", {}), raw.get("status", {})
    info = status.get("nodeInfo", {})
    annotations = meta.get("annotations") or {}
    text = annotations.get(UNDO_ANNOTATION)
    undo = own_record(load(text), meta["name"]) if text is not None else None
    kept = {
        key: clean(value, LONGEST_ANNOTATION)
        for key, value in annotations.items()
        if key in OPT_OUT_ANNOTATIONS or (key.startswith(PREFIX) and key != UNDO_ANNOTATION)
    }
    conditions = tuple(
        _condition(c["type"], c["status"], c.get("reason", ""), c.get("message", ""))
        for c in status.get("conditions") or ()
    )
    return Node(
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        made_at=_moment(meta.get("creationTimestamp")),
        labels=_interned(meta.get("labels") or {}),
        annotations=kept or _NOTHING,
        taints=read_taints(spec),
        unschedulable=bool(spec.get("unschedulable", False)),
        ready=any(c.type == "Ready" and c.status == "True" for c in conditions),
        conditions=conditions,
        boot_id=info.get("bootID", ""),
        rebooted_at=_rebooted_at(known, meta["uid"], info.get("bootID", ""), now),
        system_uuid=info.get("systemUUID", ""),
        provider_id=spec.get("providerID", ""),
        gpu_capacity=gpu_count(status.get("capacity", {})),
        gpu_allocatable=gpu_count(status.get("allocatable", {})),
        undo=undo,
    )


def _moment(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None


def _rebooted_at(known: Node | None, uid: str, boot_id: str, now: datetime | None) -> datetime | None:
    if known is None or known.uid != uid:
        return None
    return now if known.boot_id and boot_id and boot_id != known.boot_id else known.rebooted_at


_NOTHING: Mapping[str, str] = {}


def read_taints(spec: Mapping[str, Any]) -> tuple[Taint, ...]:
    """Return the taints of a node's spec, in order."""
    return tuple(
        _taint(t["key"], t.get("value", ""), t["effect"], t.get("timeAdded", "")) for t in spec.get("taints") or ()
    )


def write_taint(taint: Taint) -> dict[str, str]:
    """Return the taint as the API server has it: empty fields are absent."""
    fields = {"key": taint.key, "value": taint.value, "effect": taint.effect, "timeAdded": taint.time_added}
    return {key: value for key, value in fields.items() if value}


@lru_cache(maxsize=4096)
def _condition(type_: str, status: str, reason: str, message: str) -> Condition:
    # A fleet has few distinct conditions: shared objects save most of the cache's memory.
    return Condition(type=type_, status=status, reason=reason, message=message)


@lru_cache(maxsize=1024)
def _taint(key: str, value: str, effect: str, time_added: str) -> Taint:
    return Taint(key=key, value=value, effect=effect, time_added=time_added)


def _interned(labels: Mapping[str, str]) -> Mapping[str, str]:
    return {sys.intern(key): sys.intern(value) for key, value in labels.items()}


def read_pod(raw: Mapping[str, Any]) -> Pod:
    """Return the pod; `protected` says why nobody may evict it, as far as the pod itself tells."""
    meta, spec, status = raw["metadata"], raw.get("spec", {}), raw.get("status", {})
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    owner: Mapping[str, str] = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), {})
    mirror = MIRROR_ANNOTATION in annotations
    protected = ""
    if annotations.get(KEEP_ANNOTATION) == "true":
        protected = f"annotation {KEEP_ANNOTATION}"
    elif not owner and not mirror:
        protected = UNMANAGED
    return Pod(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        phase=status.get("phase", "Pending"),
        owner_kind=owner.get("kind", ""),
        owner_name=owner.get("name", ""),
        gang=gang_of(meta["namespace"], labels),
        gpus=_gpus(spec),
        terminating="deletionTimestamp" in meta,
        mirror=mirror,
        protected=protected,
        labels=dict(labels),
    )


def gang_of(namespace: str, labels: Mapping[str, str]) -> str:
    """Return `kind/namespace/name` of the group that fails together with a pod of these labels, or an empty text."""
    for kind, label in GANGS:
        if labels.get(label):
            return f"{kind}/{namespace}/{labels[label]}"
    return ""


def _gpus(spec: Mapping[str, Any]) -> int:
    """Count requested GPUs; a resource claim counts as one, since what it was given cannot be told from the pod."""
    containers: Iterable[Mapping[str, Any]] = spec.get("containers") or ()
    wanted = (c.get("resources", {}) for c in containers)
    return sum(gpu_count(w.get("requests") or w.get("limits") or {}) for w in wanted) + len(
        spec.get("resourceClaims") or ()
    )
