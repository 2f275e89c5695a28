"""Pods of the simulated cluster: controllers replace them, a scheduler places them, the Eviction API removes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import partial

from gpuheal_lab.fleet.apiserver import ApiServer
from gpuheal_lab.fleet.clock import Schedule
from gpuheal_lab.fleet.machine import Machine, Power, Timings, Watcher
from gpuheal_lab.fleet.objects import (
    GPU_RESOURCE,
    Budget,
    Json,
    Owner,
    is_ready,
    pod_gpus,
    pod_object,
    pod_over,
    pod_ready,
    set_pod_ready,
    stamp,
)

TWO_BUDGETS = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."


class Evicted(StrEnum):
    """Answers of the Eviction API, by status code."""

    CREATED = "201"
    NOT_FOUND = "404"
    OTHER_UID = "409"
    BLOCKED = "429"
    TWO_BUDGETS = "500"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionAnswer:
    """What the Eviction API said, with its words about the budget that refused."""

    status: Evicted
    cause: str = ""


@dataclass(slots=True, kw_only=True)
class Replicas:
    """A controller of pods and the numbers it gives them."""

    namespace: str
    owner: Owner
    labels: Mapping[str, str]
    gpus: int
    made: int = 0
    grace: timedelta | None = None
    nodes: list[str] = field(default_factory=list)


class Workloads(Watcher):
    """All pods, their controllers, the scheduler and evictions."""

    def __init__(self, api: ApiServer, machines: Mapping[str, Machine], schedule: Schedule, timings: Timings) -> None:
        self._api = api
        self._machines = machines
        self._schedule = schedule
        self._timings = timings
        self._controllers: dict[tuple[str, str, str], Replicas] = {}
        self._placing = False
        self.stuck: set[str] = set()
        for machine in machines.values():
            machine.watchers.append(self)
        api.on_pod.append(self._pod_changed)
        api.on_node.append(lambda _: self._place_soon())

    def deployment(
        self,
        name: str,
        *,
        replicas: int,
        gpus: int = 1,
        namespace: str = "default",
        nodes: tuple[str, ...] = (),
        min_available: int | str | None = None,
    ) -> None:
        """A Deployment runs, its first pods on `nodes` in turn, covered by a budget if `min_available` is given."""
        labels = {"app": name, "pod-template-hash": "5d9c7b6f48"}
        owner = Owner(kind="ReplicaSet", name=f"{name}-5d9c7b6f48")
        self._start(owner, namespace, labels, replicas, gpus, nodes)
        if min_available is not None:
            self.budget(name, namespace=namespace, selector={"app": name}, min_available=min_available)

    def gang(
        self, name: str, *, size: int, gpus: int = 8, namespace: str = "default", nodes: tuple[str, ...] = ()
    ) -> None:
        """A training Job of a JobSet runs, `size` pods that only work together."""
        labels = {
            "batch.kubernetes.io/job-name": f"{name}-workers-0",
            "jobset.sigs.k8s.io/jobset-name": name,
        }
        self._start(Owner(kind="Job", name=f"{name}-workers-0"), namespace, labels, size, gpus, nodes)

    def daemonset(self, name: str, *, gpus: int = 0, namespace: str = "kube-system") -> None:
        """A DaemonSet runs one pod on every node."""
        owner = Owner(kind="DaemonSet", name=name)
        self._start(owner, namespace, {"app": name}, len(self._machines), gpus, tuple(self._machines))

    def bare_pod(self, name: str, *, node: str, gpus: int = 1, namespace: str = "default") -> None:
        """A pod runs that no controller would make again."""
        self._create(namespace, name, node, None, {"app": name}, gpus)
        self._run_at_once(namespace, name)

    def budget(
        self,
        name: str,
        *,
        selector: Mapping[str, str],
        namespace: str = "default",
        min_available: int | str | None = None,
        max_unavailable: int | str | None = None,
    ) -> None:
        """A PodDisruptionBudget of that name guards the pods; one of the same name is replaced."""
        made = Budget(
            namespace=namespace,
            name=name,
            selector=dict(selector),
            min_available=min_available,
            max_unavailable=max_unavailable,
        )
        kept = [b for b in self._api.budgets if (b.namespace, b.name) != (namespace, name)]
        self._api.budgets = [*kept, made]

    def evict(self, namespace: str, name: str, uid: str) -> EvictionAnswer:
        """What the Eviction API answers; after 201 the pod is going and gone when its grace is over.

        Order of checks as in pkg/registry/core/pod/storage/eviction.go: finished, pending and terminating pods are
        removed without asking budgets; a pod under two budgets cannot be evicted.
        """
        pod = self._api.pods.get((namespace, name))
        if pod is None:
            return EvictionAnswer(status=Evicted.NOT_FOUND)
        if pod["metadata"]["uid"] != uid:
            return EvictionAnswer(status=Evicted.OTHER_UID)
        free = pod_over(pod) or pod["status"]["phase"] == "Pending" or "deletionTimestamp" in pod["metadata"]
        budgets = [] if free else [b for b in self._api.budgets if b.covers(pod)]
        if len(budgets) > 1:
            return EvictionAnswer(status=Evicted.TWO_BUDGETS, cause=TWO_BUDGETS)
        for budget in budgets:
            healthy, wanted, allowed = budget.standing(list(self._api.pods.values()))
            unhealthy_and_enough = not pod_ready(pod) and healthy >= wanted > 0
            if allowed < 1 and not unhealthy_and_enough:
                cause = f"The disruption budget {budget.name} needs {wanted} healthy pods and has {healthy} currently"
                return EvictionAnswer(status=Evicted.BLOCKED, cause=cause)
        self._terminate(pod)
        return EvictionAnswer(status=Evicted.CREATED)

    def came_up(self, machine: Machine, /) -> None:
        """Pods that were going away when the machine stopped are gone now: their kubelet is back."""
        self._schedule.after(self._timings.kubelet_ready, partial(self._sweep, machine.spec.name))

    def _start(
        self, owner: Owner, namespace: str, labels: Mapping[str, str], size: int, gpus: int, nodes: tuple[str, ...]
    ) -> None:
        made = Replicas(namespace=namespace, owner=owner, labels=labels, gpus=gpus)
        self._controllers[(namespace, owner.kind, owner.name)] = made
        for number in range(size):
            node = nodes[number % len(nodes)] if nodes else None
            name = self._replica(made, node)
            if node is None:
                self._place()
            self._run_at_once(namespace, name)

    def _replica(self, made: Replicas, node: str | None) -> str:
        made.made += 1
        name = f"{made.owner.name}-{made.made:05}"
        self._create(made.namespace, name, node, made.owner, made.labels, made.gpus)
        return name

    def _create(
        self, namespace: str, name: str, node: str | None, owner: Owner | None, labels: Mapping[str, str], gpus: int
    ) -> None:
        self._api.put_pod(
            pod_object(
                namespace=namespace,
                name=name,
                uid=self._api.new_uid(),
                node=node,
                owner=owner,
                labels=labels,
                gpus=gpus,
                at=self._schedule.now(),
            )
        )

    def _run_at_once(self, namespace: str, name: str) -> None:
        pod = self._api.pods[(namespace, name)]
        if pod["spec"].get("nodeName"):
            self._api.change_pod(pod, _running)

    def _terminate(self, pod: Json) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            return
        at = self._schedule.now()

        def change(pod: Json) -> None:
            pod["metadata"]["deletionTimestamp"] = stamp(at)
            reason = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
            pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}, reason]

        self._api.change_pod(pod, change)
        self._schedule.after(self._timings.pod_grace, partial(self._remove, pod))

    def _remove(self, pod: Json) -> None:
        meta = pod["metadata"]
        machine = self._machines.get(pod["spec"].get("nodeName", ""))
        alive = machine is None or machine.power is not Power.DOWN
        if alive and f"{meta['namespace']}/{meta['name']}" not in self.stuck:
            self._api.delete_pod(pod)

    def _sweep(self, node: str) -> None:
        for pod in self._api.pods_on(node):
            if "deletionTimestamp" in pod["metadata"]:
                self._remove(pod)

    def release_stuck(self) -> None:
        """Pods that would not go away are gone."""
        self.stuck.clear()
        for node in self._machines:
            self._sweep(node)

    def _pod_changed(self, old: Json | None, new: Json | None) -> None:
        if new is not None or old is None:
            return
        references = old["metadata"].get("ownerReferences", ())
        for reference in references:
            made = self._controllers.get((old["metadata"]["namespace"], reference["kind"], reference["name"]))
            if made is None or pod_over(old):
                continue
            node = old["spec"].get("nodeName") if reference["kind"] == "DaemonSet" else None
            if node is None or node in self._api.nodes:
                self._schedule.after(self._timings.controllers, partial(self._remake, made, node))

    def _remake(self, made: Replicas, node: str | None) -> None:
        name = self._replica(made, node)
        if node is not None:
            self._start_later(made.namespace, name)
        self._place()

    def _place_soon(self) -> None:
        if not self._placing and self._api.pods_on(""):
            self._placing = True
            self._schedule.after(self._timings.controllers, self._place_now)

    def _place_now(self) -> None:
        self._placing = False
        self._place()

    def _place(self) -> None:
        waiting = self._api.pods_on("")
        if not waiting:
            return
        free = {name: left for name in self._api.nodes if (left := self._free_gpus(name)) is not None}
        for pod in waiting:
            wanted = pod_gpus(pod)
            fitting = sorted((-left, name) for name, left in free.items() if left >= wanted)
            if not fitting:
                continue
            name = fitting[0][1]
            free[name] -= wanted
            self._api.change_pod(pod, partial(_bind, name))
            self._start_later(pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _free_gpus(self, name: str) -> int | None:
        """GPUs that nobody has asked for on a node that takes pods, else None."""
        node = self._api.nodes[name]
        refused = any(t["effect"] in {"NoSchedule", "NoExecute"} for t in node["spec"].get("taints", ()))
        if refused or node["spec"].get("unschedulable") or not is_ready(node):
            return None
        used = sum(pod_gpus(p) for p in self._api.pods_on(name) if not pod_over(p))
        return int(node["status"]["allocatable"].get(GPU_RESOURCE, 0)) - used

    def _start_later(self, namespace: str, name: str) -> None:
        self._schedule.after(self._timings.pod_start, partial(self._run_pod, namespace, name))

    def _run_pod(self, namespace: str, name: str) -> None:
        pod = self._api.pods.get((namespace, name))
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        machine = self._machines.get(pod["spec"].get("nodeName", ""))
        if machine is not None and machine.power is Power.UP:
            self._api.change_pod(pod, _running)


def _running(pod: Json) -> None:
    pod["status"]["phase"] = "Running"
    set_pod_ready(pod, True)


def _bind(node: str, pod: Json) -> None:
    pod["spec"]["nodeName"] = node
