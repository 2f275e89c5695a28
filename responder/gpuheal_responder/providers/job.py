"""Reboot by a privileged Job on the node itself, in a namespace of its own; needs nothing but Kubernetes.

The Job's name follows from the operation id, so asking again finds the first one. Its pod compares boot ids before it
acts: one that starts late, after the machine has rebooted by other hands, does nothing. The machine has to run systemd
and its kubelet; a dead kubelet needs another provider.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gpuheal_responder.core.node import Node
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import Permanent
from gpuheal_responder.rights import Right

NAME = "job"
TEMPLATE = "reboot-job.yaml.j2"
MAX_NAME = 63
"""Longest name of a Job whose pods can carry it as a label (RFC 1123)."""
DIGEST = 12
OPERATION_ANNOTATION = "gpu.health/operation"


def rights(namespace: str) -> tuple[Right, ...]:
    """Return the rights on Jobs in their namespace."""
    why = "Reboots; pods there are made by the Job controller, never by us."
    return (Right(group="batch", resources=("jobs",), verbs=("get", "create"), why=why, namespace=namespace),)


class Jobs(Protocol):
    """Where Jobs are kept; errors are those of the ports."""

    async def create(self, manifest: Mapping[str, Any]) -> bool:
        """Create the Job; False if one of this name exists already."""
        ...

    async def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return the Job, or None."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Where the Jobs run and with what."""

    image: str
    """Image with a shell and nsenter, pinned by digest."""
    namespace: str = "gpuheal-privileged"
    service_account: str = "gpuheal-reboot"
    deadline: timedelta = timedelta(minutes=10)
    """How long the pod may take to start and end; the machine's own reboot is not part of it."""
    keep: timedelta = timedelta(days=2)
    """How long an ended Job is kept, for `lookup`."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\s@]+@sha256:[0-9a-f]{64}", self.image):
            raise ValueError(f"image {self.image!r} is not pinned by digest (NAME@sha256:…)")


class JobReboot:
    """The port Machines by Jobs; it answers to one provider name only."""

    def __init__(self, jobs: Jobs, settings: JobSettings) -> None:
        self._jobs = jobs
        self._settings = settings

    async def reboot(self, node: Node, operation: str, provider: str) -> None:
        """Have a Job of this operation on the node; asking again does nothing more. Permanent without a boot id."""
        if provider != NAME:
            raise Permanent("unknown-provider", f"no provider is called {provider!r}")
        if not node.boot_id:
            raise Permanent(
                "boot-id-unknown", f"{node.name} has no boot id; a late pod could not be told from a new one"
            )
        await self._jobs.create(manifest(node, operation, self._settings))

    async def lookup(self, node: Node, operation: str, provider: str) -> OperationState:
        """Return NOT_FOUND if the Job was never made, FAILED if it ended without rebooting, else ACCEPTED."""
        del node  # the operation alone names the Job
        if provider != NAME:
            return OperationState.UNKNOWABLE
        job = await self._jobs.get(self._settings.namespace, job_name(operation))
        if job is None:
            return OperationState.NOT_FOUND
        conditions = (job.get("status") or {}).get("conditions") or ()
        failed = any(c["type"] in {"Failed", "FailureTarget"} and c["status"] == "True" for c in conditions)
        return OperationState.FAILED if failed else OperationState.ACCEPTED


def job_name(operation: str) -> str:
    """Return a DNS label that only this operation has, and that a reader recognises it by."""
    digest = hashlib.sha256(operation.encode()).hexdigest()[:DIGEST]
    readable = re.sub(r"[^a-z0-9]+", "-", operation.lower()).strip("-")[: MAX_NAME - DIGEST - 1 - len("reboot-")]
    return "-".join(part for part in ("reboot", readable.strip("-"), digest) if part)


def manifest(node: Node, operation: str, settings: JobSettings) -> dict[str, Any]:
    """Return the Job's manifest; Permanent `rejected` for names that no API server can have given us."""
    for value in (node.name, node.boot_id, operation):
        if not (value.isascii() and value.isprintable()):
            raise Permanent("rejected", f"{value!r} is no name, boot id or operation of Kubernetes")
    text = _TEMPLATES.get_template(TEMPLATE).render(
        name=job_name(operation),
        namespace=settings.namespace,
        operation=operation,
        node=node.name,
        boot_id=node.boot_id,
        image=settings.image,
        service_account=settings.service_account,
        deadline_s=int(settings.deadline.total_seconds()),
        keep_s=int(settings.keep.total_seconds()),
    )
    made: dict[str, Any] = yaml.safe_load(text)
    return made


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701  # YAML, not HTML: every value goes through tojson
)
