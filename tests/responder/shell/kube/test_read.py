"""From the API server's JSON to nodes and pods, object by object."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gpuheal_responder.core.node import Taint, UndoRecord, Unreadable
from gpuheal_responder.core.undo import UNDO_ANNOTATION, dump
from gpuheal_responder.shell.kube.read import (
    UNMANAGED,
    gang_of,
    gpu_count,
    is_gpu_node,
    read_node,
    read_pod,
    write_taint,
)

Json = dict[str, Any]


def node(**parts: Json) -> Json:
    """A bare node with some parts replaced."""
    raw: Json = {
        "metadata": {"name": "n1", "uid": "u1", "resourceVersion": "7", **parts.get("metadata", {})},
        "spec": parts.get("spec", {}),
        "status": parts.get("status", {}),
    }
    return raw


def pod(**parts: Json) -> Json:
    """A bare pod with some parts replaced."""
    meta = {"name": "p", "namespace": "ml", "uid": "u", **parts.get("metadata", {})}
    return {"metadata": meta, "spec": parts.get("spec", {}), "status": parts.get("status", {"phase": "Running"})}


def test_only_what_decisions_read_is_kept() -> None:
    """Labels stay; of the annotations only ours and the opt-outs; images, heartbeats and managed fields go."""
    raw = node(
        metadata={
            "labels": {"a": "b"},
            "annotations": {
                "gpu.health/hold": "ann",
                "cluster.x-k8s.io/paused": "true",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            },
            "managedFields": [{"manager": "kubelet"}],
        },
        status={
            "conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": "x", "reason": "R", "message": "m"}
            ],
            "images": [{"names": ["x"]}],
            "nodeInfo": {"bootID": "b", "systemUUID": "s"},
            "capacity": {"nvidia.com/gpu": "8", "cpu": "96"},
            "allocatable": {"nvidia.com/gpu": "7", "cpu": "96"},
        },
    )
    read = read_node(raw)
    assert read.labels == {"a": "b"}
    assert read.annotations == {"gpu.health/hold": "ann", "cluster.x-k8s.io/paused": "true"}
    assert (read.ready, read.boot_id, read.system_uuid) == (True, "b", "s")
    assert (read.gpu_capacity, read.gpu_allocatable) == (8, 7)
    assert (read.name, read.uid, read.resource_version) == ("n1", "u1", "7")


def test_a_node_without_a_ready_condition_is_not_ready() -> None:
    """A node whose kubelet never reported is not Ready, and has no GPUs."""
    read = read_node(node())
    assert (read.ready, read.gpu_capacity, read.taints, read.unschedulable) == (False, 0, (), False)


def test_an_undo_record_is_read_once_and_a_foreign_one_is_left_to_see() -> None:
    """Our record stands in `undo`, not twice in memory; a text that cannot be read stands there too, never as none."""
    record = UndoRecord(
        case="n1-c",
        owner="gpuheal",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        policy="p",
        faults=("f",),
    )
    read = read_node(node(metadata={"annotations": {UNDO_ANNOTATION: dump(record)}}))
    assert (read.undo, dict(read.annotations)) == (record, {})
    odd = read_node(node(metadata={"annotations": {UNDO_ANNOTATION: "{}"}}))
    assert isinstance(odd.undo, Unreadable)
    assert (odd.undo.text, dict(odd.annotations), odd.record) == ("{}", {}, None)


def test_taints_come_back_as_they_were() -> None:
    """Reading and writing a list of taints is lossless, empty values and times of adding included."""
    taints = [
        {"key": "a", "effect": "NoSchedule"},
        {"key": "b", "value": "v", "effect": "NoExecute", "timeAdded": "2026-01-31T12:00:00Z"},
    ]
    read = read_node(node(spec={"taints": taints}))
    assert read.taints[0] == Taint(key="a", value="", effect="NoSchedule")
    assert [write_taint(t) for t in read.taints] == taints


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (node(metadata={"labels": {"nvidia.com/gpu.present": "true"}}), True),
        (node(metadata={"labels": {"nvidia.com/gpu.present": "false"}}), False),
        (node(status={"capacity": {"nvidia.com/gpu": "0"}}), True),
        (node(status={"capacity": {"nvidia.com/mig-1g.10gb": "7"}}), True),
        (node(metadata={"annotations": {UNDO_ANNOTATION: "x"}}), True),
        (node(status={"capacity": {"cpu": "96"}}), False),
    ],
)
def test_gpu_nodes_are_known_by_label_resource_or_our_mark(raw: Json, expected: bool) -> None:
    """Any one sign is enough, also a resource that has gone down to 0."""
    assert is_gpu_node(raw) is expected


def test_mig_devices_and_shared_gpus_count() -> None:
    """Every resource of the device plugin counts; other vendors' resources and odd quantities do not."""
    found = {"nvidia.com/gpu": "2", "nvidia.com/gpu.shared": "4", "nvidia.com/mig-1g.10gb": "7", "amd.com/gpu": "8"}
    assert gpu_count(found) == 13
    assert gpu_count({"nvidia.com/gpu": "1k"}) == 0


