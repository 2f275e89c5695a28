"""A stage for the engine: the simulated fleet, and Alertmanager and Prometheus played from its true state.

The played ports say what the real pair would say after one evaluation: an Xid is latched until the next boot, a machine
that is down says nothing. Real servers are used in tests/integration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.machine import GpuFault, KernelLine, Machine, Power, Watcher, fell_off_bus
from gpuheal_lab.fleet.spec import fleet
from gpuheal_responder.actions import SPECS
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.core.alert import Alert, Peer, Silence
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.faults import DeadLetter
from gpuheal_responder.core.opening import Ignore
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.sighting import Evidence, GpuHealth, HealthSample, Identity, Witness, WitnessClass
from gpuheal_responder.core.verdict import Verdict, due_of
from gpuheal_responder.core.world import GroupIncident
from gpuheal_responder.errors import ObserveError
from gpuheal_responder.shell.round.engine import Engine, Work
from gpuheal_responder.shell.round.observe import Ports

CLUSTER = "test"
FAULTS = frozenset({"gpu-fell-off-bus", "app-gpu-error"})
SECOND = timedelta(seconds=1)

LADDER: tuple[object, ...] = (
    "taint",
    "condition",
    {"drain": {"deadline": "5m"}},
    {"reboot": {"provider": "lab", "deadline": "2m"}},
    {"verify": {"evaluations": 3, "deadline": "2m"}},
    {"probation": {"quiet": "10s"}},
    "restore",
)


def policies(mode: str = "enforce", steps: Sequence[object] = LADDER, **more: object) -> tuple[Policy, ...]:
    """Return one policy for the first fault, as a file would give it."""
    raw = {
        "policies": [
            {"name": "fell-off-bus", "mode": mode, "match": {"faults": ["gpu-fell-off-bus"]}, "steps": list(steps)}
            | more
        ]
    }
    return parse_policies(raw, file="test.yaml", actions=SPECS, faults=FAULTS)


@dataclass(slots=True)
class Latch(Watcher):
    """The kernel's Xid of each GPU since boot, with the time of its last event, as our exporter keeps it."""

    latched: dict[tuple[str, str], datetime] = field(default_factory=dict)

    def line(self, machine: Machine, line: KernelLine) -> None:
        """Latch the first fault's Xid."""
        if line.facility == 0 and "Xid" in line.text and ": 79," in line.text:
            gpu = next(g for g in machine.spec.gpus if g.kernel_address in line.text)
            self.latched[(machine.spec.name, gpu.uuid)] = line.at

    def came_up(self, machine: Machine) -> None:
        """Clear what another boot had latched."""
        for key in [k for k in self.latched if k[0] == machine.spec.name]:
            del self.latched[key]


@dataclass(slots=True)
class PlayedAlerts:
    """The port Alerts: one peer that sees every fault at once; flags make it say less, or nothing."""

    stage: Stage
    answers: bool = True
    silences: tuple[Silence, ...] = ()
    inhibited: tuple[str, ...] = ()
    mute: bool = False
    extra: tuple[Alert, ...] = ()

    async def peers(self) -> tuple[Peer, ...]:
        """Return the one peer."""
        if not self.answers:
            return (Peer(name="am-0", answered=False, problem="connection refused"),)
        found = () if self.mute else tuple(self._alerts())
        return (Peer(name="am-0", answered=True, alerts=(*found, *self.extra), silences=self.silences),)

    def _alerts(self) -> list[Alert]:
        by = tuple(s.id for s in self.silences)
        return [
            Alert(
                fingerprint=f"{node}-{gpu}",
                labels={
                    "alertname": "GPUFellOffBus",
                    "fault": "gpu-fell-off-bus",
                    "severity": "critical",
                    "node": node,
                    "gpu_uuid": gpu,
                    "cluster": CLUSTER,
                },
                starts_at=at,
                updated_at=self.stage.sim.now(),
                suppressed=bool(by or self.inhibited),
                silenced_by=by,
                inhibited_by=self.inhibited,
            )
            for node, gpu, at in self.stage.broken()
        ]


