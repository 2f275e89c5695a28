"""The responder's ports on the simulated fleet: same answers and same refusals as on real servers, no sleeping.

simulation = Simulation(fleet(8, 8))
simulation.workloads.deployment("web", replicas=2, nodes=("gpu-node-001",))
simulation.break_gpu("gpu-node-001", 3, fell_off_bus())
simulation.advance(timedelta(seconds=2))
node = await simulation.cluster.node("gpu-node-001")
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn

from gpuheal_lab.fleet.apiserver import ApiServer, Conflict, Missing
from gpuheal_lab.fleet.clock import Clock, ManualClock, Schedule
from gpuheal_lab.fleet.injection import Gate
from gpuheal_lab.fleet.machine import GpuFault, Machine, Power, Timings
from gpuheal_lab.fleet.nodeagent import NodeAgent
from gpuheal_lab.fleet.objects import Json, canonical, essence, node_object, put_condition, set_or_drop
from gpuheal_lab.fleet.provider import SimulatedControls, SimulatedMachines
from gpuheal_lab.fleet.spec import NodeSpec, successor
from gpuheal_lab.fleet.store import SimulatedHistories, SimulatedRemediations
from gpuheal_lab.fleet.workload import Evicted, Workloads
from gpuheal_responder.core.node import Condition, Node, Pod
from gpuheal_responder.core.undo import UNDO_ANNOTATION, Marks, dump
from gpuheal_responder.core.world import NodeLock
from gpuheal_responder.errors import GpuhealError, Permanent, Transient
from gpuheal_responder.ports import Eviction, EvictionResult, Note
from gpuheal_responder.shell.kube.read import read_node, read_pod, write_taint

HOLDER = "gpuheal"


class SimulatedCluster:
    """The port Cluster; `protect` says of pods (`namespace/name`) why they may not move, `holds` their GPUs' UUIDs.

    Objects are read by the same functions as those of a real API server.
    """

    def __init__(self, api: ApiServer, workloads: Workloads, gate: Gate, *, holder: str = HOLDER) -> None:
        self._api = api
        self._workloads = workloads
        self._gate = gate
        self._holder = holder
        self._views: dict[str, Node] = {}
        self._frozen: dict[str, Node] | None = None
        self.protect: dict[str, str] = {}
        self.holds: dict[str, tuple[str, ...]] = {}
        self.locks: dict[str, NodeLock] = {}

    async def nodes(self) -> Mapping[str, Node]:
        """All GPU nodes by name, from the cache."""
        return await self._gate.cross("nodes", "", lambda: self._frozen if self._frozen is not None else self._all())

    async def node(self, name: str) -> Node | None:
        """One node from the API server, or None."""
        return await self._gate.cross("node", name, lambda: self._view(name))

    async def pods_on(self, node: str) -> tuple[Pod, ...]:
        """The pods bound to the node."""
        return await self._gate.cross("pods_on", node, lambda: tuple(map(self._pod, self._api.pods_on(node))))

    async def mark(self, node: Node, marks: Marks) -> Node:
        """The node with taints, cordon and undo record as `marks` says, written at once at its version."""

        def change(raw: Json) -> None:
            set_or_drop(raw["spec"], "taints", [write_taint(t) for t in marks.taints])
            if marks.unschedulable is not None:
                set_or_drop(raw["spec"], "unschedulable", marks.unschedulable)
            annotations = dict(raw["metadata"].get("annotations", {}))
            annotations.pop(UNDO_ANNOTATION, None)
            if marks.undo is not None:
                annotations[UNDO_ANNOTATION] = dump(marks.undo)
            set_or_drop(raw["metadata"], "annotations", annotations)
            raw["metadata"].setdefault("labels", {}).update(marks.labels)

        detail = "release" if marks.undo is None else "contain"
        return await self._gate.cross("mark", node.name, lambda: self._change(node, change), detail=detail)

    async def set_conditions(self, node: Node, put: Sequence[Condition], remove: Sequence[str]) -> None:
        """Our conditions are written and removed; all others stay."""

        def change(raw: Json) -> None:
            conditions = raw["status"]["conditions"]
            raw["status"]["conditions"] = [c for c in conditions if c["type"] not in remove]
            at = self._api.schedule.now()
            for c in put:
                put_condition(raw, kind=c.type, status=c.status, reason=c.reason, message=c.message, at=at)

        await self._gate.cross("set_conditions", node.name, lambda: self._change(node, change, versioned=False))

    async def evict(self, pod: Pod) -> Eviction:
        """What the Eviction API made of it."""

        def effect() -> Eviction:
            answer = self._workloads.evict(pod.namespace, pod.name, pod.uid)
            match answer.status:
                case Evicted.CREATED:
                    return Eviction(result=EvictionResult.ACCEPTED)
                case Evicted.BLOCKED | Evicted.TWO_BUDGETS:
                    return Eviction(result=EvictionResult.BLOCKED, blocker=answer.cause)
                case Evicted.NOT_FOUND | Evicted.OTHER_UID:
                    return Eviction(result=EvictionResult.GONE)

        return await self._gate.cross("evict", pod.ref, effect, detail=pod.uid)

    async def publish(self, note: Note) -> bool:
        """The Event is recorded or counted; False when it could not be."""

        def effect() -> None:
            self._api.record(
                node=note.node, reason=note.reason, message=note.message, warning=note.warning, source=self._holder
            )

        try:
            await self._gate.cross("publish", note.node, effect, detail=note.reason)
        except GpuhealError:
            return False
        return True

    async def lock_of(self, node: str) -> NodeLock | None:
        """Somebody else's unexpired Lease on the node, or None."""
        return await self._gate.cross("lock_of", node, lambda: self._foreign(node))

    async def lock(self, node: Node, span: timedelta) -> None:
        """The node's Lease is ours for `span` from now."""

        def effect() -> None:
            foreign = self._foreign(node.name)
            if foreign is not None:
                raise Transient("node-locked", f"{foreign.holder} holds the Lease of {node.name}")
            self.locks[node.name] = NodeLock(holder=self._holder, expires_at=self._api.schedule.now() + span)

        await self._gate.cross("lock", node.name, effect)

    async def unlock(self, node: str) -> None:
        """The Lease is free if it was ours."""

        def effect() -> None:
            if node in self.locks and self.locks[node].holder == self._holder:
                del self.locks[node]

        await self._gate.cross("unlock", node, effect)

    def freeze_cache(self) -> None:
        """`nodes` keeps telling what is so now and what its own writes made of it, as a watch that hangs.

        `node` still reads the truth.
        """
        self._api.schedule.catch_up()
        self._frozen = dict(self._all())

    def thaw_cache(self) -> None:
        """`nodes` tells the truth again."""
        self._frozen = None

    def _foreign(self, node: str) -> NodeLock | None:
        lock = self.locks.get(node)
        if lock is None or lock.holder == self._holder or lock.expires_at <= self._api.schedule.now():
            return None
        return lock

    def _all(self) -> Mapping[str, Node]:
        return {name: view for name in self._api.nodes if (view := self._view(name)) is not None}

    def _view(self, name: str) -> Node | None:
        raw = self._api.nodes.get(name)
        if raw is None:
            self._views.pop(name, None)
            return None
        view = self._views.get(name)
        if view is None or view.resource_version != raw["metadata"]["resourceVersion"]:
            view = self._views[name] = read_node(raw, view, self._api.schedule.now())
        return view

    def _pod(self, raw: Json) -> Pod:
        ref = f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        pod = read_pod(raw)
        return replace(pod, protected=self.protect.get(ref, pod.protected), holds=self.holds.get(ref, pod.holds))

    def _change(self, node: Node, change: Callable[[Json], None], *, versioned: bool = True) -> Node:
        version = node.resource_version if versioned else None
        try:
            raw = self._api.change_node(node.name, change, uid=node.uid, version=version)
        except (Conflict, Missing) as problem:
            _refuse(problem)
        changed = read_node(raw, self._views.get(node.name), self._api.schedule.now())
        if versioned and self._frozen is not None:
            self._frozen[node.name] = changed
        return changed


