"""Evidence from Prometheus: a few instant queries for the whole fleet, all at one moment of Prometheus' own clock."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuheal_responder.config.settings import PrometheusServer
from gpuheal_responder.core.duration import format_duration
from gpuheal_responder.core.sighting import Evidence, GpuHealth, HealthSample, Identity, Strength, Witness, WitnessClass
from gpuheal_responder.errors import ConfigError, ObserveError
from gpuheal_responder.ports import Clock
from gpuheal_responder.shell.sources.client import Client, decoded, together

SOURCE = "prometheus"
WITNESS = "gpuheal:fault_witness:last_seen_seconds"
IDENTITY = "gpuheal:gpu_identity"
BOOTED = "gpuheal_node_boot_timestamp_seconds"
STATE = "gpuheal:gpu_state"
CHUNK = 100
"""Nodes named in one query: the states of 100 nodes with 8 GPUs in ten minutes are 1 MB, decoded in about 10 ms."""
UNKNOWN = 5
SKEW_S = 5.0
LATELY = timedelta(minutes=5)
OUR_GROUPS = 'rule_group=~".*gpuheal.*"'
_NODE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")  # DNS-1123 subdomain

Labels = Mapping[str, str]
Series = tuple[Labels, Sequence[tuple[float, float]]]


class PrometheusEvidence:
    """The port EvidenceSource on a real Prometheus, 2.42 and later."""

    def __init__(
        self,
        server: PrometheusServer,
        *,
        window: timedelta,
        on_problem: Callable[[ConfigError], None],
        on_ignored: Callable[[str], None],
    ) -> None:
        """Read the files the settings name; `window` is how far back GPU states are read.

        `on_ignored` is told, as a slug, of each series that breaks the contract; such a series is no evidence.
        """
        self._client = Client(server, source=SOURCE, on_problem=on_problem)
        self._window = format_duration(window)
        self._on_ignored = on_ignored
        self._settle = server.settle
        self._pipeline = _pipeline(server)

    async def read(self, health_of: Collection[str]) -> Mapping[str, Evidence]:
        """Return evidence of every node that has a witness or is named in `health_of`; ObserveError if any query fails.

        Identities are read for the same nodes, boot times and GPU states only for `health_of`; those nodes are always
        keys.
        """
        names = sorted(name for name in health_of if self._is_node(name))
        at = await self.now()
        moment = f"{at:.3f}"
        asked = [
            WITNESS,
            f"time() - timestamp({WITNESS})",
            f"{IDENTITY} and on (node) {WITNESS}",
        ]
        chunks = ["|".join(map(_escaped, names[i : i + CHUNK])) for i in range(0, len(names), CHUNK)]
        asked += [f'{IDENTITY}{{node=~"{chunk}"}}' for chunk in chunks]
        asked += [f'max by (node) ({BOOTED}{{node=~"{chunk}"}})' for chunk in chunks]
        asked += [f'{STATE}{{node=~"{chunk}"}}[{self._window}]' for chunk in chunks]
        found = await together(*(self._query(expression, moment) for expression in asked))
        evidence, ignored = await asyncio.to_thread(  # hundreds of thousands of samples would hold the event loop
            _folded, found, len(chunks), datetime.fromtimestamp(at, UTC), health_of
        )
        for reason in ignored:
            self._on_ignored(reason)
        return evidence

    async def pipeline(self, clock: Clock) -> str:
        """Return why nothing disruptive may start as far as Prometheus can tell, or an empty text.

        Reasons: it started a moment ago, its clock and ours differ, our rules failed, their evaluations or
        notifications were dropped, its configuration was refused. All but the first two are metrics of its own, so
        they are seen only if it scrapes itself.
        """
        before = clock.now().timestamp()
        try:
            at = await self.now()
            after = clock.now().timestamp()
            if at < before - SKEW_S or at > after + SKEW_S:
                return f"prometheus-skew: its clock differs by {at - (before + after) / 2:+.1f} s from ours"
            started_at, problems = await together(self._started_at(), self._query(self._pipeline, f"{at:.3f}"))
        except ObserveError as problem:
            return f"prometheus-unreadable: {problem.problem}"
        if started_at is not None and at - started_at < self._settle.total_seconds():
            return f"prometheus-settling: it started {at - started_at:.0f} s ago"
        return "; ".join(sorted(f"{labels['problem']}: {value:g}" for labels, ((_, value),) in problems))

    async def now(self) -> float:
        """Return Prometheus' clock as Unix seconds; ObserveError if it does not answer."""
        answer = await self._client.post("/api/v1/query", _data, {"query": "time()"})
        try:
            return float(answer["result"][1])
        except (KeyError, IndexError, TypeError, ValueError):
            raise ObserveError(SOURCE, "time() gave no number") from None

    async def close(self) -> None:
        """All connections are closed."""
        await self._client.close()

    async def _started_at(self) -> float | None:
        try:
            data = await self._client.get("/api/v1/status/runtimeinfo", _data)
            return datetime.fromisoformat(data["startTime"]).timestamp()
        except ObserveError:  # what speaks PromQL without being Prometheus (Thanos, Mimir) has no such page
            return None

    async def _query(self, expression: str, moment: str) -> Sequence[Series]:
        return await self._client.post("/api/v1/query", _series, {"query": expression, "time": moment})

    def _is_node(self, name: str) -> bool:
        if len(name) <= 253 and _NODE.fullmatch(name):
            return True
        self._on_ignored("node-name")
        return False


