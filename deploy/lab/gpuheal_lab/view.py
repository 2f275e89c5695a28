"""Raw Kubernetes objects as the responder's frozen values."""

from __future__ import annotations

from typing import Any

from gpuheal_lab.objects import GPU_RESOURCE, Json, pod_gpus
from gpuheal_responder.core.model import Condition, Node, Pod, Taint
from gpuheal_responder.core.undo import UNDO_ANNOTATION, load

# Label that names the gang a pod belongs to, by the framework that sets it.
GANG_LABELS = (
    "jobset.sigs.k8s.io/jobset-name",
    "training.kubeflow.org/job-name",
    "volcano.sh/job-name",
    "leaderworkerset.sigs.k8s.io/name",
    "batch.kubernetes.io/job-name",
)


def node_of(raw: Json) -> Node:
    """The node as decisions see it."""
    meta, spec, status = raw["metadata"], raw["spec"], raw["status"]
    annotations = meta.get("annotations", {})
    conditions = tuple(_condition(c) for c in status.get("conditions", ()))
    info = status.get("nodeInfo", {})
    return Node(
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        labels=dict(meta.get("labels", {})),
        annotations=dict(annotations),
        taints=tuple(_taint(t) for t in spec.get("taints", ())),
        unschedulable=bool(spec.get("unschedulable", False)),
        ready=any(c.type == "Ready" and c.status == "True" for c in conditions),
        conditions=conditions,
        boot_id=info.get("bootID", ""),
        system_uuid=info.get("systemUUID", ""),
        provider_id=spec.get("providerID", ""),
        gpu_capacity=int(status.get("capacity", {}).get(GPU_RESOURCE, 0)),
        gpu_allocatable=int(status.get("allocatable", {}).get(GPU_RESOURCE, 0)),
        undo=load(annotations[UNDO_ANNOTATION]) if UNDO_ANNOTATION in annotations else None,
    )


def _condition(raw: Json) -> Condition:
    return Condition(
        type=raw["type"], status=raw["status"], reason=raw.get("reason", ""), message=raw.get("message", "")
    )


def _taint(raw: Json) -> Taint:
    return Taint(key=raw["key"], value=raw.get("value", ""), effect=raw["effect"], time_added=raw.get("timeAdded", ""))


def raw_taint(taint: Taint) -> Json:
    """The taint as it stands in a Node's spec."""
    made: dict[str, Any] = {"key": taint.key, "effect": taint.effect}
    if taint.value:
        made["value"] = taint.value
    if taint.time_added:
        made["timeAdded"] = taint.time_added
    return made


def pod_of(raw: Json, *, protected: str = "") -> Pod:
    """The pod as decisions see it."""
    meta = raw["metadata"]
    owner = next((o for o in meta.get("ownerReferences", ()) if o.get("controller")), {})
    labels = meta.get("labels", {})
    gang = next((f"{meta['namespace']}/{labels[key]}" for key in GANG_LABELS if labels.get(key)), "")
    return Pod(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        phase=raw["status"]["phase"],
        owner_kind=owner.get("kind", ""),
        owner_name=owner.get("name", ""),
        gang=gang,
        gpus=pod_gpus(raw),
        terminating="deletionTimestamp" in meta,
        mirror="kubernetes.io/config.mirror" in meta.get("annotations", {}),
        protected=protected,
        labels=dict(labels),
    )
