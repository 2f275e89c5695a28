"""Alertmanager and Prometheus, played from the machines' true state, and all that ails them.

They say what the real pair says after one evaluation: an Xid is latched until the next boot, a machine that is down
says nothing, and evidence that a case has settled (gpuheal_fault_cleared_timestamp_seconds) is evidence no more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tests.chaos.faults import BY_XID, EVALUATION, FAINT, KINDS, XID, Kind, evaluated

from gpuheal_lab.fleet.machine import KernelLine, Machine, Power, Watcher
from gpuheal_responder.core.alert import Alert, Matcher, Peer, Silence
from gpuheal_responder.core.sighting import Evidence, GpuHealth, HealthSample, Identity, Strength, Witness, WitnessClass
from gpuheal_responder.errors import ObserveError

if TYPE_CHECKING:
    from tests.chaos.world import World

CLUSTER = "test"
SOURCES = ("exporter", "dcgm")
SAMPLES = 12
RESOLVE = timedelta(minutes=5)
"""Alertmanager ends an alert that Prometheus has not repeated for so long."""
SINCE_EVENT = frozenset({WitnessClass.KERNEL, WitnessClass.DCGM})
OK, FAULTY, LOST = 0, 3, 4
ACRONYMS = frozenset({"gsp"})


@dataclass(slots=True, kw_only=True)
class Sign:
    """What telemetry shows of one fault of one GPU: since when in this boot, and its newest kernel line."""

    since: datetime
    last: datetime
    level: bool = False


class Signs(Watcher):
    """The signs of all faults: Xids latched since boot, GPUs that are lost, weak signals."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.found: dict[tuple[str, str, str], Sign] = {}
        self.states: dict[tuple[str, str], list[tuple[datetime, int | None]]] = {}
        self.dark: set[str] = set()
        """Nodes whose exporters are away."""

    def line(self, machine: Machine, line: KernelLine, /) -> None:
        """Latch the Xid, as the exporter does."""
        match = XID.search(line.text) if line.facility == 0 else None
        kind = BY_XID.get(int(match["xid"])) if match else None
        if match is None or kind is None:
            return
        gpu = machine.spec.gpu(match["pci"])
        key = (machine.spec.name, gpu.uuid, kind.slug)
        known = self.found.setdefault(key, Sign(since=line.at, last=line.at))
        known.last = line.at
        self.note(machine)

    def gpus_changed(self, machine: Machine, /) -> None:
        """Follow the weak signals, which are there as long as their fault is."""
        now = self._world.truth_now()
        for gpu in machine.spec.gpus:
            key = (machine.spec.name, gpu.uuid, FAINT.slug)
            if FAINT.slug in machine.states[gpu.uuid].faults:
                self.found.setdefault(key, Sign(since=now, last=now))
            else:
                self.found.pop(key, None)
        self.note(machine)

    def went_down(self, machine: Machine, /) -> None:
        """Say nothing any more."""
        self.note(machine)

    def came_up(self, machine: Machine, /) -> None:
        """Forget what another boot had latched."""
        self.forget(machine.spec.name)
        self.note(machine)

    def forget(self, node: str) -> None:
        """Drop the latches of a node: it booted, or its exporter's state was reset."""
        for key in [k for k in self.found if k[0] == node]:
            del self.found[key]

    def note(self, machine: Machine) -> None:
        """Keep what the GPUs' states are from now on, if they have changed."""
        now = self._world.truth_now()
        for gpu in machine.spec.gpus:
            kept = self.states.setdefault((machine.spec.name, gpu.uuid), [])
            state = self._state(machine, gpu.uuid)
            if not kept or kept[-1][1] != state:
                kept.append((now, state))

    def note_all(self) -> None:
        """Keep the states of all GPUs."""
        for machine in self._world.sim.fleet.values():
            self.note(machine)

    def _state(self, machine: Machine, gpu: str) -> int | None:
        node = machine.spec.name
        if machine.power is not Power.UP or not machine.gpus_ready or not self._world.prometheus.sees(node):
            return None
        if machine.states[gpu].lost:
            return LOST
        unsettled = any(self.live(k, s) for k, s in self.found.items() if k[:2] == (node, gpu) and k[2] != FAINT.slug)
        return FAULTY if unsettled else OK

    def live(self, key: tuple[str, str, str], sign: Sign) -> bool:
        """Return whether no closed case has settled the sign."""
        cleared = self._world.prometheus.cleared.get(key)
        return cleared is None or sign.last > cleared

    def samples(self, node: str, gpu: str, at: datetime) -> tuple[HealthSample, ...]:
        """Return the newest rule evaluations up to `at`; there is none for a time at which nobody said anything."""
        kept = self.states.get((node, gpu), [])
        times = [t for t, _ in kept]
        newest = evaluated(at)
        found = []
        for back in range(SAMPLES - 1, -1, -1):
            moment = newest - back * EVALUATION
            index = bisect_right(times, moment)
            state = kept[index - 1][1] if index else None
            if state is not None:
                found.append(HealthSample(at=moment, state=state))
        return tuple(found)