def _pipeline(server: PrometheusServer) -> str:
    job = f"job={json.dumps(server.job)}" if server.job else ""
    lately = f"[{format_duration(LATELY)}]"

    def grown(name: str, only: str = "") -> str:
        chosen = ",".join(matcher for matcher in (job, only) if matcher)
        return f"sum(increase({name}{{{chosen}}}{lately})) > 0"

    found = {
        "prometheus-settling": f"min(time() - (process_start_time_seconds{{{job}}} and on (job, instance) "
        f"prometheus_build_info)) < {server.settle.total_seconds():g}",
        "rule-failures": grown("prometheus_rule_evaluation_failures_total", OUR_GROUPS),
        "rule-evaluations-missed": grown("prometheus_rule_group_iterations_missed_total", OUR_GROUPS),
        "notifications-dropped": grown("prometheus_notifications_dropped_total"),
        "prometheus-config-refused": f"min(prometheus_config_last_reload_successful{{{job}}}) < 1",
    }
    return " or ".join(f'label_replace({expr}, "problem", "{slug}", "", "")' for slug, expr in found.items())


def _escaped(name: str) -> str:
    return name.replace(".", "[.]")  # the only sign of a DNS-1123 name that means something in RE2


def _data(body: bytes) -> Any:
    """The `data` of a complete answer; ValueError for an error or for one that carries warnings: it may be partial."""
    raw: Any = decoded(body)
    if raw["status"] != "success":
        raise ValueError(f"{raw.get('errorType')}: {raw.get('error')}")
    if raw.get("warnings"):
        raise ValueError(f"the answer may be partial: {raw['warnings']}")
    return raw["data"]


def _series(body: bytes) -> Sequence[Series]:
    """The series of an answer, each with its samples as (time, value); an instant vector has one sample per series."""
    data = _data(body)
    match data["resultType"]:
        case "vector":
            return [(_labels(s), ((float(s["value"][0]), float(s["value"][1])),)) for s in data["result"]]
        case "matrix":
            known: dict[tuple[float, float], tuple[float, float]] = {}  # most GPUs are ok at the same moments
            return [
                (_labels(s), [known.setdefault(p, p) for p in ((float(at), float(v)) for at, v in s["values"])])
                for s in data["result"]
            ]
        case kind:
            raise ValueError(f"expected series, got a {kind}")


def _labels(series: Any) -> Labels:
    labels = series["metric"]
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise ValueError("metric is not a mapping of texts")
    return labels


def _folded(
    found: Sequence[Sequence[Series]], chunks: int, at: datetime, health_of: Collection[str]
) -> tuple[Mapping[str, Evidence], Sequence[str]]:
    """Return evidence by node from the answers in the order they were asked, and why series were ignored."""
    fold = _Fold()
    fold.witnesses(found[0], found[1])
    for series in found[2 : 3 + chunks]:
        fold.identities(series)
    for series in found[3 + chunks : 3 + 2 * chunks]:
        fold.boots(series)
    for series in found[3 + 2 * chunks :]:
        fold.states(series)
    return fold.evidence(at, health_of), fold.ignored


