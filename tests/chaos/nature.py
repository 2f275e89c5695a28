"""What nature, tools and other controllers do to the fleet and to the way between us and it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

from tests.chaos.faults import BUS, FAULTS
from tests.chaos.judge import LONG
from tests.chaos.observer import NATURE
from tests.chaos.sources import SOURCES, alert
from tests.chaos.world import World

from gpuheal_lab.fleet import injection
from gpuheal_lab.fleet.machine import Machine, Power, Watcher
from gpuheal_lab.fleet.objects import Json, Owner, put_condition
from gpuheal_responder.core.world import NodeLock
from gpuheal_responder.errors import GpuhealError

ERRORS: dict[str, Callable[[], GpuhealError]] = {
    "conflict": injection.conflict,
    "throttled": injection.throttled,
    "server-error": injection.server_error,
    "timeout": injection.timeout,
    "forbidden": injection.forbidden,
    "unseen": injection.unseen,
}
AUTOSCALER = "ToBeDeletedByClusterAutoscaler"
FOREVER = 10**9
MOMENT = 0.01
LONGEST_CALL = 60
"""Seconds. We wait 10 s for an answer (DEADLINE of shell.kube.api, over the whole exchange and without a retry). What
was sent by then the API server carries out or drops within its own timeout, 60 s by default.
"""
"""Seconds between an act and a fault: in the world nothing happens at the same instant."""


class DriverManager(Watcher):
    """The GPU operator's driver pod: after every boot it uncordons its node, whoever cordoned it."""

    def __init__(self, world: Nature) -> None:
        self._world = world

    def came_up(self, machine: Machine, /) -> None:
        """Uncordon when the driver is ready."""
        if self._world.operator:
            later = partial(self._world.change, machine.spec.name, _uncordon, "driver-manager")
            self._world.sim.schedule.after(timedelta(seconds=3), later)


