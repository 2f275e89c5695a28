"""The world of one schedule: a small fleet, one or two replicas of the responder, a time moved by the schedule."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache

from tests.chaos.faults import KINDS
from tests.chaos.loop import VirtualLoop
from tests.chaos.observer import Observer
from tests.chaos.questions import Questions
from tests.chaos.sources import CLUSTER, Alertmanager, Prometheus, Signs

from gpuheal_lab.fleet.clock import ManualClock
from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.injection import ACTOR, Killed, Stall
from gpuheal_lab.fleet.objects import Json
from gpuheal_lab.fleet.spec import fleet
from gpuheal_responder.actions import SPECS
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.policy import Limits, Policy
from gpuheal_responder.errors import ObserveError
from gpuheal_responder.shell.round.engine import Engine
from gpuheal_responder.shell.telemetry import Telemetry

TAKEOVER = timedelta(seconds=15)
"""A Lease of a dead leader runs out after so long."""
CLEARED = "gpuheal_fault_cleared_timestamp_seconds"
STATE = "gpuheal_case_state"
EXHAUSTED = "gpuheal_cordon_budget_exhausted"
UNREADABLE = "gpuheal_unreadable_undo"
TURNS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a world is made of; everything else comes from the schedule."""

    nodes: int = 8
    rack: int = 4
    gpus: int = 2
    mode: str = "enforce"
    first: str = "taint"
    reboots: int = 1
    condition: bool = True
    replicas: int = 1
    cooldown: bool = True
    provider: str = "lab"


@dataclass(slots=True, kw_only=True)
class Replica:
    """One process of the responder; a crashed one is followed by another of the next name."""

    name: str
    engine: Engine
    telemetry: Telemetry
    stall: Stall | None = None
    release_at: datetime | None = None
    slow: bool = False
    """Whether it is one call that hangs, and not the whole process."""
    task: asyncio.Task[object] | None = None


class SkewedClock:
    """The clock as each replica's machine has it."""

    def __init__(self, base: ManualClock) -> None:
        self.base = base
        self.skew: dict[str, timedelta] = {}

    def now(self) -> datetime:
        """Return the caller's time."""
        return self.base.now() + self.skew.get(ACTOR.get()[:1], timedelta(0))

    def wrong(self, actor: str) -> bool:
        """Return whether the replica's clock is so wrong that no window of its own can hold."""
        return abs(self.skew.get(actor[:1], timedelta(0))) > timedelta(seconds=5)