@dataclass(slots=True)
class Prometheus:
    """The port EvidenceSource; `state` is ok, away (refuses), blind (knows nothing) or frozen (repeats the past)."""

    world: World
    state: str = "ok"
    changed_at: datetime | None = None
    cleared: dict[tuple[str, str, str], datetime] = field(default_factory=dict)
    restarted_at: datetime | None = None
    past: Mapping[str, Evidence] = field(default_factory=dict)
    kept: tuple[Alert, ...] = ()
    sources: tuple[str, ...] = SOURCES
    """Who knows which GPU sits where."""
    classes: int = 2
    """So many classes of witnesses see a fault."""

    def sees(self, node: str) -> bool:
        """Return whether the node is scraped at this moment."""
        return self.state == "ok" and node not in self.world.signs.dark

    def turn(self, state: str) -> None:
        """Become `state`."""
        self.kept = tuple(self.firing())
        if state == "frozen":
            self.past = {name: self._of(name) for name in self.world.sim.fleet}
        if state == "ok" and self.state != "ok":
            self.restarted_at = self.world.truth_now()
        self.state, self.changed_at = state, self.world.truth_now()
        self.world.signs.note_all()

    async def read(self, nodes: Collection[str]) -> Mapping[str, Evidence]:
        """Return what Prometheus says of these nodes."""
        if self.state == "away":
            raise ObserveError("prometheus", "connection refused")
        found = {name: self._answer(name) for name in nodes}
        self.world.observer.shown(nodes, evidence=self.state == "ok")
        return found

    def _answer(self, name: str) -> Evidence:
        now = self.world.truth_now()
        if self.state == "blind" or name not in self.world.sim.fleet:
            return Evidence(at=now)
        if self.state == "frozen":
            old = self.past.get(name)
            if old is None or now - old.at > RESOLVE:
                return Evidence(at=now)
            age = now - old.at
            return replace(old, at=now, witnesses=tuple(replace(w, sample_age=age) for w in old.witnesses))
        return self._of(name)

    def _of(self, name: str) -> Evidence:
        now, machine, signs = self.world.truth_now(), self.world.sim.fleet[name], self.world.signs
        if name in signs.dark or machine.power is Power.DOWN:
            return Evidence(at=now)
        return Evidence(
            at=now,
            booted_at=machine.booted_at,
            witnesses=tuple(self._witnesses(machine)),
            identities=tuple(Identity(gpu_uuid=g.uuid, source=s) for g in machine.spec.gpus for s in self.sources),
            health=tuple(
                GpuHealth(gpu_uuid=g.uuid, samples=signs.samples(name, g.uuid, now)) for g in machine.spec.gpus
            ),
        )

    def _witnesses(self, machine: Machine) -> Iterator[Witness]:
        now = self.world.truth_now()
        for (node, gpu, slug), sign in self.world.signs.found.items():
            known = sign.since <= evaluated(now) and self.world.signs.live((node, gpu, slug), sign)
            if node != machine.spec.name or not known:
                continue
            for kind in KINDS[slug].classes[: self.classes]:
                if kind is WitnessClass.NVML and not machine.states[gpu].lost:
                    continue
                seen = sign.last if kind in SINCE_EVENT else now
                yield Witness(
                    fault=slug,
                    gpu_uuid=gpu,
                    witness_class=kind,
                    last_seen_at=seen,
                    sample_age=timedelta(seconds=1),
                    strength=Strength.WEAK if slug == FAINT.slug else Strength.STRONG,
                )

    def firing(self) -> Iterator[Alert]:
        """Yield the alerts that Prometheus sends now; while it is away Alertmanager keeps the last ones for a time."""
        now = self.world.truth_now()
        if self.state in {"away", "frozen"}:
            if self.changed_at is None or now - self.changed_at < RESOLVE:
                yield from self.kept
            return
        for key, sign in self.world.signs.found.items():
            node, gpu, slug = key
            machine = self.world.sim.fleet[node]
            if not self.sees(node) or machine.power is Power.DOWN or not self.world.signs.live(key, sign):
                continue
            if evaluated(now) - sign.since < self.world.alertmanager.delay:
                continue
            since = max(sign.since, self.restarted_at or sign.since)
            yield alert(KINDS[slug], node, gpu, since, now)


