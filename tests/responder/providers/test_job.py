"""The reboot Job: its name, its manifest, and what its state means."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.responder.shell.scripted import StillClock

from gpuheal_responder.core.node import Node
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import Permanent
from gpuheal_responder.providers import made
from gpuheal_responder.providers.job import JobReboot, JobSettings, job_name, manifest
from gpuheal_responder.providers.provider import Tools

IMAGE = "tools@sha256:" + "a" * 64
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
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

    async def delete(self, namespace: str, name: str) -> None:
        """Remove the Job if there is one."""
        self.jobs.pop((namespace, name), None)

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
    made = manifest(NODE, "gpu-1-1-reboot-1", JobSettings(image=IMAGE), NOW)
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
    made = manifest(Node(name=name, uid="u", boot_id=boot), operation, JobSettings(image=IMAGE), NOW)
    pod = made["spec"]["template"]["spec"]
    assert pod["nodeName"] == name
    assert pod["containers"][0]["env"][0] == {"name": "BOOT_ID", "value": boot}
    assert made["metadata"]["annotations"]["gpu.health/operation"] == operation
    plain = manifest(NODE, "x", JobSettings(image=IMAGE), NOW)
    assert pod["containers"][0]["command"] == plain["spec"]["template"]["spec"]["containers"][0]["command"]


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "n\u2028", "\U0001f600"])
def test_s04_what_cannot_be_a_name_is_refused(name: str) -> None:
    """Control characters and anything beyond ASCII never reach the template."""
    with pytest.raises(Permanent, match="not a valid node name"):
        manifest(Node(name=name, uid="u", boot_id="b"), "op", JobSettings(image=IMAGE), NOW)


@pytest.mark.parametrize("image", ["tools:latest", "tools@sha256:abc", "a b@sha256:" + "0" * 64])
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
    provider = JobReboot(JobSettings(image=IMAGE), shelf, StillClock())
    assert await provider.lookup(NODE, "op") is OperationState.NOT_FOUND
    await provider.reboot(NODE, "op")
    await provider.reboot(NODE, "op")
    assert len(shelf.jobs) == 1
    assert await provider.lookup(NODE, "op") is state


async def test_a_withdrawn_operation_is_as_one_never_asked_for() -> None:
    """Its Job is gone; withdrawing it again, or what was never asked for, is no error."""
    shelf = Shelf()
    provider = JobReboot(JobSettings(image=IMAGE), shelf, StillClock())
    await provider.reboot(NODE, "op")
    await provider.withdraw(None, "op")
    assert shelf.jobs == {}
    assert await provider.lookup(None, "op") is OperationState.NOT_FOUND
    await provider.withdraw(NODE, "op")


async def test_s16_a_provider_that_keeps_its_operations_elsewhere_now_is_another() -> None:
    """The Jobs' namespace was changed: what was asked for in the old one is not found in the new, and not withdrawn."""
    jobs = Shelf()
    settings = {"job": JobSettings(image=IMAGE, namespace="here")}
    before = made("job", settings, Tools(jobs=jobs, clock=StillClock()))
    assert before.providers() == {"": "job/here", "job": "job/here"}
    await before.reboot(NODE, "a", "job/here")
    settings = {"job": JobSettings(image=IMAGE, namespace="there")}
    after = made("job", settings, Tools(jobs=jobs, clock=StillClock()))
    assert await after.lookup(NODE, "a", "job/here") is OperationState.UNKNOWABLE
    with pytest.raises(Permanent, match="'job/here' is not configured; configured: job/there"):
        await after.withdraw(NODE, "a", "job/here")
    assert await before.lookup(NODE, "a", "job/here") is OperationState.ACCEPTED


def test_the_pod_starts_where_the_node_is_broken_and_never_on_a_control_plane() -> None:
    """No pod network and a priority that a full disk lets in; the kubelet itself refuses it on a control plane."""
    pod = manifest(NODE, "op", JobSettings(image=IMAGE), NOW)["spec"]["template"]["spec"]
    assert (pod["hostNetwork"], pod["priorityClassName"]) == (True, "system-node-critical")
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {"key": "node-role.kubernetes.io/control-plane", "operator": "DoesNotExist"} in term["matchExpressions"]


