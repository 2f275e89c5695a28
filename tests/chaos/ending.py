"""The end of a schedule: everything works again, time passes, and what must have become of every node by then is asked.

A sick node is contained, or people took it back or are told. A node that carries marks of ours is on its way, or people
are told. A node without marks has nothing of ours left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta

from tests.chaos.observer import ENGINE, HOLD, TAINT, Illness, ours
from tests.chaos.people import People
from tests.chaos.world import EXHAUSTED, STATE, UNREADABLE

from gpuheal_lab.fleet.injection import READS
from gpuheal_lab.fleet.machine import Power
from gpuheal_lab.fleet.objects import Json, has_taint, is_ready
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.reason import Reason

TELLING: Mapping[str, str] = {
    "held": "GPUHealHeld",
    "escalated": "GPUHealEscalated",
    "pending": "GPUHealActionPending",
    "stale": "GPUHealStaleCase",
    "incident": "GPUHealIncident",
    "unreadable": "GPUHealUnreadableUndo",
}
"""States of a case that people are told of, and the alert of the generated rules that tells them."""
TELLING_DARK = "GPUHealExporterDown"
"""The alert about a node whose exporters are away: nobody can see faults there, and people know it."""
TELLING_BUDGET = "GPUHealCordonBudget"
GIVEN_UP = "escalated"
"""What could not be done for good has been given to people."""
QUIET = timedelta(hours=2)
"""Longer than every deadline, cooldown and window but the day of attempts, after which people are asked."""
LONGEST_PAUSE = 1800
FIRST_PAUSE = 5
LONGEST_LEASE = timedelta(minutes=30)
"""A Lease that a crash left behind runs out by itself before."""
MOST_ROUNDS = 150
MOST_TRIES = 60
"""A step that is refused for good is told long before so many tries."""
SAID_AGAIN = frozenset({"publish"})
"""What was not heard is said again with every look."""
MOST_ATTEMPTS = 64
"""Half of what the CRD takes: a case that comes near it has a loop."""
MOST_DECISION_BYTES = 64 * 1024
CONDITIONS = ("GPU", "NVLink")


class Ending(People):
    """How a schedule ends."""

    async def stand(self) -> None:
        """Nothing changes for a long time, whatever is broken; then what people must have been told is asked."""
        await self._settle()
        if self.leading() is None or self._cannot_look():
            return
        if self.mode is not Mode.OBSERVE:
            self._told("with things as they are")
        self._bounded()

    async def calm(self) -> None:
        """Everything works again and people's stops are lifted; then all that must have ended is asked."""
        await self._mend()
        await self._settle()
        if self.setup.mode != "observe":
            self._told("when everything works again")
            self._contained_at_last()
        self._nothing_left()
        self._acknowledged()
        self._bounded()

    async def _mend(self) -> None:
        self.sim.gate.clear()
        self._pending = None
        await self.pass_time(1)
        for replica in tuple(self.replicas):
            if replica.stall is not None:
                await self._wake(replica)
        if self.leading() is None:
            self.leader = self.replicas[0].name
        self.clock.skew.clear()
        await self.lag("")
        await self.provider("")
        for peer in range(2):
            await self.set_peer(peer, "ok")
        if self.prometheus.state != "ok":
            await self.set_prometheus("ok")
        self.signs.dark.clear()
        self.alertmanager.extra.clear()
        self.alertmanager.delay = timedelta(0)
        await self.identities(2)
        await self.witnesses(2)
        await self.set_watchdog("ours")
        await self._let_go()

    async def _let_go(self) -> None:
        """Lift what people and other tools have put in the way."""
        for scope in (*self.names, ""):
            self.alertmanager.unsilence(scope)
        self.observer.stops.clear()
        self.cap(paused="", frozen="", mode=Mode.ENFORCE)
        await self.set_policy("there")
        self.sim.cluster.locks = {n: k for n, k in self.sim.cluster.locks.items() if k.holder == "gpuheal"}
        self.sim.cluster.protect.clear()
        self.protected.clear()
        self.sim.workloads.release_stuck()
        self.sim.api.budgets = []
        for index, name in enumerate(self.names):
            await self.hang_at_boot(index, on=False)
            await self.switch_on(index)
            if name in self.sim.api.nodes:
                await self.autoscaler(index, on=False)
                await self.opt_out(index, on=False)
                await self.hold(index, on=False)
                self.change(name, _plain, "ann")

    async def _settle(self) -> None:
        """Look until nothing has happened for long: soon again after every write, later and later while nothing is."""
        pause, quiet = float(FIRST_PAUSE), timedelta(0)
        for _ in range(MOST_ROUNDS):
            calls = self._calls()
            await self.pass_time(pause)
            await self.look()
            if self._calls() != calls:
                pause, quiet = float(FIRST_PAUSE), timedelta(0)
                continue
            quiet += timedelta(seconds=pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            if quiet > QUIET or (quiet > timedelta(minutes=1) and self._at_rest()):
                return

    def _calls(self) -> int:
        gate = self.sim.gate
        return sum(c.method != "lock" for c in gate.calls) + len(gate.refused)

    def _at_rest(self) -> bool:
        """Return whether no node is sick or marked."""
        raws = self.sim.api.nodes
        return not any(ours(raw) for raw in raws.values()) and not any(self.observer.sick(n) for n in raws)

    def _cannot_look(self) -> bool:
        """Return whether sources are away, which other rules tell of (GPUHealResponder…, the dead man's URL)."""
        peers = set(self.alertmanager.states.values())
        return (
            self.prometheus.state != "ok" or peers != {"ok"} or bool(self.sim.gate.planned("nodes", "list", "controls"))
        )

    def _told(self, when: str) -> None:
        """Whoever stands still with a mark of ours is shown in a state that alerts."""
        told, exhausted = self._states(), bool(sum(s.value for s in self.samples(EXHAUSTED)))  # type: ignore[attr-defined]
        for name, raw in self.sim.api.nodes.items():
            states = told.get(name, set())
            if ours(raw) and not states & TELLING.keys():
                known = f"its case is {', '.join(sorted(states))}" if states else "no case is shown"
                self.observer.broken(
                    "E-standing-still", name, f"{when} it stays contained, and nobody is told: {known}"
                )
            uncontained = not ours(raw) and self._must_be_contained(name)
            known_to_people = exhausted or name in self.signs.dark or self._no_policy(name)
            if uncontained and not states & TELLING.keys() and not known_to_people:
                self.observer.broken("E-sick-untold", name, f"{when} a sick node takes pods, and nobody is told")

    def _no_policy(self, name: str) -> bool:
        """Return whether the node's faults are nobody's by the site's own policies: then their alerts are for people.

        The responder must say so, and every fault that nothing silences must be alerting.
        """
        leader = self.leading()
        ignored = leader.telemetry.ignored_faults() if leader is not None else None
        told = any(one.node == name and one.reason == Reason.NO_POLICY for one in ignored or ())
        firing = [a.labels for a in self.prometheus.firing() if a.labels["node"] == name]
        sick = self.observer.sick_gpus(name)
        return told and bool(sick) and sick <= {(labels["gpu_uuid"], labels["fault"]) for labels in firing}

    def _states(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for sample in self.samples(STATE):
            labels = sample.labels  # type: ignore[attr-defined]
            found.setdefault(labels["target_node"], set()).add(labels["state"])
        for sample in self.samples(UNREADABLE):  # GPUHealUndoUnreadable tells of it, with a case or without one
            if sample.value:  # type: ignore[attr-defined]
                found.setdefault(sample.labels["target_node"], set()).add("unreadable")  # type: ignore[attr-defined]
        return found

    def _contained_at_last(self) -> None:
        for name, raw in self.sim.api.nodes.items():
            if self._must_be_contained(name) and not raw["spec"].get("unschedulable") and not has_taint(raw, TAINT):
                states = self._states().get(name, set())
                if GIVEN_UP not in states:
                    text = (
                        f"sick since {self._oldest(name):%H:%M:%S}; its case is {', '.join(sorted(states)) or 'none'}"
                    )
                    self.observer.broken("L-never-contained", name, text)

    def _oldest(self, name: str) -> datetime:
        return min(i.began for i in self._to_contain(name))

    def _must_be_contained(self, name: str) -> bool:
        machine, raw = self.sim.fleet[name], self.sim.api.nodes[name]
        return machine.power is Power.UP and is_ready(raw) and bool(self._to_contain(name))

    def _to_contain(self, name: str) -> list[Illness]:
        taken = self.observer.told(name).takeback
        return [i for i in self.observer.sick(name) if taken is None or i.news > taken.at]

    def _nothing_left(self) -> None:
        for name, raw in self.sim.api.nodes.items():
            if ours(raw):
                continue
            told, left = self.observer.told(name), []
            if raw["spec"].get("unschedulable") and told.cordon_by == ENGINE:
                left.append("its cordon")
            left += [c["type"] for c in raw["status"]["conditions"] if _ill_condition(c)]
            lock = self.sim.cluster.locks.get(name)
            if lock is not None and lock.holder == "gpuheal" and lock.expires_at > self.truth_now() + LONGEST_LEASE:
                left.append("its Lease")
            if left:
                self.observer.broken("S18-left-behind", name, f"without a mark of ours it still has {', '.join(left)}")

    def _acknowledged(self) -> None:
        for name, told in self.observer.nodes.items():
            taken = told.takeback
            unsaid = taken is not None and told.published < taken.number and not told.damaged
            if taken is not None and unsaid and name in self.sim.api.nodes:
                self.observer.broken("S18-unacknowledged", name, f"no Event says that {taken.by} took the node back")

    def _bounded(self) -> None:
        counted: dict[tuple[str, str], int] = {}
        for key in self.sim.gate.refused:
            counted[key] = counted.get(key, 0) + 1
        for (method, target), times in counted.items():
            if times > MOST_TRIES and method not in READS | SAID_AGAIN:
                text = f"{method} was refused {times} times and tried again"
                self.observer.broken("E-unbounded-tries", target, text)
        for case in self.cases():
            if len(case.attempts) > MOST_ATTEMPTS:
                self.observer.broken(
                    "E-unbounded-attempts", case.node, f"{case.name} has {len(case.attempts)} attempts"
                )
        for name, records in self.sim.remediations.decisions.items():
            large = any(len(json.dumps(r, default=str)) > MOST_DECISION_BYTES for r in records[-2:])
            if large or any("world" not in record for record in records):
                self.observer.broken("S24-no-world", "", f"a decision of {name} cannot be kept whole, so not replayed")


def _ill_condition(condition: Json) -> bool:
    ill = condition["status"] == "False" and condition["type"].endswith("Healthy")
    return ill and condition["type"].startswith(CONDITIONS)


def _plain(raw: Json) -> None:
    """Take off what others have put on the node to keep us away."""
    raw["metadata"].get("annotations", {}).pop(HOLD, None)
    kept = [t for t in raw["spec"].get("taints", ()) if t["key"].startswith(("node.kubernetes.io/", "gpu.health/"))]
    raw["spec"].pop("taints", None)
    if kept:
        raw["spec"]["taints"] = kept
