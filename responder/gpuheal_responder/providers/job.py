"""Reboot by a privileged Job on the node itself, in a namespace of its own; needs nothing but Kubernetes.

The Job's name follows from the operation id, so asking again finds the first one. Its pod acts only while its operation
stands: on the boot that it was meant for, and before a time that is set when it is asked for; one that starts late, on
a machine that has rebooted by other hands or after its case has gone on, does nothing. The machine has to run systemd
and its kubelet; a dead kubelet needs another provider.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from gpuheal_responder.core.node import Node
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import Permanent
from gpuheal_responder.ports import Clock
from gpuheal_responder.providers.provider import Jobs, Kind, Tools
from gpuheal_responder.rights import Right

NAME = "job"
TEMPLATE = "reboot-job.yaml.j2"
PREFIX = "reboot-"
MAX_NAME = 63
"""Longest name of a Job whose pods can carry it as a label (RFC 1123)."""
DIGEST = 12
ENDED = frozenset({"Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"})
"""Conditions of a Job whose one pod has ended: k8s.io/api/batch/v1."""
OPERATION_ANNOTATION = "gpu.health/operation"
PINNED = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Reboots by a privileged Job on the node."""

    namespace: str = "gpuheal-privileged"
    """Namespace of the Jobs; no other work belongs there."""

    image: str = ""
    """Image with a shell and nsenter, pinned by digest; empty = no reboots by Job. Have it on the nodes beforehand."""

    service_account: str = "gpuheal-reboot"
    """Service account of the Jobs."""

    deadline: timedelta = timedelta(minutes=10)
    """How long after it was asked for the pod may still act; the machine's own reboot is not part of it."""

    keep: timedelta = timedelta(days=2)
    """How long an ended Job is kept, to tell what became of its operation."""

    def __post_init__(self) -> None:
        if self.image and not PINNED.fullmatch(self.image):
            raise ValueError(f"image {self.image!r} is not pinned by digest (NAME@sha256:…)")
        if not timedelta(seconds=1) <= self.deadline <= timedelta(hours=1):
            raise ValueError("deadline must lie between 1s and 1h")
        if self.keep < timedelta(days=1):
            raise ValueError("keep must be at least 24h, the window in which attempts count")


class JobReboot:
    """The protocol Provider by Jobs."""

    def __init__(self, settings: JobSettings, jobs: Jobs, clock: Clock) -> None:
        self._settings = settings
        self._jobs = jobs
        self._clock = clock

    async def reboot(self, node: Node, operation: str) -> None:
        """Have a Job of this operation on the node; asking again does nothing more. Permanent without a boot id."""
        if not node.boot_id:
            raise Permanent(
                Reason.BOOT_ID_UNKNOWN, f"{node.name} reports no boot ID; a stale pod could not be told from a new one"
            )
        await self._jobs.create(manifest(node, operation, self._settings, self._clock.now()))

    async def lookup(self, node: Node | None, operation: str) -> OperationState:
        """Return NOT_FOUND if the Job was never made, FAILED if it ended without rebooting, else ACCEPTED."""
        del node  # the operation alone names the Job
        job = await self._jobs.get(self._settings.namespace, job_name(operation))
        if job is None:
            return OperationState.NOT_FOUND
        conditions = (job.get("status") or {}).get("conditions") or ()
        failed = any(c["type"] in {"Failed", "FailureTarget"} and c["status"] == "True" for c in conditions)
        return OperationState.FAILED if failed else OperationState.ACCEPTED

    async def withdraw(self, node: Node | None, operation: str) -> None:
        """Remove the Job with its pod, unless it has ended: then it stays, to tell what became of the operation.

        A pod that no kubelet stops any more refuses to act once its time is up.
        """
        del node
        namespace, name = self._settings.namespace, job_name(operation)
        job = await self._jobs.get(namespace, name)
        if job is not None and not _ended(job):
            await self._jobs.delete(namespace, name)


def _ended(job: Mapping[str, Any]) -> bool:
    status = job.get("status") or {}
    over = {c["type"] for c in status.get("conditions") or () if c["status"] == "True"}
    return bool(over & ENDED or status.get("succeeded") or status.get("failed"))


def rights(settings: JobSettings) -> tuple[Right, ...]:
    """Return the rights on Jobs in their namespace."""
    return (
        Right(
            group="batch",
            resources=("jobs",),
            verbs=("get", "create", "delete"),
            why="Reboots, and taking one back; pods there are made by the Job controller, never by us.",
            namespace=settings.namespace,
        ),
    )


def _make(settings: JobSettings, tools: Tools) -> JobReboot:
    return JobReboot(settings, tools.jobs, tools.clock)


KIND = Kind(
    name=NAME,
    settings=JobSettings,
    hint="providers.job.image makes the provider job",
    configured=lambda settings: bool(settings.image),
    make=_make,
    rights=rights,
    place=lambda settings: settings.namespace,
)


def job_name(operation: str) -> str:
    """Return a DNS label that only this operation has, and that a reader recognises it by."""
    digest = hashlib.sha256(operation.encode()).hexdigest()[:DIGEST]
    readable = re.sub(r"[^a-z0-9]+", "-", operation.lower()).strip("-")[: MAX_NAME - DIGEST - 1 - len(PREFIX)]
    return "-".join(part for part in (PREFIX.rstrip("-"), readable.strip("-"), digest) if part)


def manifest(node: Node, operation: str, settings: JobSettings, now: datetime) -> dict[str, Any]:
    """Return the Job's manifest; Permanent `rejected` for names that no API server can have given us."""
    import yaml

    for value in (node.name, node.boot_id, operation):
        if not (value.isascii() and value.isprintable()):
            raise Permanent(Reason.REJECTED, f"{value!r} is not a valid node name, boot ID or operation ID")
    text = _template().render(
        name=job_name(operation),
        namespace=settings.namespace,
        operation=operation,
        node=node.name,
        boot_id=node.boot_id,
        image=settings.image,
        service_account=settings.service_account,
        deadline_s=int(settings.deadline.total_seconds()),
        keep_s=int(settings.keep.total_seconds()),
        asked_at=str(int(now.timestamp())),
        expires_at=str(int((now + settings.deadline).timestamp())),
    )
    made: dict[str, Any] = yaml.safe_load(text)
    return made


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  # YAML, not HTML: every value goes through tojson
    )
    return found.get_template(TEMPLATE)
