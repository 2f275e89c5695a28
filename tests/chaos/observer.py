"""The observer: it watches machines, the API server and the provider, and knows nothing of what the responder recorded.

It keeps who wrote what to which node, which machine is sick since when, who stopped what, and what the responder did.
The rules of `judge` are asked at every call of the responder, those of `ending` when everything works again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from tests.chaos.faults import BY_XID, XID, evaluated
from tests.chaos.judge import Judge

from gpuheal_lab.fleet.injection import Call
from gpuheal_lab.fleet.machine import KernelLine, Machine, Watcher
from gpuheal_lab.fleet.objects import Json, has_taint, is_ready

if TYPE_CHECKING:
    from tests.chaos.world import World

TAINT = "gpu.health/unhealthy"
UNDO = "gpu.health/undo"
HOLD = "gpu.health/hold"
ENGINE = "responder"
NATURE = "nature"
ON_THE_NODE = ("held", "opted-out")
"""What people write on a Node goes with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A broken promise: which, when, on which node, and what was seen."""

    rule: str
    at: datetime
    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S} {self.rule} {self.node}: {self.text}"


@dataclass(slots=True, kw_only=True)
class Stop:
    """Something that forbids acting on a node (or, with an empty node, on all), in force since `number`."""

    kind: str
    node: str
    number: int
    at: datetime


@dataclass(slots=True, kw_only=True)
class Illness:
    """One fault of one GPU as the metal has it; `news` is when it last happened anew."""

    began: datetime
    news: datetime
    number: int
    shown: int | None = None
    """When a port first told it to the responder."""
    ended: datetime | None = None


@dataclass(slots=True, kw_only=True)
class Act:
    """Something that a person or another controller did to a node."""

    kind: str
    by: str
    number: int
    at: datetime
    looked_at: datetime
    """When the responder had last looked; what happened between that and the act is news to it."""
    looked_by: str = ""
    """Which process had; another one does not know when that was."""


@dataclass(slots=True)
class Told:
    """What the observer knows of one Node object and the machine behind it."""

    uid: str = ""
    machine: str = ""
    joined: datetime | None = None
    contained: datetime | None = None
    contained_number: int = 0
    cordon_by: str = ""
    cordon_number: int = 0
    acts: list[Act] = field(default_factory=list)
    takeback: Act | None = None
    """When a person last took the node back while it carried marks of the responder."""
    uncordoned: int = 0
    """When a person last uncordoned the node after a boot: nobody can tell whether that takes it back."""
    damaged: bool = False
    """Whether somebody has spoilt the undo record; nobody can tell then what is ours."""
    published: int = 0
    """When the responder last said something about the node in an Event."""
    disrupted: int | None = None
    """Since when the responder empties or reboots the node and has not given it back."""
    evicting: bool = False
    gangs: set[str] = field(default_factory=set)
    ready_number: int = 0


class Observer(Watcher):
    """Keeps the fleet truth of one world and collects violations, each rule once for each node."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.number = 0
        self.author = NATURE
        self.nodes: dict[str, Told] = {}
        self.raw: dict[str, Json] = {}
        self.stops: dict[tuple[str, str], Stop] = {}
        self.ill: dict[tuple[str, str, str], Illness] = {}
        """By machine, GPU and fault; ended ones stay until the machine boots."""
        self.looks: dict[str, int] = {}
        self.looked_at: datetime | None = None
        self.looked_by = ""
        self.slowed: dict[str, tuple[int, datetime]] = {}
        """By replica that hangs, or a call of which does: its look before, and until when a step may rest on that."""
        self.marks: list[tuple[datetime, str, str]] = []
        """When the responder contained which Node object."""
        self.boots: list[tuple[datetime, str, str]] = []
        """When the responder had which machine rebooted, under which operation."""
        self.operations: dict[str, str] = {}
        self.asked: dict[str, str] = {}
        """The boot that a reboot under each operation was asked for in."""
        self.found: list[Violation] = []
        self.judge = Judge(self)

    def attach(self) -> None:
        """Begin to watch."""
        sim = self.world.sim
        for name, raw in sim.api.nodes.items():
            self._joined(name, raw)
        for machine in sim.fleet.values():
            machine.watchers.append(self)
        sim.api.on_node.append(self._node_changed)
        sim.gate.on_call.append(self._called)

    def tick(self) -> int:
        """Return the next number of the one order that everything that happens has."""
        self.number += 1
        return self.number

    def broken(self, rule: str, node: str, text: str) -> None:
        """Record a violation, once for each rule and node."""
        if not any(v.rule == rule and v.node == node for v in self.found):
            self.found.append(Violation(rule=rule, at=self.world.truth_now(), node=node, text=text))

    def look(self, actor: str) -> None:
        """Record that a replica begins to look now; one that does not lead sees nothing."""
        self.looks[actor] = self.tick()
        if actor == self.world.leader:
            self.looked_at, self.looked_by = self.world.truth_now(), actor

    def shown(self, nodes: Collection[str], *, evidence: bool) -> None:
        """Record that a port has just told the responder about these nodes."""
        number = self.tick()
        for (machine, _gpu, _slug), illness in self.ill.items():
            node = self.world.node_of(machine)
            known = illness.began <= evaluated(self.world.truth_now()) and node in nodes
            if illness.shown is None and known and (not evidence or self.world.prometheus.sees(node)):
                illness.shown = number

    # What people and controllers do

    def did(self, kind: str, node: str, by: str) -> Act:
        """Record an act of a person or another controller on a node."""
        now = self.world.truth_now()
        looked_at = self.looked_at or now
        act = Act(kind=kind, by=by, number=self.tick(), at=now, looked_at=looked_at, looked_by=self.looked_by)
        self.told(node).acts.append(act)
        return act

    def stop(self, kind: str, node: str, on: bool) -> None:
        """Record that acting on the node (on all for an empty name) is forbidden from now on, or no more."""
        if not on:
            self.stops.pop((kind, node), None)
        elif (kind, node) not in self.stops:
            self.stops[(kind, node)] = Stop(kind=kind, node=node, number=self.tick(), at=self.world.truth_now())

    def told(self, node: str) -> Told:
        """Return what is known of the node."""
        return self.nodes.setdefault(node, Told())

    # What happens to machines

    def gpus_changed(self, machine: Machine, /) -> None:
        """Follow which GPU has which fault."""
        now, current = self.world.truth_now(), set()
        uid = machine.spec.system_uuid
        for gpu in machine.spec.gpus:
            for slug, fault in machine.states[gpu.uuid].faults.items():
                if not fault.unhealthy:
                    continue
                key = (uid, gpu.uuid, slug)
                current.add(key)
                known = self.ill.get(key)
                if known is None or known.ended is not None:
                    self.ill[key] = Illness(began=now, news=now, number=self.tick())
        for key, illness in self.ill.items():
            if key[0] == uid and key not in current and illness.ended is None:
                illness.ended = now

    def line(self, machine: Machine, line: KernelLine, /) -> None:
        """Note that a fault which goes on has happened anew."""
        match = XID.search(line.text)
        kind = BY_XID.get(int(match["xid"])) if match else None
        if match is not None and kind is not None:
            illness = self.ill.get((machine.spec.system_uuid, machine.spec.gpu(match["pci"]).uuid, kind.slug))
            if illness is not None:
                illness.news = line.at

    def came_up(self, machine: Machine, /) -> None:
        """Forget what had ended before this boot; what goes on was seen anew by its kernel."""
        uid, now = machine.spec.system_uuid, self.world.truth_now()
        for key in [k for k, i in self.ill.items() if k[0] == uid and i.ended is not None]:
            del self.ill[key]
        for key, illness in self.ill.items():
            if key[0] == uid:
                illness.news = now

    def sick(self, node: str) -> list[Illness]:
        """Return the faults that the node's machine has at this moment."""
        uid = self.world.machine_of(node)
        return [i for k, i in self.ill.items() if k[0] == uid and i.ended is None]

    def sick_gpus(self, node: str) -> set[tuple[str, str]]:
        """Return the faults that the node's machine has at this moment, as pairs of the GPU and the fault."""
        uid = self.world.machine_of(node)
        return {(k[1], k[2]) for k, i in self.ill.items() if k[0] == uid and i.ended is None}

    def was_sick(self, node: str) -> bool:
        """Return whether the node's machine has, or has had since it booted, any fault."""
        uid = self.world.machine_of(node)
        return any(k[0] == uid for k in self.ill)

    # What is written

    def _joined(self, name: str, raw: Json) -> None:
        self.raw[name] = raw
        known = self.nodes.get(name)
        fresh = Told(
            uid=raw["metadata"]["uid"],
            machine=raw["status"]["nodeInfo"]["systemUUID"],
            joined=self.world.truth_now() if known else None,
        )
        self.nodes[name] = fresh
        for kind in ON_THE_NODE:
            self.stops.pop((kind, name), None)

    def _node_changed(self, name: str) -> None:
        old, new = self.raw.get(name), self.world.sim.api.nodes.get(name)
        number = self.tick()
        if new is None:
            self.raw.pop(name, None)
            self.nodes[name] = Told()
            return
        if old is None or old["metadata"]["uid"] != new["metadata"]["uid"]:
            self._joined(name, new)
            return
        self.raw[name] = new
        told, call = self.told(name), self.world.sim.gate.current
        if is_ready(old) != is_ready(new):
            told.ready_number = number
        by = ENGINE if call is not None else self.author
        self._cordons(told, old, new, by, number)
        if call is not None:
            self._written(name, told, old, new, call)
        if ours(old) and not ours(new):
            told.contained = told.disrupted = None
            told.evicting = False
            told.gangs = set()
        if not new["spec"].get("unschedulable"):
            told.cordon_by = ""

    @staticmethod
    def _cordons(told: Told, old: Json, new: Json, by: str, number: int) -> None:
        before, after = bool(old["spec"].get("unschedulable")), bool(new["spec"].get("unschedulable"))
        if after and not before:
            told.cordon_by, told.cordon_number = by, number

    def _written(self, name: str, told: Told, old: Json, new: Json, call: Call) -> None:
        self.judge.written(name, old, new, call)
        if ours(new) and not ours(old):
            self.judge.contained(name, call)
            told.contained, told.contained_number = self.world.truth_now(), self.tick()
            self.marks.append((self.world.truth_now(), name, told.uid))
        if ours(old) and not ours(new):
            self.judge.released(name, call)

    def _called(self, call: Call) -> None:
        self.judge.called(call)
        match call.method:
            case "evict":
                pod = self.world.pod_of(call)
                if pod is not None:
                    self._evicting(pod, call)
            case "reboot":
                self._begin(call.target, call)
                self.judge.rebooted(call)
            case "publish":
                told = self.told(call.target)
                told.published = self.tick()

    def _evicting(self, pod: Json, call: Call) -> None:
        """An eviction that a budget refuses is the beginning of a drain as well."""
        node = pod["spec"]["nodeName"]
        self._begin(node, call)
        if "deletionTimestamp" in pod["metadata"]:
            self.judge.evicted(node, pod, call)
        self.told(node).evicting = True

    def _begin(self, node: str, call: Call) -> None:
        told = self.told(node)
        if told.disrupted is None:
            self.judge.begun(node, call)
            told.disrupted = self.tick()
            told.gangs = self.world.gangs_on(node)


def ours(raw: Mapping[str, object]) -> bool:
    """Return whether a raw Node carries a mark of the responder: its taint or its undo record."""
    return has_taint(raw, TAINT) or UNDO in raw["metadata"].get("annotations", {})  # type: ignore[arg-type, index]
