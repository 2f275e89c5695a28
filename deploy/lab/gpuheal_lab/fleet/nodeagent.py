"""Kubelet, device plugin and node lifecycle controller of the simulated nodes: what machines do shows on Nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from gpuheal_lab.fleet.apiserver import ApiServer, Missing
from gpuheal_lab.fleet.clock import Schedule
from gpuheal_lab.fleet.machine import Machine, Power, Timings, Watcher
from gpuheal_lab.fleet.objects import (
    GPU_RESOURCE,
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    Json,
    has_taint,
    is_ready,
    pod_over,
    put_condition,
    put_taint,
    remove_taint,
    set_pod_ready,
    stamp,
)


class NodeAgent(Watcher):
    """Writes the status of all nodes, and the taints that Kubernetes' own controllers keep in step with it."""

    def __init__(self, api: ApiServer, machines: Mapping[str, Machine], schedule: Schedule, timings: Timings) -> None:
        self._api = api
        self._machines = machines
        self._schedule = schedule
        self._timings = timings
        for machine in machines.values():
            machine.watchers.append(self)
        api.on_node.append(self._node_changed)

    def gpus_changed(self, machine: Machine, /) -> None:
        """The allocatable GPUs follow a moment later."""
        self._schedule.after(self._timings.device_plugin, partial(self._report_gpus, machine))

    def went_down(self, machine: Machine, /) -> None:
        """The node turns Unknown when its heartbeats have been missed long enough."""
        self._schedule.after(self._timings.not_ready_after, partial(self._lost, machine))

    def came_up(self, machine: Machine, /) -> None:
        """The kubelet reports the new boot, and its pods start again."""
        boots = machine.boots
        self._schedule.after(self._timings.kubelet_ready, partial(self._registered, machine, boots))

    def _report_gpus(self, machine: Machine) -> None:
        if machine.power is Power.DOWN:
            return
        count = sum(not s.unhealthy for s in machine.states.values()) if machine.gpus_ready else 0

        def change(node: Json) -> None:
            node["status"]["allocatable"][GPU_RESOURCE] = str(count)

        self._change(machine, change)

    def _lost(self, machine: Machine) -> None:
        if machine.power is not Power.DOWN:
            return

        def change(node: Json) -> None:
            put_condition(
                node,
                kind="Ready",
                status="Unknown",
                reason="NodeStatusUnknown",
                message="Kubelet stopped posting node status.",
                at=self._schedule.now(),
            )

        self._change(machine, change)
        for pod in self._api.pods_on(machine.spec.name):
            self._api.change_pod(pod, lambda p: set_pod_ready(p, False))

    def _registered(self, machine: Machine, boots: int) -> None:
        if machine.power is not Power.UP or machine.boots != boots:
            return

        def change(node: Json) -> None:
            node["status"]["nodeInfo"]["bootID"] = machine.boot_id
            if not machine.gpus_ready:
                node["status"]["allocatable"][GPU_RESOURCE] = "0"
            put_condition(
                node,
                kind="Ready",
                status="True",
                reason="KubeletReady",
                message="kubelet is posting ready status",
                at=self._schedule.now(),
            )

        self._change(machine, change)
        name = machine.spec.name
        message = f"Node {name} has been rebooted, boot id: {machine.boot_id}"
        self._api.record(node=name, reason="Rebooted", message=message, warning=True, source="kubelet")
        self._schedule.after(self._timings.pod_start, partial(self._start_pods, machine))

    def _start_pods(self, machine: Machine) -> None:
        if machine.power is not Power.UP:
            return
        for pod in self._api.pods_on(machine.spec.name):
            if not pod_over(pod):
                self._api.change_pod(pod, _run)

    def _change(self, machine: Machine, change: Callable[[Json], None]) -> None:
        try:
            self._api.change_node(machine.spec.name, change)
        except Missing:
            return  # the Node was deleted while its machine lives on

    def _node_changed(self, name: str) -> None:
        node = self._api.nodes.get(name)
        if node is not None and _wrong_taints(node):
            self._schedule.after(self._timings.controllers, partial(self._taint, name))

    def _taint(self, name: str) -> None:
        node = self._api.nodes.get(name)
        if node is None:
            return

        def change(node: Json) -> None:
            for (key, effect), wanted in _wrong_taints(node).items():
                if wanted:
                    put_taint(node, {"key": key, "effect": effect, "timeAdded": stamp(self._schedule.now())})
                else:
                    remove_taint(node, key, effect)

        self._api.change_node(name, change)


def _run(pod: Json) -> None:
    pod["status"]["phase"] = "Running"
    set_pod_ready(pod, True)


def _wrong_taints(node: Json) -> dict[tuple[str, str], bool]:
    """Taints that controllers own and whether they should be there, as far as they are not as they should be."""
    status = next((c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"), "Unknown")
    wanted = {
        UNSCHEDULABLE: bool(node["spec"].get("unschedulable")),
        NOT_READY: not is_ready(node) and status == "False",
        UNREACHABLE: status == "Unknown",
    }
    wrong = {key: should for key, should in wanted.items() if should != has_taint(node, key)}
    effects = {UNSCHEDULABLE: ("NoSchedule",), NOT_READY: ("NoSchedule", "NoExecute")}
    effects[UNREACHABLE] = effects[NOT_READY]
    return {(key, effect): should for key, should in wrong.items() for effect in effects[key]}