@dataclass(slots=True)
class PlayedEvidence:
    """The port EvidenceSource: witnesses, identities and states from the machines' true state."""

    stage: Stage
    answers: bool = True
    classes: tuple[WitnessClass, ...] = (WitnessClass.KERNEL, WitnessClass.NVML)
    sources: tuple[str, ...] = ("exporter", "dcgm")
    sample_age: timedelta = timedelta(seconds=1)
    blind: bool = False
    more: dict[str, tuple[Witness, ...]] = field(default_factory=dict)
    """By node what else is seen, at every look anew."""

    async def read(self, nodes: Collection[str]) -> Mapping[str, Evidence]:
        """Return what the machines' telemetry says."""
        if not self.answers:
            raise ObserveError("prometheus", "connection refused")
        return {name: self._of(name) for name in nodes}

    def _of(self, name: str) -> Evidence:
        now = self.stage.sim.now()
        machine = self.stage.sim.fleet.get(name)
        if machine is None or self.blind:
            return Evidence(at=now)
        witnesses = [
            Witness(
                fault="gpu-fell-off-bus",
                gpu_uuid=gpu,
                witness_class=kind,
                last_seen_at=at if kind is WitnessClass.KERNEL else now,
                sample_age=self.sample_age,
            )
            for node, gpu, at in self.stage.broken()
            if node == name
            for kind in self.classes
        ]
        return Evidence(
            at=now,
            booted_at=machine.booted_at,
            witnesses=(*witnesses, *(replace(w, last_seen_at=now) for w in self.more.get(name, ()))),
            identities=tuple(Identity(gpu_uuid=g.uuid, source=s) for g in machine.spec.gpus for s in self.sources),
            health=tuple(
                GpuHealth(gpu_uuid=g.uuid, samples=tuple(self.stage.samples.get((name, g.uuid), ())))
                for g in machine.spec.gpus
            ),
        )


@dataclass(slots=True)
class Heard:
    """The port Recorder: everything the engine told."""

    verdicts: list[tuple[Case, Verdict]] = field(default_factory=list)
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    open_cases: list[Case] = field(default_factory=list)
    standing_now: list[tuple[Case, Verdict]] = field(default_factory=list)
    closed: list[Case] = field(default_factory=list)
    ignored: list[Ignore] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    incidents: list[GroupIncident] = field(default_factory=list)

    def decided(self, case: Case, verdict: Verdict) -> None:
        """Keep it."""
        self.verdicts.append((case, verdict))

    def performed(self, action: str, outcome: str, seconds: float) -> None:
        """Keep it."""
        del seconds
        self.outcomes.append((action, outcome))

    def looked(self, problems: Sequence[str], dead: Sequence[DeadLetter]) -> None:
        """Keep it."""
        self.problems += problems
        self.dead += dead

    def standing(self, open_cases: Sequence[tuple[Case, Verdict]], closed: Sequence[Case]) -> None:
        """Keep the newest."""
        self.open_cases = [case for case, _ in open_cases]
        self.standing_now = list(open_cases)
        self.closed = list(closed)

    def passed_over(
        self, ignored: Sequence[Ignore], unreadable: Sequence[str], incidents: Sequence[GroupIncident] = ()
    ) -> None:
        """Keep the newest."""
        self.ignored = list(ignored)
        self.unreadable = list(unreadable)
        self.incidents = list(incidents)

    def ticked(self, seconds: float, ok: bool) -> None:
        """Ignore it."""

    def words(self) -> list[str]:
        """Return the verdicts as short texts, such as `Act taint`, `Hold drain alert-silenced`, `Done restored`."""
        return [word(verdict) for _, verdict in self.verdicts]


def word(verdict: Verdict) -> str:
    """Return a verdict as a short text."""
    due = due_of(verdict)
    parts = [type(verdict).__name__, due.key if due is not None else "", ""]
    if type(verdict).__name__ != "Act":
        parts[2] = verdict.reason
    return " ".join(p for p in parts if p)


