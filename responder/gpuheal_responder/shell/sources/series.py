"""Prometheus' answers, and the evidence that their series make. Whatever is not as it should be is no evidence."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuheal_responder.core.reason import SeriesReason
from gpuheal_responder.core.sighting import Evidence, GpuHealth, HealthSample, Identity, Strength, Witness, WitnessClass
from gpuheal_responder.shell.sources.client import decoded

UNKNOWN = 5
"""State of a GPU whose series says something we do not know."""
PRESENT = 1
"""Value of an identity while its source shows the GPU; afterwards it is the time at which it went."""
LONGEST_TOLD = 500
FEW = 5

Labels = Mapping[str, str]
Series = tuple[Labels, Sequence[tuple[float, float]]]
_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.[0-7])?")


def data_of(body: bytes) -> Any:
    """Return the `data` of a complete answer; ValueError for an error or with warnings: it may be partial."""
    raw: Any = decoded(body)
    if raw["status"] != "success":
        raise ValueError(f"{raw.get('errorType')}: {raw.get('error')}")
    if raw.get("warnings"):
        raise ValueError(f"the answer may be partial: {raw['warnings']}")
    return raw["data"]


def moment_of(data: Any) -> float:
    """Return the time that an answer to `time()` gives; ValueError for none."""
    at = float(data["result"][1])
    if not _moment(at):
        raise ValueError(f"time() is {at}")
    return at


def started_of(body: bytes) -> float:
    """Return when the server started, by its page of runtime information; ValueError for no sensible time."""
    at = datetime.fromisoformat(data_of(body)["startTime"]).timestamp()
    if not _moment(at):
        raise ValueError(f"startTime is {at}")
    return at


def told_of(problems: Sequence[Series]) -> str:
    """Return what the query for problems of the pipeline has found, in a stable order."""
    found = (f"{labels.get('problem', 'unknown')}: {value:g}" for labels, ((_, value),) in problems)
    return "; ".join(sorted(found))[:LONGEST_TOLD]


def series_of(body: bytes) -> Sequence[Series]:
    """Return the series of an answer, each with its samples as (time, value); an instant vector has one per series."""
    data = data_of(body)
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
        raise ValueError("metric is not a mapping of strings")
    return labels


def folded(
    found: Sequence[Sequence[Series]], chunks: int, at: datetime, health_of: Collection[str]
) -> tuple[Mapping[str, Evidence], Sequence[SeriesReason]]:
    """Return evidence by node from the answers in the order they were asked, and why series were ignored.

    Raises ValueError when they are of several clusters: nodes of equal names cannot be told apart.
    """
    clusters = {labels["cluster"] for answer in found for labels, _ in answer if labels.get("cluster")}
    if len(clusters) > 1:
        names = ", ".join(sorted(clusters)[:FEW])
        raise ValueError(f"series of the clusters {names}; the setting `cluster` is missing")
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
        self.ignored: list[SeriesReason] = []
        self._witnesses: dict[str, dict[tuple[str, str, str, str], Witness]] = {}
        self._identities: dict[str, dict[tuple[str, str], tuple[str, bool]]] = {}
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
                self.ignored.append(SeriesReason.WITNESS_LABELS)
            elif age is None or not _moment(seen) or not math.isfinite(age):
                self.ignored.append(SeriesReason.WITNESS_VALUE)
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
        """Take in who knows which GPU to sit where, or to have sat there until lately."""
        for labels, ((_, value),) in series:
            node, gpu, source = (labels.get(name, "") for name in ("node", "gpu_uuid", "source"))
            if node and gpu and source:
                place = (_slot(labels.get("pci_bus_id", "")), value != PRESENT)
                self._identities.setdefault(node, {})[(gpu, source)] = place
            else:
                self.ignored.append(SeriesReason.IDENTITY_LABELS)

    def boots(self, series: Sequence[Series]) -> None:
        """Take in when each node's kernel started."""
        for labels, ((_, began),) in series:
            if labels.get("node") and _moment(began):
                self._boots[labels["node"]] = datetime.fromtimestamp(began, UTC)
            else:
                self.ignored.append(SeriesReason.BOOT_VALUE)

    def states(self, series: Sequence[Series]) -> None:
        """Take in the GPU states; where two series tell of one moment the worse one counts."""
        for labels, values in series:
            node, gpu = labels.get("node", ""), labels.get("gpu_uuid", "")
            if not node or not gpu:
                self.ignored.append(SeriesReason.STATE_LABELS)
                continue
            samples = self._states.setdefault(node, {}).setdefault(gpu, {})
            for at, value in values:
                state = int(value) if value in range(6) else None
                if state is None:
                    self.ignored.append(SeriesReason.STATE_VALUE)
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
                identities=tuple(
                    Identity(gpu_uuid=g, source=s, slot=slot, gone=gone)
                    for (g, s), (slot, gone) in sorted(self._identities.get(node, {}).items())
                ),
                health=tuple(_health(self._states.get(node, {}), samples)),
            )
            for node in sorted(known)
        }


def _slot(bus_id: str) -> str:
    """Return a PCI address in one form for all sources (`0000:1b:00`), or an empty text for none."""
    found = _PCI.fullmatch(bus_id.lower())
    return f"{int(found[1] or '0', 16):04x}:{found[2]}:{found[3]}" if found else ""


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
