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
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NoReturn

from gpuheal_lab.fleet.apiserver import ApiServer, Conflict, Missing
from gpuheal_lab.fleet.clock import Clock, ManualClock, Schedule
from gpuheal_lab.fleet.injection import Gate
from gpuheal_lab.fleet.machine import GpuFault, Machine, Power, Timings
from gpuheal_lab.fleet.nodeagent import NodeAgent
from gpuheal_lab.fleet.objects import Json, canonical, essence, node_object, put_condition, set_or_drop
from gpuheal_lab.fleet.spec import NodeSpec, successor
from gpuheal_lab.fleet.workload import Evicted, Workloads
from gpuheal_responder.core.case import Approval, Case
from gpuheal_responder.core.history import History
from gpuheal_responder.core.node import Condition, Node, Pod
from gpuheal_responder.core.undo import UNDO_ANNOTATION, Marks, dump
from gpuheal_responder.core.world import Controls, NodeLock, OperationState
from gpuheal_responder.errors import GpuhealError, Permanent, Transient
from gpuheal_responder.ports import Eviction, EvictionResult, Note, Stored, Unreadable
from gpuheal_responder.shell import record
from gpuheal_responder.shell.kube.read import read_node, read_pod, write_taint

HOLDER = "gpuheal"


class SimulatedCluster:
    """The port Cluster; `protect` says of pods (`namespace/name`) why they must not be moved.

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
            view = self._views[name] = read_node(raw)
        return view

    def _pod(self, raw: Json) -> Pod:
        ref = f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        pod = read_pod(raw)
        return replace(pod, protected=self.protect.get(ref, pod.protected))

    def _change(self, node: Node, change: Callable[[Json], None], *, versioned: bool = True) -> Node:
        version = node.resource_version if versioned else None
        try:
            changed = read_node(self._api.change_node(node.name, change, uid=node.uid, version=version))
        except (Conflict, Missing) as problem:
            _refuse(problem)
        if versioned and self._frozen is not None:
            self._frozen[node.name] = changed
        return changed


class SimulatedRemediations:
    """The port Remediations: cases kept as the plain data that a Remediation object would hold.

    `broken` makes objects unreadable, and `unread` parts of them, as those of another version would be.
    """

    def __init__(self, api: ApiServer, gate: Gate) -> None:
        self._api = api
        self._gate = gate
        self.stored: dict[str, tuple[str, bytes]] = {}
        self.decisions: dict[str, list[Mapping[str, object]]] = {}
        self.broken: dict[str, Unreadable] = {}
        self.unread: dict[str, tuple[str, ...]] = {}
        self._raw: dict[str, Json] = {}
        self._frozen: dict[str, Stored] | None = None

    async def list(self) -> Sequence[Stored]:
        """All cases."""
        return await self._gate.cross("list", "", self._listed)

    def freeze_cache(self) -> None:
        """`list` keeps telling what is stored now and what its own writes made of it, as a watch that hangs."""
        self._frozen = {name: self._load(name) for name in self.stored}

    def thaw_cache(self) -> None:
        """`list` tells the truth again."""
        self._frozen = None

    def _listed(self) -> Sequence[Stored]:
        told = {name: self._load(name) for name in self.stored} if self._frozen is None else self._frozen
        return [stored for name, stored in told.items() if name not in self.broken]

    async def unreadable(self) -> Sequence[Unreadable]:
        """What is no case to this version."""
        return tuple(self.broken.values())

    def cases(self) -> Sequence[Case]:
        """All cases as they stand in the store, by name."""
        return [self._load(name).case for name in sorted(self.stored)]

    async def create(self, case: Case, decision: Mapping[str, object]) -> Stored:
        """The new case as stored."""

        def effect() -> Stored:
            if case.name in self.stored:
                raise Transient("conflict", f'remediations.gpu.health "{case.name}" already exists')
            self.decisions.setdefault(case.name, []).append(copy.deepcopy(dict(decision)))
            return self._put(replace(case, approvals=()))

        return await self._gate.cross("create", case.name, effect)

    async def save(self, stored: Stored, decision: Mapping[str, object] | None) -> Stored:
        """The case as stored, in place of the version named; its approvals stay."""

        def effect() -> Stored:
            name = stored.case.name
            before = self._at(stored)
            if decision is not None:
                self.decisions.setdefault(name, []).append(copy.deepcopy(dict(decision)))
            return self._put(replace(stored.case, approvals=before.approvals))

        return await self._gate.cross("save", stored.case.name, effect)

    async def approve(self, stored: Stored, approvals: Sequence[Approval], token: str = "") -> Stored:
        """The case with these approvals, in place of the version named; all else stays."""
        del token

        def effect() -> Stored:
            return self._put(replace(self._at(stored), approvals=tuple(approvals)))

        return await self._gate.cross("approve", stored.case.name, effect)

    async def delete(self, name: str) -> None:
        """The case is gone."""

        def effect() -> None:
            self.stored.pop(name, None)
            self._raw.pop(name, None)
            if self._frozen is not None:
                self._frozen.pop(name, None)

        await self._gate.cross("delete", name, effect)

    def _at(self, stored: Stored) -> Case:
        """The case as it stands, if its version is the one named."""
        name = stored.case.name
        if name not in self.stored:
            raise Permanent("not-found", f'remediations.gpu.health "{name}" not found')
        if self.stored[name][0] != stored.version:
            raise Transient("conflict", f'remediations.gpu.health "{name}" has been modified')
        return self._load(name).case

    def _put(self, case: Case) -> Stored:
        data = record.dump_case(case)
        version = self._api.next_version()
        self.stored[case.name] = (version, canonical(data))
        self._raw[case.name] = data
        stored = self._load(case.name)
        if self._frozen is not None:
            self._frozen[case.name] = stored
        return stored

    def _load(self, name: str) -> Stored:
        case, version = record.load_case(self._raw[name]), self.stored[name][0]
        return Stored(case=case, version=version, unread=self.unread.get(name, ()))


@dataclass(slots=True)
class SimulatedHistories:
    """The port Histories: what was saved, as plain data."""

    gate: Gate
    kept: dict[str, Json] = field(default_factory=dict)

    async def all(self) -> Mapping[str, History]:
        """Every machine's history."""

        def effect() -> Mapping[str, History]:
            return {machine: record.load_history(data) for machine, data in self.kept.items()}

        return await self.gate.cross("histories", "", effect)

    async def save(self, history: History) -> None:
        """The machine's history is this one."""

        def effect() -> None:
            self.kept[history.machine] = record.dump_history(history)

        await self.gate.cross("remember", history.machine, effect)