class _Fold:
    """Gathers series by node; `ignored` says of each that broke the contract why."""

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self._witnesses: dict[str, dict[tuple[str, str, str, str], Witness]] = {}
        self._identities: dict[str, set[tuple[str, str]]] = {}
        self._boots: dict[str, datetime] = {}
        self._states: dict[str, dict[str, dict[float, int]]] = {}

    def witnesses(self, last_seen: Sequence[Series], ages: Sequence[Series]) -> None:
        """Take in the witnesses; one whose sample age is not known is none."""
        age_of = {_witness_key(labels): age for labels, ((_, age),) in ages}
        for labels, ((_, seen),) in last_seen:
            key = _witness_key(labels)
            age = age_of.get(key)
            node, gpu, fault, kind, strength = key
            if not node or not fault or kind not in list(WitnessClass):
                self.ignored.append("witness-labels")
            elif age is None or not _moment(seen) or not math.isfinite(age):
                self.ignored.append("witness-value")
            else:
                found = Witness(
                    fault=fault,
                    gpu_uuid=gpu or None,
                    witness_class=WitnessClass(kind),
                    last_seen_at=datetime.fromtimestamp(seen, UTC),
                    sample_age=timedelta(seconds=max(0.0, age)),
                    strength=_strength(strength),
                )
                self._witnesses.setdefault(node, {})[(gpu, fault, kind, strength)] = found

    def identities(self, series: Sequence[Series]) -> None:
        """Take in who knows which GPU to sit where."""
        for labels, _ in series:
            node, gpu, source = (labels.get(name, "") for name in ("node", "gpu_uuid", "source"))
            if node and gpu and source:
                self._identities.setdefault(node, set()).add((gpu, source))
            else:
                self.ignored.append("identity-labels")

    def boots(self, series: Sequence[Series]) -> None:
        """Take in when each node's kernel started."""
        for labels, ((_, began),) in series:
            if labels.get("node") and _moment(began):
                self._boots[labels["node"]] = datetime.fromtimestamp(began, UTC)
            else:
                self.ignored.append("boot-value")

    def states(self, series: Sequence[Series]) -> None:
        """Take in the GPU states; where two series tell of one moment the worse one counts."""
        for labels, values in series:
            node, gpu = labels.get("node", ""), labels.get("gpu_uuid", "")
            if not node or not gpu:
                self.ignored.append("state-labels")
                continue
            samples = self._states.setdefault(node, {}).setdefault(gpu, {})
            for at, value in values:
                state = int(value) if value in range(6) else None
                if state is None:
                    self.ignored.append("state-value")
                samples[at] = max(UNKNOWN if state is None else state, samples.get(at, 0))

    def evidence(self, at: datetime, nodes: Collection[str]) -> Mapping[str, Evidence]:
        """Return what was gathered, by node, in a stable order."""
        known = {*nodes, *self._witnesses, *self._identities, *self._states}
        samples = functools.cache(_sample)
        return {
            node: Evidence(
                at=at,
                booted_at=self._boots.get(node),
                witnesses=tuple(w for _, w in sorted(self._witnesses.get(node, {}).items())),
                identities=tuple(Identity(gpu_uuid=g, source=s) for g, s in sorted(self._identities.get(node, ()))),
                health=tuple(_health(self._states.get(node, {}), samples)),
            )
            for node in sorted(known)
        }


def _health(
    by_gpu: Mapping[str, Mapping[float, int]], sample: Callable[[float, int], HealthSample]
) -> Iterator[GpuHealth]:
    for gpu, states in sorted(by_gpu.items()):
        yield GpuHealth(gpu_uuid=gpu, samples=tuple(sample(at, state) for at, state in sorted(states.items())))


def _sample(at: float, state: int) -> HealthSample:
    return HealthSample(at=datetime.fromtimestamp(at, UTC), state=state)


def _witness_key(labels: Mapping[str, str]) -> tuple[str, str, str, str, str]:
    names = ("node", "gpu_uuid", "fault", "class", "strength")
    return tuple(labels.get(name, "") for name in names)  # type: ignore[return-value]


def _strength(label: str) -> Strength | None:
    """Return what the label says: None where the rules are older than the label, weak for a word unknown here."""
    if not label:
        return None
    return Strength.STRONG if label == Strength.STRONG else Strength.WEAK


def _moment(seconds: float) -> bool:
    return math.isfinite(seconds) and 0 < seconds < 1e11