@pytest.mark.parametrize("status", [{"succeeded": 1}, {"conditions": [{"type": "Failed", "status": "True"}]}])
async def test_what_has_ended_is_not_withdrawn(status: Mapping[str, Any]) -> None:
    """Its Job stays, to tell what became of the operation: never-asked-for would be a lie."""
    shelf = Shelf(status)
    provider = JobReboot(JobSettings(image=IMAGE), shelf, StillClock())
    await provider.reboot(NODE, "op")
    before = await provider.lookup(NODE, "op")
    await provider.withdraw(NODE, "op")
    assert await provider.lookup(NODE, "op") is before is not OperationState.NOT_FOUND


BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(asked, expires, boot)` runs the Job's own command on a host of three stand-ins; status, and what they did.

    The host's systemd-run runs its command at once, `host_now` seconds later than the pod did, if given.
    """
    (tmp_path / "bin").mkdir()

    def tool(name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    tool("nsenter", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    tool(
        "systemd-run",
        'while [ "${1#--}" != "$1" ]; do shift; done; echo timer >> ' + f'{tmp_path}/done; LATER=$HOST_LATER exec "$@"',
    )
    tool("systemctl", f'echo "$@" >> {tmp_path}/done')
    tool("date", "echo $((NOW + ${LATER:-0}))")

    def call(now: datetime, boot: str = BOOT, host_later: int = 0) -> tuple[int, str]:
        container = manifest(Node(name="n", uid="u", boot_id=boot), "op", JobSettings(image=IMAGE), NOW)
        (container,) = container["spec"]["template"]["spec"]["containers"]
        env = {entry["name"]: entry["value"] for entry in container["env"]}
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        env |= {"PATH": path, "NOW": str(int(now.timestamp())), "HOST_LATER": str(host_later)}
        ended = subprocess.run(container["command"], env=env, capture_output=True, timeout=20, check=False)
        done = tmp_path / "done"
        return ended.returncode, done.read_text() if done.exists() else ""

    return call


def test_s18_a_reboot_can_be_taken_back_until_three_seconds_before() -> None:
    """The pod asks the host with its last command, and the host waits no longer than a kubelet takes to report it."""
    (container,) = manifest(NODE, "op", JobSettings(image=IMAGE), NOW)["spec"]["template"]["spec"]["containers"]
    script = container["command"][-1].replace("\\\n", " ")
    last = [line for line in script.splitlines() if line.strip()][-1]
    assert last.startswith("exec nsenter ")
    assert script.count("systemd-run") == script.count("systemctl") == 1
    (delay,) = re.findall(r"--on-active=(\d+)s ", last)
    assert int(delay) <= 3


@pytest.mark.parametrize(
    ("after", "boot", "host_later", "status", "done"),
    [
        (timedelta(minutes=9), BOOT, 10, 0, "timer\nreboot\n"),
        (timedelta(minutes=11), BOOT, 10, 1, ""),
        (timedelta(minutes=-6), BOOT, 10, 1, ""),
        (timedelta(minutes=-4), BOOT, 10, 0, "timer\nreboot\n"),
        (timedelta(minutes=1), "another-boot", 10, 0, ""),
        (timedelta(minutes=9), BOOT, 3600, 1, "timer\n"),
    ],
    ids=["in time", "too late", "clock far behind", "clock a little behind", "rebooted already", "host stood still"],
)
def test_s16_the_pod_acts_only_while_its_operation_stands(
    run: Run, after: timedelta, boot: str, host_later: int, status: int, done: str
) -> None:
    """On the boot that it was asked for, until its time is up by the node's own clock; the host looks once more."""
    assert run(NOW + after, boot, host_later) == (status, done)
