"""What the played kubelet would write, as data."""

from __future__ import annotations

from typing import Any

import pytest

from gpuheal_lab.controlplane.kubeletstatus import (
    PRESSURES,
    completed,
    completes_after_s,
    is_ready,
    node_status,
    running,
)
from gpuheal_lab.controlplane.nodes import boot_id_patch, node_object

NOW = "2026-01-01T00:00:00Z"


def pod(*, owner: str = "", **annotations: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"annotations": {f"lab.gpu.health/{key}": value for key, value in annotations.items()}}
    if owner:
        metadata["ownerReferences"] = [{"kind": owner, "name": "o"}]
    return {"metadata": metadata, "spec": {"containers": [{"name": "main", "image": "train:1"}]}}


def test_a_registered_node_gets_conditions_only() -> None:
    """Capacity and nodeInfo that are set are not in the patch, so a patched boot id stays."""
    status = node_status(node_object("n1"), NOW)["status"]
    assert list(status) == ["conditions"]
    assert {item["type"]: item["status"] for item in status["conditions"]} == {
        "Ready": "True",
        **dict.fromkeys(PRESSURES, "False"),
    }


def test_a_bare_node_gets_capacity_and_a_boot_id() -> None:
    """A Node made by hand becomes schedulable."""
    status = node_status({"metadata": {"name": "n1"}}, NOW)["status"]
    assert status["capacity"] == status["allocatable"] == {"cpu": "96", "memory": "1Ti", "pods": "110"}
    assert status["nodeInfo"]["bootID"]


@pytest.mark.parametrize(("status", "expected"), [("True", True), ("False", False), ("Unknown", False)])
def test_only_a_true_ready_condition_is_ready(status: str, expected: bool) -> None:
    """Unknown, which the controller manager sets for a dead node, is not ready."""
    assert is_ready({"status": {"conditions": [{"type": "Ready", "status": status}]}}) is expected


def test_a_node_without_conditions_is_not_ready() -> None:
    """A Node that was just created is not ready."""
    assert not is_ready(node_object("n1"))


def test_a_running_pod_has_ready_containers() -> None:
    """Every container of the pod is running and ready, and so is the pod."""
    status = running(pod(), NOW)
    assert status["phase"] == "Running"
    assert [(item["name"], item["ready"], list(item["state"])) for item in status["containerStatuses"]] == [
        ("main", True, ["running"])
    ]
    assert {item["type"]: item["status"] for item in status["conditions"]}["Ready"] == "True"


@pytest.mark.parametrize(("code", "phase"), [("0", "Succeeded"), ("3", "Failed")])
def test_a_completed_pod_has_the_annotated_exit_code(code: str, phase: str) -> None:
    """The phase follows from the exit code the annotation asks for."""
    status = completed(pod(**{"exit-code": code}), NOW)
    assert status["phase"] == phase
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == int(code)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (pod(), None),
        (pod(owner="ReplicaSet"), None),
        (pod(owner="Job"), 1.0),
        (pod(owner="Job", **{"run-seconds": "5"}), 5.0),
        (pod(**{"run-seconds": "0.5"}), 0.5),
        (pod(owner="Job", **{"run-seconds": "soon"}), 1.0),
    ],
)
def test_which_pods_end_by_themselves(made: dict[str, Any], expected: float | None) -> None:
    """Pods of Jobs end after a second or as annotated, other pods only when annotated; nonsense counts as absent."""
    assert completes_after_s(made) == expected


def test_machine_ids_repeat_and_boot_ids_do_not() -> None:
    """Two Node objects of one name are the same machine in two boots; another name is another machine."""
    first, again, other = (node_object(name)["status"]["nodeInfo"] for name in ("n1", "n1", "n2"))
    assert first["systemUUID"] == again["systemUUID"] != other["systemUUID"]
    assert first["bootID"] != again["bootID"]


def test_a_boot_id_patch_touches_nothing_else() -> None:
    """The patch of a reboot names the boot id only, the same that is returned."""
    boot_id, patch = boot_id_patch()
    assert patch == {"status": {"nodeInfo": {"bootID": boot_id}}}


def test_a_node_without_gpus_has_no_gpu_resource() -> None:
    """gpus=0 makes a plain node: neither the resource nor the label of GPU feature discovery."""
    node = node_object("cpu", gpus=0)
    assert "nvidia.com/gpu" not in node["status"]["capacity"]
    assert "nvidia.com/gpu.present" not in node["metadata"]["labels"]
