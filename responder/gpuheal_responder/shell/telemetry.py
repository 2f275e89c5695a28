"""Metrics and audit lines: the port Recorder, and what the web layer counts. Every name stands in `metrics.py`.

Each application has a registry of its own. Gauges about cases are made from the last round's cases as a whole, so a
closed case leaves no series behind.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from gpuheal_responder import __version__
from gpuheal_responder.core.case import SETTLING, Case
from gpuheal_responder.core.faults import DeadLetter
from gpuheal_responder.core.opening import Ignore
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.state import state_of
from gpuheal_responder.core.verdict import Hold, Verdict, due_of
from gpuheal_responder.core.world import GroupIncident
from gpuheal_responder.ports import Clock
from gpuheal_responder.shell.metrics import METRICS, TABLE, Kind
from gpuheal_responder.shell.process.stall import Longest
from gpuheal_responder.shell.record import dump_time, dump_verdict

CONTENT_TYPE = CONTENT_TYPE_LATEST
STALE = "stale"
STALE_AFTER = timedelta(hours=48)
"""As medik8s' NodeHealthCheck: a remediation older than this stands still (NodeHealthCheckOldRemediationCR alert)."""


class Telemetry:
    """The port Recorder on Prometheus metrics and JSON lines."""

    def __init__(self, *, cluster: str, clock: Clock, audit: TextIO) -> None:
        """Register every metric; audit lines go to `audit`, one per verdict that is news and per act of a person."""
        self.registry = CollectorRegistry(auto_describe=True)
        self._cluster = cluster
        self._clock = clock
        self._audit = audit
        self._standing = _Standing(clock)
        self._seen: frozenset[tuple[str, str]] = frozenset()
        self.registry.register(self._standing)
        made = _Families(self.registry)
        made.info.info({"version": __version__})
        self._verdicts = made.counter("gpuheal_verdicts_total")
        self._steps = made.histogram("gpuheal_step_duration_seconds")
        self._rounds = made.histogram("gpuheal_tick_duration_seconds")
        self._problems = made.counter("gpuheal_observe_errors_total")
        self._dead_total = made.counter("gpuheal_dead_letters_total")
        self._ignored = made.counter("gpuheal_evidence_ignored_total")
        self._deliveries = made.counter("gpuheal_deliveries_total")
        self._latency = made.histogram("gpuheal_delivery_duration_seconds")
        self._ended = made.counter("gpuheal_connections_ended_total")
        self._config = made.counter("gpuheal_config_errors_total")
        self._leader = made.gauge("gpuheal_leader")
        self._good = made.gauge("gpuheal_last_good_round_timestamp_seconds")
        self._leads = False
        self._frozen = made.gauge("gpuheal_frozen")
        self._stalls = made.histogram("gpuheal_event_loop_stall_seconds")
        self._unreadable = made.gauge("gpuheal_unreadable_cases")
        longest = made.gauge("gpuheal_event_loop_longest_stall_seconds")
        self._longest_stall, self._longest_work = Longest(time.monotonic), Longest(time.monotonic)
        longest.labels("wall").set_function(self._longest_stall.value)
        longest.labels("cpu").set_function(self._longest_work.value)

    def decided(self, case: Case, verdict: Verdict) -> None:
        """Count a verdict that differs from the case's last one, and write its audit line."""
        said = dump_verdict(verdict)
        self._verdicts.labels(said["verdict"], said["reason"]).inc()
        faults = [
            {"fault": f.slug, **({"gpuUUID": f.target.gpu_uuid} if f.target.gpu_uuid else {})} for f in case.faults
        ]
        self.audit("verdict", {"case": case.name, "node": case.node, "policy": case.policy, "faults": faults, **said})

    def performed(self, action: str, outcome: str, seconds: float) -> None:
        """Count one performed step."""
        self._steps.labels(action, outcome).observe(seconds)

    def looked(self, problems: Sequence[str], dead: Sequence[DeadLetter]) -> None:
        """Count the sources that could not be read, and the dead letters that are new."""
        for problem in problems:
            self._problems.labels(problem.split(maxsplit=1)[0].rstrip(":") if problem.strip() else "unknown").inc()
        now = {(letter.fingerprint, letter.reason): letter for letter in dead}
        for key in now.keys() - self._seen:
            letter = now[key]
            self._dead_total.labels(letter.reason).inc()
            told = {"alertname": letter.alertname, "fingerprint": letter.fingerprint, "message": letter.detail}
            self.audit("dead-letter", {"reason": letter.reason, **told})
        self._seen = frozenset(now)
        self._standing.dead = [letter.reason for letter in now.values()]

    def standing(self, open_cases: Sequence[tuple[Case, Verdict]], closed: Sequence[Case]) -> None:
        """Replace the gauges made from all cases: states, and until when each fault's evidence is settled."""
        self._standing.open = tuple(open_cases)
        self._standing.closed = tuple(closed)

    def passed_over(
        self, ignored: Sequence[Ignore], unreadable: Sequence[str], incidents: Sequence[GroupIncident] = ()
    ) -> None:
        """Replace what is known of faults that open no case, of undo records that cannot be read, and of incidents."""
        self._standing.looked = True
        self._standing.incidents = tuple(incidents)
        self._standing.ignored = tuple(ignored)
        self._standing.unreadable = tuple(unreadable)

    def ignored_faults(self) -> Sequence[Ignore] | None:
        """Return the faults of the last round that opened no case, and why; None before the first round that leads."""
        return self._standing.ignored if self._standing.looked else None

    def ticked(self, seconds: float, ok: bool) -> None:
        """Record one round of the engine."""
        self._rounds.labels(str(ok).lower()).observe(seconds)
        if ok and self._leads:
            self._good.set(self._clock.now().timestamp())

    def verdict_of(self, case: str) -> Verdict | None:
        """Return the last round's verdict on an open case, or None."""
        return next((verdict for held, verdict in self._standing.open if held.name == case), None)

    def delivered(self, answer: int, seconds: float) -> None:
        """Count one delivery to the webhook."""
        self._deliveries.labels(str(answer)).inc()
        self._latency.observe(seconds)

    def dead_letter(self, reason: str, message: str) -> None:
        """Count a delivery that is Alertmanager's but cannot be used."""
        self._dead_total.labels(reason).inc()
        self.audit("dead-letter", {"reason": reason, "message": message[:1000]})

    def ignored(self, reason: str) -> None:
        """Count a series that broke the evidence contract."""
        self._ignored.labels(reason).inc()

    def ended(self, reason: str) -> None:
        """Count a connection that we ended before it had asked anything."""
        self._ended.labels(reason).inc()

    def config_error(self, problem: Exception) -> None:
        """Count a changed file that could not be used."""
        self._config.inc()
        self.audit("config-error", {"message": str(problem)})

    def leading(self, leader: bool) -> None:
        """Record whether this replica acts; one that does not has nothing to show of what it once saw."""
        self._leader.set(leader)
        self._leads = leader
        if not leader:
            self._good.set(0)
            self._standing.forget()

    def frozen(self, reason: str) -> None:
        """Record whether the pipeline keeps disruptive steps from starting; an empty reason says it does not."""
        self._frozen.set(bool(reason))

    def count_unreadable(self, count: Callable[[], float]) -> None:
        """Show at each scrape how many stored cases cannot be read in full."""
        self._unreadable.set_function(count)

    def stalled(self, seconds: float, cpu_seconds: float) -> None:
        """Record how late the event loop woke a timer, and how much of that this process has computed."""
        self._stalls.observe(seconds)
        self._longest_stall.add(seconds)
        self._longest_work.add(cpu_seconds)

    def audit(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write one audit line: a JSON object on one line, with time, cluster and event first."""
        head = {"at": dump_time(self._clock.now()), "cluster": self._cluster, "event": event}
        self._audit.write(json.dumps({**head, **fields}, separators=(",", ":"), default=str) + "\n")
        self._audit.flush()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format (content type CONTENT_TYPE)."""
        return generate_latest(self.registry)


class _Families:
    """Makes the families of the table in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        (info,) = (metric for metric in TABLE if metric.kind is Kind.INFO)
        self.info = Info(info.name.removesuffix("_info"), info.help, registry=registry)

    def counter(self, name: str) -> Counter:
        metric = METRICS[name]
        return Counter(name.removesuffix("_total"), metric.help, metric.labels, registry=self._registry)

    def gauge(self, name: str) -> Gauge:
        return Gauge(name, METRICS[name].help, METRICS[name].labels, registry=self._registry)

    def histogram(self, name: str) -> Histogram:
        metric = METRICS[name]
        return Histogram(name, metric.help, metric.labels, buckets=metric.buckets, registry=self._registry)


def _family(name: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, METRICS[name].help, labels=METRICS[name].labels)


class _Standing(Collector):
    """Gauges that are made from the last round's cases at scrape time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Know nothing, as before the first round: what a leader of the past saw would stand beside what is so now."""
        self.looked = False
        self.open: Sequence[tuple[Case, Verdict]] = ()
        self.closed: Sequence[Case] = ()
        self.dead: Sequence[str] = ()
        self.ignored: Sequence[Ignore] = ()
        self.unreadable: Sequence[str] = ()
        self.incidents: Sequence[GroupIncident] = ()

    def collect(self) -> Iterable[Metric]:
        """Yield the families; each is there even without a series."""
        state = _family("gpuheal_case_state")
        opened = _family("gpuheal_case_opened_timestamp_seconds")
        for case, verdict in self.open:
            opened.add_metric((case.node, case.name), case.opened_at.timestamp())
            due = due_of(verdict)
            step, phase = (due.key, due.spec.phase.value) if due is not None else ("", "")
            states = [state_of(case, verdict)] + [STALE] * (self._clock.now() - case.opened_at >= STALE_AFTER)
            for fault in sorted({f.slug for f in case.faults}) or ["unknown"]:
                for word in states:
                    state.add_metric((case.node, fault, word, step, phase, verdict.reason), 1)
        cleared = _family("gpuheal_fault_cleared_timestamp_seconds")
        for key, at in settled(self.closed).items():
            cleared.add_metric(key, at.timestamp())
        letters = _family("gpuheal_dead_letters_current")
        for reason in sorted(set(self.dead)):
            letters.add_metric((reason,), self.dead.count(reason))
        spent = _family("gpuheal_cordon_budget_exhausted")
        spent.add_metric((), float(any(Reason.MARK_BUDGET in _reasons(verdict) for _, verdict in self.open)))
        ignored = _family("gpuheal_ignored_faults")
        reasons = [one.reason for one in self.ignored]
        for reason in sorted(set(reasons)):
            ignored.add_metric((reason,), reasons.count(reason))
        unreadable = _family("gpuheal_unreadable_undo")
        for node in self.unreadable:
            unreadable.add_metric((node,), 1)
        many = _family("gpuheal_incident_nodes")
        for one in self.incidents:
            many.add_metric((one.kind, one.where, one.what), one.nodes)
        return (state, opened, cleared, letters, spent, ignored, unreadable, many)


def _reasons(verdict: Verdict) -> Sequence[str]:
    return [r.reason for r in verdict.refusals] if isinstance(verdict, Hold) else []


def settled(closed: Iterable[Case]) -> Mapping[tuple[str, str, str], datetime]:
    """Return by (node, GPU, fault) until when evidence is settled: by proof or by a person, and by nothing else."""
    found: dict[tuple[str, str, str], datetime] = {}
    for case in closed:
        at = case.settled_at or case.closed_at
        if at is None or case.result not in SETTLING:
            continue
        for fault in case.faults:
            key = (case.node, fault.target.gpu_uuid or "", fault.slug)
            found[key] = max(at, found.get(key, at))
    return found