@dataclass(slots=True)
class SimulatedMachines:
    """The port Machines: reboots the simulated metal. The flags make the provider behave badly."""

    machines: Mapping[str, Machine]
    gate: Gate
    operations: dict[str, OperationState] = field(default_factory=dict)
    reboots: list[tuple[str, str]] = field(default_factory=list)
    refuses: bool = False
    loses_calls: bool = False
    forgets: bool = False
    waits: bool = False
    """What is asked for happens only at `carry_out`, as with a Job whose pod has not started yet."""
    _waiting: dict[str, Machine] = field(default_factory=dict)

    async def reboot(self, node: Node, operation: str, provider: str) -> None:
        """The machine reboots, once per operation id."""

        def effect() -> None:
            if operation in self.operations:
                return
            if self.loses_calls:
                return
            if self.refuses:
                self.operations[operation] = OperationState.FAILED
                return
            machine = self.machines.get(node.name)
            if machine is None or machine.spec.system_uuid != node.system_uuid:
                raise Permanent("not-found", f"no machine {node.system_uuid} is called {node.name}")
            self.operations[operation] = OperationState.ACCEPTED
            self._waiting[operation] = machine
            if not self.waits:
                self.carry_out(operation)

        await self.gate.cross("reboot", node.name, effect, detail=f"{provider} {operation}")

    def carry_out(self, operation: str) -> bool:
        """The machine reboots now if the operation still stands; whether it does."""
        machine = self._waiting.pop(operation, None)
        if machine is not None:
            self.reboots.append((machine.spec.name, operation))
            machine.reboot()
        return machine is not None

    async def withdraw(self, node: Node | None, operation: str, provider: str) -> None:
        """What has not happened yet under this id never will; the id is as if it had never been asked for."""

        def effect() -> None:
            self._waiting.pop(operation, None)
            self.operations.pop(operation, None)

        where = node.name if node is not None else ""
        await self.gate.cross("withdraw", where, effect, detail=f"{provider} {operation}")

    async def lookup(self, node: Node | None, operation: str, provider: str) -> OperationState:
        """What became of the operation."""

        def effect() -> OperationState:
            if self.forgets:
                return OperationState.UNKNOWABLE
            return self.operations.get(operation, OperationState.NOT_FOUND)

        return await self.gate.cross("lookup", node.name if node is not None else "", effect, detail=provider)


@dataclass(slots=True)
class SimulatedControls:
    """The port ControlSource: what `current` says."""

    gate: Gate
    current: Controls = field(default_factory=Controls)

    async def controls(self) -> Controls:
        """The controls in force."""
        return await self.gate.cross("controls", "", lambda: self.current)


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