class Nature(World):
    """Acts whose names are the words of schedules; each does nothing where it cannot happen."""

    def change(self, node: str, change: Callable[[Json], None], by: str) -> None:
        """Let somebody change the raw Node."""
        if node not in self.sim.api.nodes:
            return
        before, self.observer.author = self.observer.author, by
        try:
            self.sim.api.change_node(node, change)
        finally:
            self.observer.author = before
        if by != NATURE:
            self.observer.did("change", node, by)

    # Machines

    async def break_gpu(self, node: int, gpu: int, fault: str) -> None:
        """A GPU breaks, a moment after whatever came before."""
        await self.pass_time(MOMENT)
        name = self.named(node)
        if self.sim.fleet[name].power is Power.UP:
            self.sim.break_gpu(name, gpu, FAULTS[fault])

    async def cure(self, node: int) -> None:
        """The faults of a node that a reset can end do so without a reboot, and their latches are cleared."""
        name = self.named(node)
        machine = self.sim.fleet[name]
        machine.cure("reboot")
        for key in [k for k in self.signs.found if k[0] == name and k[2] not in machine.states[k[1]].faults]:
            del self.signs.found[key]
        self.signs.note_all()

    async def reboot(self, node: int) -> None:
        """Somebody else reboots a node: kured, a person, the BMC."""
        self.sim.fleet[self.named(node)].reboot()

    async def cut_power(self, node: int) -> None:
        """A machine loses its power."""
        self.sim.fleet[self.named(node)].cut_power()

    async def switch_on(self, node: int) -> None:
        """A machine gets its power back."""
        self.sim.fleet[self.named(node)].switch_on()

    async def hang_at_boot(self, node: int, on: bool) -> None:
        """A machine does not come up again after its next reboot."""
        self.sim.fleet[self.named(node)].hang_at_boot = on

    async def swap(self, node: int) -> None:
        """Another machine comes under the node's name."""
        name = self.named(node)
        self.sim.fleet[name].watchers = [w for w in self.sim.fleet[name].watchers if w is not self]
        self.sim.swap(name)
        self.signs.forget(name)
        self.signs.note_all()

    async def delete_node(self, node: int) -> None:
        """Somebody deletes the Node object."""
        if self.named(node) in self.sim.api.nodes:
            self.sim.api.delete_node(self.named(node))

    async def rejoin(self, node: int) -> None:
        """The machine of a deleted Node registers again."""
        if self.named(node) not in self.sim.api.nodes:
            self.sim.rejoin(self.named(node))

    # Sources

    async def set_prometheus(self, state: str) -> None:
        """Prometheus is ok, away, blind or frozen from now on."""
        self.prometheus.turn(state)

    async def restart_prometheus(self) -> None:
        """Prometheus restarts: every alert begins anew."""
        self.prometheus.restarted_at = self.truth_now()

    async def set_peer(self, peer: int, state: str) -> None:
        """An Alertmanager peer is ok, away, empty, settling or frozen from now on."""
        self.alertmanager.turn(f"am-{peer}", state)

    async def darken(self, node: int, on: bool) -> None:
        """The exporters of a node are away, or back."""
        (self.signs.dark.add if on else self.signs.dark.discard)(self.named(node))
        self.signs.note_all()

    async def identities(self, sources: int) -> None:
        """So many of the two sources say which GPU sits in which node."""
        self.prometheus.sources = SOURCES[:sources]
        self.observer.stop("unproven", "", sources < len(SOURCES))

    async def witnesses(self, classes: int) -> None:
        """So many classes of witnesses see each fault; one of them, the kernel's, does not confirm it."""
        self.prometheus.classes = classes
        self.observer.stop("unconfirmed", "", classes < len(SOURCES))

    async def delay_alerts(self, seconds: int) -> None:
        """Alerts come so much later than the evidence."""
        self.alertmanager.delay = timedelta(seconds=seconds)

    async def forge(self, node: int, how: str) -> None:
        """Somebody posts an alert that is not true: plain, of another cluster, of an unknown node, or junk."""
        name, now = self.named(node), self.truth_now()
        gpu = self.sim.fleet[name].spec.gpus[0].uuid
        more = {"foreign": {"cluster": "staging"}, "nobody": {"node": "no-such-node"}, "junk": {"gpu_uuid": "G" * 5000}}
        made = alert(BUS, name, gpu, now, now)
        made = replace(made, labels={**made.labels, **more.get(how, {})})
        self.alertmanager.extra[f"{how}-{name}"] = made

    async def unforge(self) -> None:
        """Forged alerts end."""
        self.alertmanager.extra.clear()

    async def set_watchdog(self, whose: str) -> None:
        """The dead man's alert is ours, foreign or none."""
        self.alertmanager.watchdog = whose

    async def freeze(self, on: bool) -> None:
        """The alert pipeline is distrusted, or trusted again."""
        self.cap(frozen="watchdog-silent: played" if on else "")
        self.observer.stop("frozen", "", on)

    # The API server and the provider

    async def fail(self, method: str, error: str, times: int, applied: bool = False) -> None:
        """The next calls of a method fail; with `applied`, after they took effect."""
        self.sim.gate.fail_next(method, ERRORS[error](), times=times, applied=applied)

    async def forbid(self, method: str) -> None:
        """A right is taken from the responder for good."""
        self.sim.gate.fail_next(method, injection.forbidden(), times=FOREVER)

    async def provider(self, trouble: str) -> None:
        """Providers refuse, lose calls, forget or wait; with an empty text they are well, and what waits happens."""
        machines = self.sim.machines
        machines.refuses, machines.loses_calls = trouble == "refuses", trouble == "loses"
        machines.forgets, machines.waits = trouble == "forgets", trouble == "waits"
        for call in machines.gate.made("reboot") if not trouble else ():
            machines.carry_out(call.detail.split()[-1])

    async def default_provider(self, name: str) -> None:
        """The site's settings name another provider where policies name none."""
        self.sim.machines.default = name

    async def lag(self, what: str) -> None:
        """The watch of nodes or cases hangs, or with an empty text both are current again."""
        self.lagging = bool(what)
        match what:
            case "nodes":
                self.sim.cluster.freeze_cache()
            case "cases":
                self.sim.remediations.freeze_cache()
            case _:
                self.sim.cluster.thaw_cache()
                self.sim.remediations.thaw_cache()

    # Processes

    async def kill(self, crossing: int) -> None:
        """The responder dies at this crossing of its coming calls."""
        self.sim.gate.kill_at(crossing)

    async def crash(self) -> None:
        """The leading process dies between two looks."""
        leader = self.leading()
        if leader is not None:
            self.end_process(leader)

    async def slow(self, crossing: int, seconds: int) -> None:
        """One call of the leader takes so long; the process goes on, as far as it does not wait for it."""
        leader = self.leading()
        await self.stall(crossing, min(seconds, LONGEST_CALL), lose=False)
        if leader is not None and leader.stall is not None:
            leader.slow = True

    async def stall(self, crossing: int, seconds: int, lose: bool) -> None:
        """The leader's process hangs in a call for so long; with `lose` another replica leads meanwhile."""
        leader = self.leading()
        if leader is None or leader.stall is not None or any(r.stall for r in self.replicas):
            return
        self.hang(crossing)
        await self.pass_time(1)
        if leader in self.replicas:
            await self._round(leader)
        self._pending = None
        if leader.stall is None:
            self.sim.gate.clear_stall()
            return
        leader.release_at = self.truth_now() + timedelta(seconds=seconds)
        self.observer.slowed[leader.name] = (self.observer.looks[leader.name], leader.release_at + LONG)
        if lose:
            other = next((r for r in self.replicas if r is not leader), None)
            self.leader = other.name if other is not None else ""
            self.takeover_at = self.truth_now()

    async def change_leader(self) -> None:
        """Another replica, or with one replica nobody for a while, holds the Lease from now on."""
        other = next((r for r in self.replicas if r.name != self.leader and r.stall is None), None)
        self.leader = other.name if other is not None else ""
        self.takeover_at = self.truth_now() + timedelta(seconds=15)
        await asyncio.sleep(0)

    async def skew(self, replica: str, seconds: int) -> None:
        """The clock of a replica's machine is wrong by so much; more than 5 s freezes the pipeline."""
        self.clock.skew[replica] = timedelta(seconds=seconds)
        if abs(seconds) > 5:
            await self.freeze(True)

    # Workloads and other controllers

    async def deploy(self, name: str, nodes: list[int], minimum: int) -> None:
        """A Deployment runs on these nodes under a disruption budget."""
        where = tuple(n for i in nodes if (n := self.named(i)) in self.sim.api.nodes)
        if where:
            self.sim.workloads.deployment(name, replicas=len(where), nodes=where, gpus=0, min_available=minimum)

    async def relax(self, name: str) -> None:
        """A disruption budget lets everything go."""
        self.sim.workloads.budget(name, selector={"app": name}, min_available=0)

    async def gang(self, name: str, nodes: list[int]) -> None:
        """A training job runs on these nodes."""
        where = tuple(n for i in nodes if (n := self.named(i)) in self.sim.api.nodes)
        if where:
            self.sim.workloads.gang(name, size=len(where), gpus=0, nodes=where)

    async def pod(self, name: str, node: int, protected: bool) -> None:
        """A pod tolerates everything and runs on the node; a protected one may not be moved."""
        where, ref = self.named(node), f"default/{name}"
        if where not in self.sim.api.nodes or ("default", name) in self.sim.api.pods:
            return
        self.sim.workloads.bare_pod(name, node=where, gpus=0)
        owner = Owner(kind="ReplicaSet", name=name)
        self.sim.api.change_pod(self.sim.api.pods[("default", name)], partial(_owned, owner))
        if protected:
            self.sim.cluster.protect[ref] = "annotation gpu.health/do-not-evict"
            self.protected[ref] = self.observer.tick()

    async def set_operator(self, on: bool) -> None:
        """The GPU operator's driver manager runs: it uncordons every node after its boot."""
        if on and not self.operator:
            manager = DriverManager(self)
            for machine in self.sim.fleet.values():
                if not any(isinstance(w, DriverManager) for w in machine.watchers):
                    machine.watchers.append(manager)
        self.operator = on

    async def autoscaler(self, node: int, on: bool) -> None:
        """The cluster autoscaler is about to delete the node, or is not."""
        name = self.named(node)
        taint = {"key": AUTOSCALER, "value": "1", "effect": "NoSchedule"}
        self.change(name, partial(_taint if on else _untaint, taint), "autoscaler")
        self.observer.stop("opted-out", name, on)

    async def foreign_lock(self, node: int, seconds: int) -> None:
        """Another remediator takes the node's Lease."""
        name = self.named(node)
        held = self.sim.cluster.locks.get(name)
        if held is not None and held.holder == "gpuheal" and held.expires_at > self.truth_now():
            return
        until = self.truth_now() + timedelta(seconds=seconds)
        self.sim.cluster.locks[name] = NodeLock(holder="other-remediator", expires_at=until)
        self.observer.stop("locked", name, True)
        self.sim.schedule.after(timedelta(seconds=seconds), partial(self.observer.stop, "locked", name, False))

    async def foreign_taint(self, node: int) -> None:
        """Somebody puts a taint of his own on the node."""
        taint = {"key": "example.com/maintenance", "value": "x", "effect": "NoSchedule"}
        self.change(self.named(node), partial(_taint, taint), "other-controller")

    async def foreign_condition(self, node: int) -> None:
        """Another agent publishes the same condition type, and says that the GPU is well."""
        put = partial(put_condition, kind="GPUHealthy", status="True", reason="Other", message="", at=self.truth_now())
        self.change(self.named(node), put, "other-agent")


def _uncordon(raw: Json) -> None:
    raw["spec"].pop("unschedulable", None)


def _taint(taint: Json, raw: Json) -> None:
    _untaint(taint, raw)
    raw["spec"].setdefault("taints", []).append(dict(taint))


def _untaint(taint: Json, raw: Json) -> None:
    kept = [t for t in raw["spec"].get("taints", ()) if t["key"] != taint["key"]]
    raw["spec"].pop("taints", None)
    if kept:
        raw["spec"]["taints"] = kept


def _owned(owner: Owner, pod: Json) -> None:
    reference = {"apiVersion": "apps/v1", "kind": owner.kind, "name": owner.name, "uid": "x", "controller": True}
    pod["metadata"]["ownerReferences"] = [reference]