def alert(kind: Kind, node: str, gpu: str, since: datetime, now: datetime) -> Alert:
    """Return the alert of a fault as the generated rules word it."""
    words = kind.slug.removeprefix("gpu-").split("-")
    name = "GPU" + "".join(w.upper() if w in ACRONYMS else w.capitalize() for w in words)
    labels = {"alertname": name, "fault": kind.slug, "severity": kind.severity, "node": node, "gpu_uuid": gpu}
    labels["cluster"] = CLUSTER
    return Alert(fingerprint=f"{node}-{gpu}-{kind.slug}", labels=labels, starts_at=since, updated_at=now)


@dataclass(slots=True)
class Alertmanager:
    """The port Alerts: two peers, each ok, away, empty (answers without alerts), settling or frozen."""

    world: World
    states: dict[str, str] = field(default_factory=lambda: {"am-0": "ok", "am-1": "ok"})
    past: dict[str, tuple[Alert, ...]] = field(default_factory=dict)
    silences: dict[str, Silence] = field(default_factory=dict)
    scopes: dict[str, str] = field(default_factory=dict)
    """Node that a silence names, by its id; an empty name silences every fault."""
    extra: dict[str, Alert] = field(default_factory=dict)
    delay: timedelta = timedelta(0)
    watchdog: str = "ours"
    """Whose dead man's alert is there: ours, foreign or none."""

    async def peers(self) -> tuple[Peer, ...]:
        """Return what both peers say."""
        current = (*self.world.prometheus.firing(), *self.extra.values())
        found = tuple(self._peer(name, state, current) for name, state in self.states.items())
        told = {a.labels.get("node", "") for p in found if p.answered for a in p.alerts}
        self.world.observer.shown(told, evidence=False)
        return found

    def _peer(self, name: str, state: str, current: tuple[Alert, ...]) -> Peer:
        match state:
            case "away":
                return Peer(name=name, answered=False, problem="connection refused")
            case "empty":
                current = ()
            case "frozen":
                current = self.past.get(name, ())
        alerts = tuple(self._silenced(a) for a in current)
        return Peer(
            name=name,
            answered=True,
            settling=state == "settling",
            problem="started a moment ago" if state == "settling" else "",
            alerts=(*alerts, *self._watchdog()),
            silences=tuple(self.silences.values()),
        )

    def _silenced(self, found: Alert) -> Alert:
        node = found.labels.get("node", "")
        by = tuple(key for key, scope in self.scopes.items() if scope in {"", node})
        return replace(found, suppressed=bool(by), silenced_by=by) if by else found

    def _watchdog(self) -> tuple[Alert, ...]:
        if self.watchdog == "none":
            return ()
        cluster = CLUSTER if self.watchdog == "ours" else "staging"
        labels = {"alertname": "GPUHealWatchdog", "fault": "watchdog", "cluster": cluster, "severity": "info"}
        now = self.world.truth_now()
        return (Alert(fingerprint="w", labels={**labels, "scope": "fleet"}, starts_at=now, updated_at=now),)

    def turn(self, peer: str, state: str) -> None:
        """Let a peer become `state`."""
        if state == "frozen":
            self.past[peer] = (*self.world.prometheus.firing(), *self.extra.values())
        self.states[peer] = state

    def silence(self, scope: str) -> None:
        """Let a person silence a node's alerts, or with an empty scope all."""
        key = f"silence-{scope or 'all'}"
        said = Matcher(name="node", value=scope) if scope else Matcher(name="fault", value=".+", is_regex=True)
        self.silences[key] = Silence(id=key, created_by="ann", comment="stop", matchers=(said,))
        self.scopes[key] = scope

    def unsilence(self, scope: str) -> None:
        """Expire that silence."""
        self.silences.pop(f"silence-{scope or 'all'}", None)
        self.scopes.pop(f"silence-{scope or 'all'}", None)