@pytest.mark.parametrize(
    ("labels", "gang"),
    [
        ({"batch.kubernetes.io/job-name": "j"}, "Job/ml/j"),
        ({"batch.kubernetes.io/job-name": "s-w-0", "jobset.sigs.k8s.io/jobset-name": "s"}, "JobSet/ml/s"),
        ({"training.kubeflow.org/job-name": "t"}, "TrainingJob/ml/t"),
        ({"ray.io/cluster": "r"}, "RayCluster/ml/r"),
        ({"leaderworkerset.sigs.k8s.io/name": "l"}, "LeaderWorkerSet/ml/l"),
        ({"volcano.sh/job-name": "v"}, "VolcanoJob/ml/v"),
        ({"app": "web"}, ""),
    ],
)
def test_a_gang_is_named_by_its_outermost_owner(labels: dict[str, str], gang: str) -> None:
    """The group that fails together is told by kind, namespace and name."""
    assert gang_of("ml", labels) == gang


def test_owner_gpus_and_state_of_a_pod() -> None:
    """GPUs are those requested (or limited) by all containers, a resource claim counts as one."""
    owner = {"kind": "ReplicaSet", "name": "web-1", "controller": True}
    containers = [
        {"resources": {"requests": {"nvidia.com/gpu": "2"}, "limits": {"nvidia.com/gpu": "2"}}},
        {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
        {},
    ]
    raw = pod(
        metadata={"ownerReferences": [{"kind": "X", "name": "y"}, owner], "deletionTimestamp": "t"},
        spec={"containers": containers, "resourceClaims": [{"name": "gpu"}]},
    )
    read = read_pod(raw)
    assert (read.owner_kind, read.owner_name, read.gpus, read.terminating) == ("ReplicaSet", "web-1", 4, True)
    assert read.protected == ""


def booted(boot: str, uid: str = "u1") -> Json:
    """A node in a boot of this ID."""
    return node(metadata={"uid": uid}, status={"nodeInfo": {"bootID": boot}})


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        (booted("a"), booted("b"), True),
        (booted("a"), booted("a"), False),
        (booted("a", "u0"), booted("b"), False),
        (booted(""), booted("b"), False),
        (booted("a"), booted(""), False),
    ],
)
def test_a_boot_id_that_changes_tells_of_a_reboot(before: Json, after: Json, seen: bool) -> None:
    """Its moment is kept as long as the Node object is the same; the first look at a node tells of none."""
    then, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    first = read_node(before, None, then)
    assert first.rebooted_at is None
    read = read_node(after, first, then)
    assert read.rebooted_at == (then if seen else None)
    assert read_node(after, read, later).rebooted_at == read.rebooted_at


def test_pods_that_must_not_be_moved_say_why() -> None:
    """The annotation protects, a missing controller protects, a mirror pod needs no protection: it is never evicted."""
    owner = [{"kind": "ReplicaSet", "name": "r", "controller": True}]
    kept = read_pod(pod(metadata={"ownerReferences": owner, "annotations": {"gpu.health/do-not-evict": "true"}}))
    assert "gpu.health/do-not-evict" in kept.protected
    free = read_pod(pod(metadata={"ownerReferences": owner, "annotations": {"gpu.health/do-not-evict": "false"}}))
    assert free.protected == ""
    assert read_pod(pod()).protected == UNMANAGED
    mirror = read_pod(pod(metadata={"annotations": {"kubernetes.io/config.mirror": "hash"}}))
    assert (mirror.mirror, mirror.protected, mirror.evictable) == (True, "", False)
