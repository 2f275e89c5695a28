"""The port Cluster on a real API server: nodes from a watch cache, pods on demand, changes as single requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, timedelta
from typing import Any
from urllib.parse import quote

from gpuheal_responder.core.node import Condition, Node, Pod
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.undo import UNDO_ANNOTATION, Marks, dump
from gpuheal_responder.core.world import NodeLock
from gpuheal_responder.errors import Transient
from gpuheal_responder.ports import Clock, Eviction, EvictionResult, Note
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube.api import (
    MERGE_PATCH,
    METADATA_ONLY,
    STRATEGIC_MERGE_PATCH,
    Api,
    ApiError,
    changing,
    reading,
)
from gpuheal_responder.shell.kube.events import Events
from gpuheal_responder.shell.kube.lease import NODE_LOCK_NAMESPACE, NodeLocks
from gpuheal_responder.shell.kube.mirror import Mirror, WatchSettings
from gpuheal_responder.shell.kube.read import is_gpu_node, read_node, read_pod, write_taint

NODES = "/api/v1/nodes"
APP_LABEL = "app.kubernetes.io/name"
INSTANCE_LABEL = "app.kubernetes.io/instance"
PODS_PAGE = 250
MAX_POD_PAGES = 100
BUDGET_CAUSE = "DisruptionBudget"
"""Cause of a 429 that a budget gave, not the server's own throttling: kubernetes/api, policy/v1/types.go."""
OTHER_UID = ("UID in the precondition", "UID in precondition")
"""A 409 with these words means that a pod of this name has another UID (k8s.io/apiserver, storage errors)."""
NAMESPACE_GOING_CAUSE = "NamespaceTerminating"
SEVERAL_BUDGETS = "more than one PodDisruptionBudget"
"""The Eviction API answers 500 for such a pod: https://github.com/kubernetes/kubernetes/issues/75957"""
RIGHTS = (
    Right(
        group="",
        resources=("nodes",),
        verbs=("get", "list", "watch", "patch"),
        why="Taint, cordon and undo record are one PATCH of the node; nodes are never created, replaced or deleted.",
    ),
    Right(group="", resources=("nodes/status",), verbs=("patch",), why="Conditions of ours."),
    Right(group="", resources=("pods",), verbs=("list",), why="Pods of a contained node."),
    Right(
        group="",
        resources=("pods/eviction",),
        verbs=("create",),
        why="Pods leave by Eviction only; there is no right to delete one.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """What the adapter has to be told."""

    node_selector: str = ""
    """Label selector of the nodes to follow; empty = all nodes, of which those with GPUs are kept."""
    vital_apps: frozenset[str] = frozenset({"gpuheal", "prometheus", "alertmanager"})
    """Values of app.kubernetes.io/name whose last running replica must not be evicted: we would go blind or dumb."""
    lock_namespace: str = NODE_LOCK_NAMESPACE
    holder: str = "gpuheal"
    """Holder of node locks, the same for all our replicas."""
    watch: WatchSettings = field(default_factory=WatchSettings)


class KubeCluster:
    """Follows the nodes from `start` to `stop`; `nodes` raises ObserveError until the first list is complete."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        settings: ClusterSettings | None = None,
        changed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._settings = settings or ClusterSettings()
        query = {"labelSelector": self._settings.node_selector} if self._settings.node_selector else {}
        self.mirror = Mirror(api, NODES, self._keep, query=query, settings=self._settings.watch, changed=changed)
        self.events = Events(api, clock)
        self._locks = NodeLocks(api, clock, self._settings.holder, self._settings.lock_namespace)

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to follow the nodes; return the task that does."""
        return self.mirror.start()

    async def stop(self) -> None:
        """End following; repeatable."""
        await self.mirror.stop()

    async def nodes(self) -> Mapping[str, Node]:
        """Return all GPU nodes by name as last heard of; ObserveError when that is too long ago."""
        return self.mirror.items()

    async def node(self, name: str) -> Node | None:
        """Return the node as it is in the API server now, or None; from then on `nodes` knows at least as much."""
        known = self.mirror.peek(name)
        with reading(f"node {name}"):
            try:
                raw = await self._api.get(f"{NODES}/{quote(name)}")
            except ApiError as problem:
                if problem.status == 404:
                    return None
                raise
            node = read_node(raw, known, self._clock.now())
        if known is not None:
            self.mirror.put(name, node.resource_version, node)
        return node

    async def pods_on(self, node: str) -> tuple[Pod, ...]:
        """Return the pods bound to the node; a vital app's last running replica is marked as protected."""
        with reading(f"pods of node {node}"):
            found = await self._pods("/api/v1/pods", fieldSelector=f"spec.nodeName={node}")
            pods = [read_pod(raw) for raw in found]
            return tuple([await self._guarded(pod, node) for pod in pods])

    async def mark(self, node: Node, marks: Marks) -> Node:
        """Make taints, cordon, labels and undo record so in one merge PATCH at the node's version; return the node.

        What was absent before a mark is absent again after its release: empty lists and false are written as null.
        """
        spec: dict[str, Any] = {"taints": [write_taint(t) for t in marks.taints] or None}
        if marks.unschedulable is not None:
            spec["unschedulable"] = marks.unschedulable or None
        text = dump(marks.undo) if marks.undo is not None else None
        meta: dict[str, Any] = {
            "resourceVersion": node.resource_version,
            "annotations": {UNDO_ANNOTATION: text},
        }
        if marks.labels:
            meta["labels"] = dict(marks.labels)
        body = {"metadata": meta, "spec": spec}
        with changing(f"mark of node {node.name}"):
            answer = await self._api.call(
                "PATCH", f"{NODES}/{quote(node.name)}", body=body, content_type=MERGE_PATCH, accept=METADATA_ONLY
            )
        # The version in the PATCH was the node's, so everything else is as it was.
        marked = replace(
            node,
            resource_version=answer["metadata"]["resourceVersion"],
            labels={**node.labels, **marks.labels},
            taints=marks.taints,
            unschedulable=node.unschedulable if marks.unschedulable is None else marks.unschedulable,
            undo=marks.undo,
        )
        self.mirror.put(node.name, marked.resource_version, marked)
        return marked

    async def set_conditions(self, node: Node, put: Sequence[Condition], remove: Sequence[str]) -> None:
        """Write and remove conditions of ours; the transition time moves only with the status."""
        if not put and not remove:
            return
        known = {c.type: c.status for c in node.conditions}
        now = self._clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        listed: list[dict[str, str]] = [_condition(c, now, moved=known.get(c.type) != c.status) for c in put]
        listed += [{"type": kind, "$patch": "delete"} for kind in remove]
        body = {"metadata": {"uid": node.uid}, "status": {"conditions": listed}}
        with changing(f"conditions of node {node.name}"):
            try:
                await self._api.call(
                    "PATCH",
                    f"{NODES}/{quote(node.name)}/status",
                    body=body,
                    content_type=STRATEGIC_MERGE_PATCH,
                    accept=METADATA_ONLY,
                )
            except ApiError as problem:
                if problem.status == 422 and "metadata.uid" in problem.message:
                    raise Transient(Reason.CONFLICT, f"node {node.name} was deleted and recreated") from problem
                raise

    async def evict(self, pod: Pod) -> Eviction:
        """Ask for the eviction of exactly this pod; a budget that refuses is named in the API server's words."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        path = f"/api/v1/namespaces/{quote(pod.namespace)}/pods/{quote(pod.name)}/eviction"
        with changing(f"eviction of {pod.ref}"):
            try:
                await self._api.call("POST", path, body=body)
            except ApiError as problem:
                answer = _refused_eviction(problem)
                if answer is None:
                    raise
                return answer
        return Eviction(result=EvictionResult.ACCEPTED)

    async def publish(self, note: Note) -> bool:
        """Record the Event on the node and return whether that went well; a failure is counted in `events.failed`."""
        known = self.mirror.peek(note.node)
        return await self.events.publish(note, known.uid if known is not None else "")

    async def lock_of(self, node: str) -> NodeLock | None:
        """Return who else holds the node's Lease, or None."""
        return await self._locks.foreign(node)

    async def lock(self, node: Node, span: timedelta) -> None:
        """Hold the node's Lease for `span` from now; Transient `node-locked` when somebody else does."""
        await self._locks.take(node, span)

    async def unlock(self, node: str) -> None:
        """Give the node's Lease back if it is ours."""
        await self._locks.give_back(node)

    def _keep(self, raw: Mapping[str, Any], known: Node | None) -> Node | None:
        # A node that once had GPUs stays: its capacity goes with the device plugin, which is when we are needed.
        return read_node(raw, known, self._clock.now()) if known is not None or is_gpu_node(raw) else None

    async def _pods(self, path: str, **query: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        token = ""
        for _ in range(MAX_POD_PAGES):
            page = await self._api.get(path, {**query, "limit": PODS_PAGE, "continue": token})
            found += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return found
        raise ApiError(0, "Endless", f"{path}: more than {MAX_POD_PAGES} pages")

    async def _guarded(self, pod: Pod, node: str) -> Pod:
        app = pod.labels.get(APP_LABEL, "")
        if pod.protected or not pod.evictable or app not in self._settings.vital_apps:
            return pod
        wanted = {key: pod.labels[key] for key in (APP_LABEL, INSTANCE_LABEL) if key in pod.labels}
        selector = ",".join(f"{key}={value}" for key, value in wanted.items())
        peers = await self._pods(f"/api/v1/namespaces/{quote(pod.namespace)}/pods", labelSelector=selector)
        if any(_serves(raw) and raw["spec"].get("nodeName") != node for raw in peers):
            return pod
        return replace(pod, protected=f"last running replica of {app}")


def _serves(raw: Mapping[str, Any]) -> bool:
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in raw.get("status", {}).get("conditions") or ())
    return ready and "deletionTimestamp" not in raw["metadata"]


def _condition(condition: Condition, now: str, *, moved: bool) -> dict[str, str]:
    found = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastHeartbeatTime": now,
    }
    return {**found, "lastTransitionTime": now} if moved else found


def _refused_eviction(problem: ApiError) -> Eviction | None:
    """Return what the refusal means, or None for one that is no answer to our question."""
    budget = problem.cause(BUDGET_CAUSE)
    if problem.status == 429 and budget is not None:
        return Eviction(result=EvictionResult.BLOCKED, blocker=budget.message or problem.message)
    if problem.status == 500 and SEVERAL_BUDGETS in problem.message:
        return Eviction(result=EvictionResult.BLOCKED, blocker=problem.message)
    other_uid = problem.status == 409 and any(words in problem.message for words in OTHER_UID)
    going = problem.status == 403 and problem.cause(NAMESPACE_GOING_CAUSE) is not None
    if problem.status == 404 or other_uid or going:
        return Eviction(result=EvictionResult.GONE)
    return None