class Failures(logging.Handler):
    """Hears of exceptions that the responder has caught and logged."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(level=logging.ERROR)
        self._observer = observer

    def emit(self, record: logging.LogRecord) -> None:
        """Record what went wrong inside the responder."""
        if record.exc_info and record.exc_info[1] is not None:
            self._observer.broken("X-exception", "", describe(record.exc_info[1]))


@lru_cache
def _parsed(text: str, faults: frozenset[str]) -> tuple[Policy, ...]:
    """Return the policies of a file; thousands of worlds have the same few."""
    return parse_policies(json.loads(text), file="chaos.yaml", actions=SPECS, faults=faults)


def describe(problem: BaseException) -> str:
    """Return an exception with the place it came from."""
    trace, where = problem.__traceback__, ""
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return f"{type(problem).__name__} in {where}: {str(problem)[:200]}"


@dataclass(slots=True)
class Null(io.TextIOBase):
    """Takes audit lines and keeps none."""

    def write(self, _text: str) -> int:
        """Forget it."""
        return 0


class World(Questions):
    """Everything a schedule acts on. Acts are in `tests.chaos.acts`, rules in `judge` and `ending`."""

    def __init__(self, loop: VirtualLoop, setup: Setup) -> None:
        self.loop, self.setup = loop, setup
        loop.idle = self._slept
        self.faults = frozenset(KINDS)
        self.base = ManualClock()
        self.sim = Simulation(fleet(setup.nodes, setup.gpus, nodes_per_rack=setup.rack), clock=self.base)
        self.clock = SkewedClock(self.base)
        self.sim.clock = self.clock
        self.names = list(self.sim.fleet)
        self.leader = ""
        self.takeover_at: datetime | None = None
        self.protected: dict[str, int] = {}
        self.approved: set[str] = set()
        self.asks_since = 0
        """When people last changed the mode."""
        self.bound: dict[str, int] = {}
        self.policy_state = "there"
        self.operator = False
        self.lagging = False
        """Whether a watch hangs, so that budgets are counted on the past."""
        self.observer = Observer(self)
        self.prometheus, self.alertmanager = Prometheus(self), Alertmanager(self)
        self.alerts, self.evidence = self.alertmanager, self.prometheus  # type: ignore[assignment]
        self.signs = Signs(self)
        for machine in self.sim.fleet.values():
            machine.watchers.append(self.signs)
        self.observer.attach()
        self.sim.api.on_pod.append(self._pod_changed)
        self.signs.note_all()
        self.kept = self._policies()
        self.policies = self.kept
        self.replicas: list[Replica] = []
        self.processes: set[str] = set()
        """Names of all replicas there have been."""
        self._pending: Stall | None = None
        self._born = 0
        for _ in range(setup.replicas):
            self.start("ab"[len(self.replicas)])
        self.leader = self.replicas[0].name
        self._failures = Failures(self.observer)

    # Processes

    @property
    def leads(self) -> bool:
        """Return whether the calling replica holds the Lease."""
        return ACTOR.get() == self.leader

    @leads.setter
    def leads(self, _value: bool) -> None:
        raise AttributeError("who leads is decided by `leader`")

    def start(self, letter: str) -> Replica:
        """Start a process of the responder."""
        self._born += 1
        self.heard = Telemetry(cluster=CLUSTER, clock=self.clock, audit=Null())  # type: ignore[assignment]
        replica = Replica(name=f"{letter}{self._born}", engine=self.boot(), telemetry=self.heard)  # type: ignore[arg-type]
        replica.engine.heartbeat = self._beat
        self.processes.add(replica.name)
        self.replicas.append(replica)
        return replica

    def end_process(self, replica: Replica) -> None:
        """Kill the process; its Lease runs out, and another process comes in its place."""
        self.sim.gate.bury(replica.name)
        self.replicas.remove(replica)
        if replica.stall is not None:
            replica.stall.release()
        if self.leader == replica.name:
            self.leader, self.takeover_at = "", self.truth_now() + TAKEOVER
        self.start(replica.name[0])

    def leading(self) -> Replica | None:
        """Return the replica that leads, or None."""
        return next((r for r in self.replicas if r.name == self.leader), None)

    def _beat(self, _at: datetime) -> None:
        if self.alertmanager.watchdog != "ours":
            self.observer.broken(
                "S10-foreign-watchdog", "", f"a watchdog of {self.alertmanager.watchdog} kept ours alive"
            )

    # Time

    def truth_now(self) -> datetime:
        """Return the true time."""
        return self.sim.schedule.now()

    async def pass_time(self, seconds: float) -> None:
        """Let so much time pass, and everything happen that is due meanwhile."""
        self.base.move(timedelta(seconds=seconds))
        self.loop.seconds += seconds
        self.sim.schedule.catch_up()
        self.signs.note_all()
        self._scrape()
        now = self.truth_now()
        if not self.leader and self.takeover_at is not None and now >= self.takeover_at:
            free = [r for r in self.replicas if r.stall is None]
            self.leader = free[0].name if free else ""
        for replica in [r for r in self.replicas if r.release_at is not None and now >= r.release_at]:
            await self._wake(replica)
        await asyncio.sleep(0)

    def _slept(self, seconds: float) -> None:
        """Somebody in the responder waited, and for nothing but the time."""
        self.base.move(timedelta(seconds=seconds))
        self.sim.schedule.catch_up()
        self.signs.note_all()

    async def run(self, rounds: int, every: float) -> None:
        """Let the responder look so many times, with so many seconds in between."""
        for _ in range(rounds):
            await self.pass_time(every)
            await self.look()

    async def look(self) -> None:
        """Let every replica look once; only the leader does anything."""
        for replica in tuple(self.replicas):
            if replica.slow and replica.task is not None:
                await self._go_on(replica, replica.task)
            free = replica.stall is None or (replica.slow and replica.task is None)
            if replica in self.replicas and free:
                await self._round(replica)

    async def _go_on(self, replica: Replica, task: asyncio.Task[object]) -> None:
        """Let a round go on that waits for one slow call, as far as it can."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if task.done():
            await self._end(replica, task)

    async def _round(self, replica: Replica) -> None:
        self.observer.look(replica.name)
        context = copy_context()
        context.run(ACTOR.set, replica.name)
        task: asyncio.Task[object] = self.loop.create_task(replica.engine.round(), context=context)
        replica.task = task
        if self._pending is None:
            await self._end(replica, task)
            return
        reached = self.loop.create_task(self._pending.reached.wait())
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        if self._pending.reached.is_set():
            replica.stall, self._pending = self._pending, None
            return
        reached.cancel()
        await self._end(replica, task)

    async def _end(self, replica: Replica, task: asyncio.Task[object]) -> None:
        replica.task = None
        try:
            await task
        except Killed:
            if replica in self.replicas:
                self.end_process(replica)
        except ObserveError:
            pass
        except Exception as problem:  # noqa: BLE001 - whatever it is, it must not be
            self.observer.broken("X-exception", "", f"the round failed: {describe(problem)}")

    async def _wake(self, replica: Replica) -> None:
        stall, task = replica.stall, replica.task
        replica.stall = replica.release_at = None
        replica.slow = False
        if stall is not None:
            stall.release()
            await asyncio.sleep(0)
        if task is not None:
            await self._end(replica, task)

    def hang(self, crossing: int) -> None:
        """Let the call at this crossing of the coming rounds hang, until `release_at` of its replica."""
        self._pending = self.sim.gate.stall_at(crossing)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear of exceptions that the responder catches and logs."""
        logger = logging.getLogger("gpuheal_responder")
        before = logger.propagate
        logger.propagate = False
        logger.addHandler(self._failures)
        try:
            yield
        finally:
            logger.removeHandler(self._failures)
            logger.propagate = before

    def _scrape(self) -> None:
        """Take what closed cases have settled from the leader's metrics, as the rules do."""
        if self.prometheus.state != "ok":
            return
        for sample in self.samples(CLEARED):
            labels = sample.labels
            machine = self.sim.fleet.get(labels["target_node"])
            gpus = [g.uuid for g in machine.spec.gpus] if machine else []
            at = datetime.fromtimestamp(sample.value, tz=self.truth_now().tzinfo)
            for gpu in [labels["gpu_uuid"]] if labels.get("gpu_uuid") else gpus:
                key = (labels["target_node"], gpu, labels["fault"])
                self.prometheus.cleared[key] = max(at, self.prometheus.cleared.get(key, at))

    def samples(self, metric: str) -> Sequence[object]:
        """Return the samples of one of the leader's metrics."""
        leader = self.leading()
        if leader is None:
            return ()
        families = leader.telemetry.registry.restricted_registry([metric]).collect()
        return [s for f in families for s in f.samples if s.name == metric]

    # Policies

    def _policies(self, name: str = "all-faults", mode: str = "") -> tuple[Policy, ...]:
        setup = self.setup
        steps: list[object] = [setup.first]
        steps += ["condition"] * setup.condition + [{"drain": {"deadline": "5m"}}]
        named = {"provider": setup.provider} if setup.provider else {}
        steps += [{"reboot": {**named, "deadline": "2m"}}] * setup.reboots
        steps += [{"verify": {"evaluations": 3, "deadline": "2m"}}, {"probation": {"quiet": "10s"}}, "restore"]
        raw = {"name": name, "mode": mode or setup.mode, "match": {"faults": sorted(KINDS)}, "steps": steps}
        return _parsed(json.dumps({"policies": [raw]}), self.faults)

    def policy(self, state: str) -> None:
        """Let people edit the policy file: there, gone, renamed, observe or propose."""
        self.policy_state = state
        match state:
            case "gone":
                self.policies = self._policies(name="nothing-here")
                self.policies = tuple(replace(p, faults=("gpu-suspect-repeat",)) for p in self.policies)
            case "renamed":
                self.policies = self._policies(name="renamed")
            case "observe" | "propose":
                self.policies = self._policies(mode=state)
            case _:
                self.policies = self.kept
        self.observer.stop("policy-gone", "", state in {"gone"})
        self._modes()

    def cap_mode(self, mode: str) -> None:
        """Let people cap every policy's mode."""
        self.cap(mode=Mode(mode))
        self._modes()

    def _modes(self) -> None:
        self.asks_since = self.observer.tick()
        self.observer.stop("mode-observe", "", self.mode is Mode.OBSERVE)

    @property
    def mode(self) -> Mode:
        """Return the mode in force."""
        own = Mode(self.policy_state) if self.policy_state in {"observe", "propose"} else Mode(self.setup.mode)
        return min(own, self.sim.controls.current.mode, key=lambda m: m.rank)

    @property
    def asks(self) -> bool:
        """Return whether people have to approve what disrupts."""
        return self.mode is Mode.PROPOSE

    @property
    def limits(self) -> Limits:
        """Return the limits of the policy."""
        return self.kept[0].limits

    def _pod_changed(self, old: Json | None, new: Json | None) -> None:
        if new is not None and new["spec"].get("nodeName") and not (old or {}).get("spec", {}).get("nodeName"):
            self.bound[new["metadata"]["uid"]] = self.observer.tick()
