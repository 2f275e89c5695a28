"""Leases of coordination.k8s.io/v1 as plain values, written by compare-and-swap, and the node lock made of them.

The node lock is the one that medik8s' operators take before they touch a node: namespace `medik8s-leases`, name
`node-NAME` (https://github.com/medik8s/common, pkg/lease).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuheal_responder.core.node import Node
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.world import NodeLock
from gpuheal_responder.errors import Transient
from gpuheal_responder.ports import Clock
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube.api import Api, ApiError, changing, reading

NODE_LOCK_NAMESPACE = "medik8s-leases"
NODE_LOCK_PREFIX = "node-"
NOBODY = ""
RIGHTS = (
    Right(
        group="coordination.k8s.io",
        resources=("leases",),
        verbs=("get", "create", "update", "delete"),
        why="Locks on nodes, shared with other tools that remediate.",
        namespace=NODE_LOCK_NAMESPACE,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A Lease as it stands; `version` is empty for one that does not exist yet."""

    holder: str = NOBODY
    span: timedelta = timedelta(0)
    renewed_at: datetime | None = None
    acquired_at: datetime | None = None
    transitions: int = 0
    version: str = ""

    @property
    def expires_at(self) -> datetime | None:
        """When nobody holds it any more by the clock, or None if nobody holds it."""
        return None if self.renewed_at is None or self.holder == NOBODY else self.renewed_at + self.span


class Leases:
    """The Leases of one namespace."""

    def __init__(self, api: Api, namespace: str, deadline: timedelta | None = None) -> None:
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._deadline = deadline

    async def read(self, name: str) -> Lease | None:
        """Return the Lease, or None; ApiError otherwise."""
        try:
            raw = await self._api.get(f"{self._path}/{name}", deadline=self._deadline)
        except ApiError as problem:
            if problem.status == 404:
                return None
            raise
        return _read(raw)

    async def write(self, name: str, lease: Lease, owner: Mapping[str, Any] | None = None) -> Lease:
        """Create the Lease if it has no version, else replace the one of that version; ApiError 409 if another won."""
        body: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": self._namespace},
            "spec": _spec(lease),
        }
        if owner is not None:
            body["metadata"]["ownerReferences"] = [dict(owner)]
        if not lease.version:
            return _read(await self._api.call("POST", self._path, body=body, deadline=self._deadline))
        body["metadata"]["resourceVersion"] = lease.version
        return _read(await self._api.call("PUT", f"{self._path}/{name}", body=body, deadline=self._deadline))

    async def delete(self, name: str, version: str) -> None:
        """Remove the Lease of that version; ApiError 409 if it has changed."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"resourceVersion": version}}
        await self._api.call("DELETE", f"{self._path}/{name}", body=body, deadline=self._deadline)


def micro_time(at: datetime) -> str:
    """Return the time as MicroTime is written."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _spec(lease: Lease) -> dict[str, Any]:
    return {
        "holderIdentity": lease.holder,
        "leaseDurationSeconds": max(1, round(lease.span.total_seconds())),
        "acquireTime": micro_time(lease.acquired_at) if lease.acquired_at else None,
        "renewTime": micro_time(lease.renewed_at) if lease.renewed_at else None,
        "leaseTransitions": lease.transitions,
    }


def _read(raw: Mapping[str, Any]) -> Lease:
    spec = raw.get("spec") or {}
    return Lease(
        holder=spec.get("holderIdentity") or NOBODY,
        span=timedelta(seconds=spec.get("leaseDurationSeconds") or 0),
        renewed_at=_time(spec.get("renewTime")),
        acquired_at=_time(spec.get("acquireTime")),
        transitions=spec.get("leaseTransitions") or 0,
        version=raw["metadata"]["resourceVersion"],
    )


class NodeLocks:
    """The lock on a node that remediation tools share; all our replicas hold it under one name, `holder`."""

    def __init__(self, api: Api, clock: Clock, holder: str, namespace: str = NODE_LOCK_NAMESPACE) -> None:
        self._leases = Leases(api, namespace)
        self._clock = clock
        self._holder = holder

    async def foreign(self, node: str) -> NodeLock | None:
        """Return who else holds the node's lock now, or None; ObserveError if that cannot be read."""
        with reading(f"lock of node {node}"):
            lease = await self._leases.read(NODE_LOCK_PREFIX + node)
        return self._foreign(lease)

    async def take(self, node: Node, span: timedelta) -> None:
        """Hold the node's lock for `span` from now; Transient `node-locked` when somebody else holds it."""
        name, now = NODE_LOCK_PREFIX + node.name, self._clock.now()
        with changing(f"lock of node {node.name}"):
            lease = await self._leases.read(name) or Lease()
            foreign = self._foreign(lease)
            if foreign is not None:
                raise Transient(
                    Reason.NODE_LOCKED, f"{foreign.holder} holds the Lease of node {node.name}", timedelta(seconds=30)
                )
            ours = lease.holder == self._holder
            taken = Lease(
                holder=self._holder,
                span=span,
                renewed_at=now,
                acquired_at=lease.acquired_at if ours else now,
                transitions=lease.transitions + (0 if ours else 1),
                version=lease.version,
            )
            owner = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
            await self._leases.write(name, taken, owner)

    async def give_back(self, node: str) -> None:
        """Remove the node's lock if it is ours; Transient if that could not be done."""
        name = NODE_LOCK_PREFIX + node
        with changing(f"lock of node {node}"):
            lease = await self._leases.read(name)
            if lease is None or lease.holder != self._holder:
                return
            try:
                await self._leases.delete(name, lease.version)
            except ApiError as problem:
                if problem.status != 404:
                    raise

    def _foreign(self, lease: Lease | None) -> NodeLock | None:
        if lease is None or lease.holder == self._holder:
            return None
        expires_at = lease.expires_at
        if expires_at is None or expires_at <= self._clock.now():
            return None
        return NodeLock(holder=lease.holder, expires_at=expires_at)