class Stage:
    """A fleet of nodes, a responder, and a clock that moves one second at a time."""

    def __init__(
        self,
        mode: str = "enforce",
        *,
        nodes: int = 8,
        steps: Sequence[object] = LADDER,
        more_faults: tuple[str, ...] = (),
        **limits: object,
    ) -> None:
        self.faults = FAULTS | set(more_faults)
        self.sim = Simulation(fleet(nodes, 8))
        self.latch = Latch()
        for machine in self.sim.fleet.values():
            machine.watchers.append(self.latch)
        self.samples: dict[tuple[str, str], list[HealthSample]] = {}
        self.alerts = PlayedAlerts(self)
        self.evidence = PlayedEvidence(self)
        self.policies = policies(mode, steps, **limits)
        self.heard = Heard()
        self.leads = True
        self.names = list(self.sim.fleet)
        self.engine = self.boot()

    def boot(self) -> Engine:
        """Return a new responder process: nothing of an earlier one's memory is left."""
        self.engine = Engine(
            ports=Ports(
                cluster=self.sim.cluster,
                remediations=self.sim.remediations,
                histories=self.sim.histories,
                machines=self.sim.machines,
                alerts=self.alerts,
                evidence=self.evidence,
                controls=self.sim.controls,
                clock=self.sim.clock,
            ),
            policies=lambda: self.policies,
            cluster=CLUSTER,
            owner="gpuheal",
            known_faults=self.faults,
            recorder=self.heard,
            may_act=lambda: self.leads,
        )
        return self.engine

    def broken(self) -> list[tuple[str, str, datetime]]:
        """Return (node, GPU, time of the Xid) of every latched fault on a GPU of a machine that is up."""
        return [
            (node, gpu, at)
            for (node, gpu), at in self.latch.latched.items()
            if self.sim.fleet[node].power is not Power.DOWN and gpu in self.sim.fleet[node].states
        ]

    def break_gpu(self, node: int = 0, gpu: int = 3, fault: GpuFault | None = None) -> str:
        """Break a GPU of the n-th node; return the node's name."""
        name = self.names[node]
        self.sim.break_gpu(name, gpu, fault or fell_off_bus())
        return name

    def ail(self, fault: str, node: int = 0, gpu: int | None = None) -> str:
        """Let two classes of witnesses and an alert tell of another fault of the n-th node, or of a GPU of it."""
        name = self.names[node]
        uuid = None if gpu is None else self.sim.fleet[name].spec.gpus[gpu].uuid
        now = self.sim.now()
        labels = {"alertname": fault, "fault": fault, "severity": "critical", "node": name, "cluster": CLUSTER}
        labels |= {"gpu_uuid": uuid} if uuid else {}
        self.alerts.extra += (Alert(fingerprint=f"{name}-{fault}", labels=labels, starts_at=now, updated_at=now),)
        kinds = (WitnessClass.KERNEL, WitnessClass.NVML)
        seen = [Witness(fault=fault, gpu_uuid=uuid, witness_class=kind, last_seen_at=now) for kind in kinds]
        self.evidence.more[name] = (*self.evidence.more.get(name, ()), *seen)
        return name

    def advance(self, seconds: float = 1) -> None:
        """Move the time; every whole second is one rule evaluation."""
        for _ in range(int(seconds)):
            self.sim.advance(SECOND)
            self._evaluate()

    def _evaluate(self) -> None:
        at = self.sim.now()
        for name, machine in self.sim.fleet.items():
            if machine.power is not Power.UP or not machine.gpus_ready:
                continue
            for gpu in machine.spec.gpus:
                state = 4 if machine.states[gpu.uuid].lost or (name, gpu.uuid) in self.latch.latched else 0
                kept = self.samples.setdefault((name, gpu.uuid), [])
                kept.append(HealthSample(at=at, state=state))
                del kept[:-60]

    async def round(self) -> tuple[Work, ...]:
        """Let the engine look once."""
        return await self.engine.round()

    async def play(self, seconds: int = 120, *, until: str = "") -> list[str]:
        """Let the engine look every second, at most so long, or until it says `until`; return what it said."""
        for _ in range(seconds):
            await self.engine.round()
            if until and any(until in w for w in self.heard.words()):
                break
            self.advance()
        return self.heard.words()

    def cases(self) -> list[Case]:
        """Return all stored cases by name, open and closed."""
        return sorted((self.sim.remediations._load(n).case for n in self.sim.remediations.stored), key=lambda c: c.name)

    def only_case(self) -> Case:
        """Return the one stored case."""
        (case,) = self.cases()
        return case

    def cap(self, **controls: object) -> None:
        """Change what people set at run time."""
        self.sim.controls.current = replace(self.sim.controls.current, **controls)  # type: ignore[arg-type]
