"""The reboot Job: its name, its manifest, and what its state means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuheal_responder.core.node import Node
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import Permanent
from gpuheal_responder.providers.job import JobReboot, JobSettings, job_name, manifest

IMAGE = "tools@sha256:" + "a" * 64
NODE = Node(name="gpu-1", uid="u", boot_id="b-1")


class Shelf:
    """Jobs in memory: an implementation of the provider's port."""

    def __init__(self, status: Mapping[str, Any] | None = None) -> None:
        self.jobs: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.status = status or {}

    async def create(self, manifest: Mapping[str, Any]) -> bool:
        """Keep the Job unless there is one."""
        key = (manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        fresh = key not in self.jobs
        self.jobs.setdefault(key, {**manifest, "status": self.status})
        return fresh

    async def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The Job, or None."""
        return self.jobs.get((namespace, name))


@settings(deadline=None)
@given(st.text(min_size=1, max_size=300))
def test_any_operation_gives_a_label_of_its_own(operation: str) -> None:
    """Names are DNS labels of at most 63 characters, equal for equal operations only."""
    name = job_name(operation)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)
    assert name == job_name(operation)
    assert name != job_name(operation + "x")


def test_long_operations_that_differ_at_the_end_get_different_names() -> None:
    """What is cut off still counts, by the digest."""
    stem = "n" * 80
    assert job_name(f"{stem}-1") != job_name(f"{stem}-2")


def test_the_job_is_pinned_bounded_and_tried_once() -> None:
    """It sits on the node past taint and cordon, has one try and deadlines, and knows the boot it was meant for."""
    made = manifest(NODE, "gpu-1-1-reboot-1", JobSettings(image=IMAGE))
    spec, pod = made["spec"], made["spec"]["template"]["spec"]
    assert (spec["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert spec["activeDeadlineSeconds"] == 600
    assert spec["ttlSecondsAfterFinished"] == 172800
    assert pod["nodeName"] == "gpu-1"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["image"] == IMAGE
    assert {"name": "BOOT_ID", "value": "b-1"} in container["env"]
    assert "$BOOT_ID" in container["command"][2]
    assert "systemctl reboot" in container["command"][2]
    assert made["metadata"]["annotations"]["gpu.health/operation"] == "gpu-1-1-reboot-1"


ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@settings(deadline=None)
@given(ASCII, ASCII, ASCII)
def test_s04_no_value_can_break_out_of_its_place(name: str, boot: str, operation: str) -> None:
    """Whatever node name, boot id and operation say, they are values of the manifest and nothing else."""
    made = manifest(Node(name=name, uid="u", boot_id=boot), operation, JobSettings(image=IMAGE))
    pod = made["spec"]["template"]["spec"]
    assert pod["nodeName"] == name
    assert pod["containers"][0]["env"][0] == {"name": "BOOT_ID", "value": boot}
    assert made["metadata"]["annotations"]["gpu.health/operation"] == operation
    plain = manifest(NODE, "x", JobSettings(image=IMAGE))
    assert pod["containers"][0]["command"] == plain["spec"]["template"]["spec"]["containers"][0]["command"]


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "n\u2028", "\U0001f600"])
def test_s04_what_cannot_be_a_name_is_refused(name: str) -> None:
    """Control characters and anything beyond ASCII never reach the template."""
    with pytest.raises(Permanent, match="no name"):
        manifest(Node(name=name, uid="u", boot_id="b"), "op", JobSettings(image=IMAGE))


@pytest.mark.parametrize("image", ["", "tools:latest", "tools@sha256:abc", "a b@sha256:" + "0" * 64])
def test_s23_only_images_pinned_by_digest_are_taken(image: str) -> None:
    """A tag can move under our feet; it is refused."""
    with pytest.raises(ValueError, match="digest"):
        JobSettings(image=image)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, OperationState.ACCEPTED),
        ({"active": 1}, OperationState.ACCEPTED),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, OperationState.ACCEPTED),
        ({"conditions": [{"type": "Failed", "status": "False"}]}, OperationState.ACCEPTED),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, OperationState.FAILED),
        ({"conditions": [{"type": "FailureTarget", "status": "True"}]}, OperationState.FAILED),
    ],
)
async def test_the_jobs_state_tells_what_became_of_the_operation(
    status: Mapping[str, Any], state: OperationState
) -> None:
    """Failed is failed; anything else that exists was accepted; what does not exist was never asked for."""
    shelf = Shelf(status)
    provider = JobReboot(shelf, JobSettings(image=IMAGE))
    assert await provider.lookup(NODE, "op", "job") is OperationState.NOT_FOUND
    await provider.reboot(NODE, "op", "job")
    await provider.reboot(NODE, "op", "job")
    assert len(shelf.jobs) == 1
    assert await provider.lookup(NODE, "op", "job") is state