class Simulation:
    """One simulated fleet with its cluster; `advance` moves its time when it has a clock of its own."""

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        *,
        clock: Clock | None = None,
        timings: Timings | None = None,
        seed: int = 0,
        padding_bytes: int = 0,
    ) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.clock = clock or ManualClock()
        self.schedule = Schedule(self.clock)
        self.timings = timings or Timings()
        self.api = ApiServer(self.schedule, seed=seed)
        self.gate = Gate(self.schedule)
        self.fleet = {spec.name: Machine(spec, self.schedule, self.timings) for spec in specs}
        for machine in self.fleet.values():
            self._join(machine, padding_bytes)
        self.agent = NodeAgent(self.api, self.fleet, self.schedule, self.timings)
        self.workloads = Workloads(self.api, self.fleet, self.schedule, self.timings)
        self.cluster = SimulatedCluster(self.api, self.workloads, self.gate)
        self.remediations = SimulatedRemediations(self.api, self.gate)
        self.histories = SimulatedHistories(gate=self.gate)
        self.machines = SimulatedMachines(machines=self.fleet, gate=self.gate)
        self.controls = SimulatedControls(gate=self.gate)

    def now(self) -> datetime:
        """The simulation's time."""
        return self.clock.now()

    def advance(self, span: timedelta) -> None:
        """The time is `span` later and all that was due has happened; raises TypeError with the wall's clock."""
        if not isinstance(self.clock, ManualClock):
            raise TypeError("only a ManualClock can be moved")
        self.clock.move(span)
        self.schedule.catch_up()

    def settle(self, limit: timedelta = timedelta(minutes=10)) -> None:
        """Everything that was under way has happened, at most `limit` ahead."""
        end = self.clock.now() + limit
        while (at := self.schedule.next_at()) is not None and at <= end:
            self.advance(max(timedelta(0), at - self.clock.now()))

    def raw(self, name: str) -> Json:
        """A copy of the raw Node; raises KeyError if there is none."""
        self.schedule.catch_up()
        return copy.deepcopy(self.api.nodes[name])

    def snapshot(self, name: str) -> bytes:
        """The bytes that have to be the same after a case as before it."""
        return canonical(essence(self.raw(name)))

    def edit(self, name: str, change: Callable[[Json], None]) -> None:
        """A person or another tool changed the raw Node: `change(raw)` in place."""
        self.schedule.catch_up()
        self.api.change_node(name, change)
        self.schedule.catch_up()

    def break_gpu(self, node: str, gpu: int | str, fault: GpuFault) -> None:
        """The GPU has the fault."""
        self.schedule.catch_up()
        machine = self.fleet[node]
        machine.break_gpu(machine.spec.gpu(str(gpu)), fault)
        self.schedule.catch_up()

    def running(self, node: str) -> bool:
        """Whether the machine is up."""
        self.schedule.catch_up()
        return self.fleet[node].power is not Power.DOWN

    def rejoin(self, name: str) -> None:
        """The machine's kubelet has registered anew: another Node object has the name of the deleted one."""
        self.schedule.catch_up()
        self._join(self.fleet[name], 0)
        self.schedule.catch_up()

    def swap(self, name: str) -> None:
        """The machine is gone, and a new one, with other GPUs and no past, has joined under the same name."""
        self.schedule.catch_up()
        old = self.fleet[name]
        watchers, old.watchers = old.watchers, []
        self.api.delete_node(name)
        spec = successor(old.spec)
        self.fleet[name] = Machine(spec, self.schedule, self.timings)
        self.fleet[name].booted_at = self.schedule.now()
        self.fleet[name].watchers = watchers
        self.specs[name] = spec
        self._join(self.fleet[name], 0)
        self.schedule.catch_up()

    def _join(self, machine: Machine, padding_bytes: int) -> None:
        made = node_object(
            machine.spec,
            uid=self.api.new_uid(),
            boot_id=machine.boot_id,
            at=machine.booted_at,
            padding_bytes=padding_bytes,
        )
        self.api.add_node(made)


def _refuse(problem: Conflict | Missing) -> NoReturn:
    if isinstance(problem, Conflict):
        raise Transient("conflict", str(problem)) from problem
    raise Permanent("not-found", str(problem)) from problem
