"""A simulated node as promtool input series, and test files as values.

Time runs in steps of one scrape. A `Timeline` is what a series shows at each step: a number, `None` for no sample, or
`STALE` for the marker Prometheus writes when a target or series goes away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STEP_SECONDS = 15
STALE = "stale"
Value = float | str | None
Timeline = Callable[[int], Value]

NODE, OTHER_NODE = "gpu-node-1", "gpu-node-2"
UUIDS = ("GPU-11111111-0000-0000-0000-000000000000", "GPU-11111111-0000-0000-0000-000000000001")
BUSES = ("0000:1b:00", "0000:3b:00")
DCGM_BUSES = ("00000000:1B:00.0", "00000000:3B:00.0")
TOPOLOGY = {"rack": "r1", "zone": "z1", "fabric_domain": "f1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One input series."""

    metric: str
    labels: Mapping[str, str]
    at: Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What must fire at a step: all instances of an alert with labels and value; none means it is quiet."""

    step: int
    alertname: str
    fires: Sequence[tuple[Mapping[str, str], float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What an expression must return at a step; labels are written as a metric, for example `{node="a"}`."""

    step: int
    expr: str
    samples: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One promtool test: a name that states the fact, the series, and the expectations."""

    name: str
    series: Sequence[Series]
    alerts: Sequence[Expectation] = ()
    queries: Sequence[Query] = ()
    steps: int = 60


@dataclass(slots=True, kw_only=True)
class World:
    """The healthy telemetry of one node with two GPUs, to which a case adds its fault.

    `exporter` and `dcgm` tell whether the target answers at a step; `pod` names the exporter pod at a step, so that a
    restart changes target labels as it does in a cluster.
    """

    node: str = NODE
    uuids: Sequence[str] = UUIDS
    exporter: Callable[[int], bool] | None = field(default=lambda _step: True)
    dcgm: Callable[[int], bool] | None = field(default=lambda _step: True)
    restart_at: int | None = None
    present: Callable[[int, int], bool] = field(default=lambda _gpu, _step: True)
    topology: Mapping[str, str] = field(default_factory=lambda: dict(TOPOLOGY))

    def series(self) -> list[Series]:
        """Return the series of the healthy node."""
        found: list[Series] = []
        if self.exporter is not None:
            found += self._exporter()
        if self.dcgm is not None:
            found += self._dcgm()
        return found

    def of_exporter(self, metric: str, labels: Mapping[str, str], at: Timeline) -> list[Series]:
        """Return a metric of the exporter: it ends with its target, and changes target labels when the pod restarts."""
        if self.exporter is None:
            return []
        up = self.exporter
        found = []
        for index, (first, last) in enumerate(self._lives()):
            target = {"job": "gpuheal-exporter", "instance": f"10.0.0.{5 + index}:9500", "node": self.node}
            found.append(
                Series(metric=metric, labels={**labels, **target, **self.topology}, at=_living(at, up, first, last))
            )
        return found

    def of_dcgm(self, metric: str, gpu: int, at: Timeline, **labels: str) -> list[Series]:
        """Return a metric of dcgm-exporter for one GPU (by index); it ends with the GPU and with the target."""
        if self.dcgm is None:
            return []
        up, present = self.dcgm, self.present
        own = {
            "gpu": str(gpu),
            "UUID": self.uuids[gpu],
            "pci_bus_id": DCGM_BUSES[gpu],
            "modelName": "NVIDIA H100 80GB HBM3",
            "Hostname": self.node,
        }
        target = {"job": "dcgm-exporter", "instance": "10.0.0.9:9400", "node": self.node, **self.topology}
        there = _living(at, lambda step: up(step) and present(gpu, step), 0, None)
        return [Series(metric=metric, labels={**own, **labels, **target}, at=there)]

    def xid(self, gpu: int, code: int, first: int, last: int | None = None, cleared: int | None = None) -> list[Series]:
        """Return the latch of an Xid first seen just before step `first`, again before `last`, gone from `cleared`."""
        labels = {"gpu_uuid": self.uuids[gpu], "pci_bus_id": BUSES[gpu], "xid": str(code)}
        again = first if last is None else last

        def level(value: Callable[[int], float]) -> Timeline:
            return lambda step: None if step < first or (cleared is not None and step >= cleared) else value(step)

        def stamp(step: int) -> float:
            return event_time(again if step >= again else first)

        return [
            *self.of_exporter("gpuheal_xid_total", labels, level(lambda step: 2.0 if step >= again > first else 1.0)),
            *self.of_exporter("gpuheal_xid_latched", labels, level(lambda _step: 1.0)),
            *self.of_exporter("gpuheal_xid_first_timestamp_seconds", labels, level(lambda _step: event_time(first))),
            *self.of_exporter("gpuheal_xid_last_timestamp_seconds", labels, level(stamp)),
        ]

    def _lives(self) -> list[tuple[int, int | None]]:
        return [(0, None)] if self.restart_at is None else [(0, self.restart_at), (self.restart_at, None)]

    def _exporter(self) -> list[Series]:
        up = self.exporter
        assert up is not None
        found = self._up("gpuheal-exporter", up)
        beat: Timeline = lambda step: float(step * STEP_SECONDS)  # noqa: E731
        found += self.of_exporter("gpuheal_exporter_heartbeat_timestamp_seconds", {}, beat)
        found += self.of_exporter("gpuheal_kmsg_up", {}, always(1))
        found += self.of_exporter("gpuheal_nvml_up", {}, always(1))
        for gpu, uuid in enumerate(self.uuids):
            bus = BUSES[gpu]
            info = {"serial": f"165{gpu}", "slot": str(gpu), "product": "NVIDIA H100 80GB HBM3"}
            found += self.of_exporter("gpuheal_gpu_info", {"gpu_uuid": uuid, "pci_bus_id": bus, **info}, always(1))
            found += self.of_exporter("gpuheal_gpu_present", {"gpu_uuid": uuid, "pci_bus_id": bus}, self._present(gpu))
            found += self.of_exporter("gpuheal_gpu_recovery_action", {"gpu_uuid": uuid}, always(0))
        return found

    def _present(self, gpu: int) -> Timeline:
        return lambda step: 1.0 if self.present(gpu, step) else 0.0

    def _dcgm(self) -> list[Series]:
        up = self.dcgm
        assert up is not None
        found = self._up("dcgm-exporter", up)
        for gpu in range(len(self.uuids)):
            found += self.of_dcgm("DCGM_FI_DEV_GPU_TEMP", gpu, always(45))
            found += self.of_dcgm("DCGM_FI_DEV_SM_CLOCK", gpu, always(1980))
            found += self.of_dcgm("DCGM_FI_DEV_XID_ERRORS", gpu, self._no_xid(), err_code="0", err_msg="No Error")
        return found

    def _no_xid(self) -> Timeline:
        return always(0)

    def _up(self, job: str, up: Callable[[int], bool]) -> list[Series]:
        port = "9500" if job == "gpuheal-exporter" else "9400"
        labels = {"job": job, "instance": f"10.0.0.5:{port}", "node": self.node, **self.topology}
        return [Series(metric="up", labels=labels, at=lambda step: 1.0 if up(step) else 0.0)]


def always(value: float) -> Timeline:
    """Return a series that always shows `value`."""
    return lambda _step: float(value)


def since(step: int, value: float, before: Value = None) -> Timeline:
    """Return a series that shows `value` from `step` on and `before` earlier."""
    return lambda now: float(value) if now >= step else before


def between(first: int, last: int, value: float, otherwise: Value = None) -> Timeline:
    """Return a series that shows `value` from `first` up to, not including, `last`."""
    return lambda now: float(value) if first <= now < last else otherwise


def event_time(step: int) -> float:
    """Return the unix time of an event that the scrape at `step` is the first to show; off the edge of any window."""
    return step * STEP_SECONDS - 7.0


def settled(fault: str, gpu_uuid: str, step: int, at: int, node: str = NODE) -> Series:
    """Return the responder's settlement, exported from `step` on, of all evidence up to the time of step `at`."""
    labels = {"target_node": node, "fault": fault, "job": "gpuheal-responder", "node": "cpu-node-1", "pod": "r-0"}
    if gpu_uuid:
        labels["gpu_uuid"] = gpu_uuid
    return Series(
        metric="gpuheal_fault_cleared_timestamp_seconds", labels=labels, at=since(step, float(at * STEP_SECONDS))
    )


def _living(at: Timeline, up: Callable[[int], bool], first: int, last: int | None) -> Timeline:
    def value(step: int) -> Value:
        alive = step >= first and (last is None or step < last) and up(step)
        now = at(step) if alive else None
        if now is not None or step == 0:
            return now
        before = step > first and (last is None or step <= last) and up(step - 1) and at(step - 1) is not None
        return STALE if before else None

    return value


def values(at: Timeline, steps: int) -> str:
    """Return promtool's notation of a timeline."""
    tokens = ["_" if v is None else v if isinstance(v, str) else f"{v:.12g}" for v in map(at, range(steps + 1))]
    found: list[str] = []
    index = 0
    while index < len(tokens):
        count = 1
        while index + count < len(tokens) and tokens[index + count] == tokens[index]:
            count += 1
        token = tokens[index]
        if token == "_":  # noqa: S105
            found.append(f"_x{count}")
        elif count == 1 or token == STALE:
            found += [token] * count
        else:
            found.append(f"{token}x{count - 1}")
        index += count
    return " ".join(found)


def expand(template: str, labels: Mapping[str, str], value: float) -> str:
    """Return an annotation as Prometheus expands it; knows `$labels.x` and `$value`, raises ValueError for the rest."""

    def one(match: re.Match[str]) -> str:
        word = match.group(1).strip()
        if word == "$value":
            return f"{value:.12g}"
        if word.startswith("$labels."):
            return labels.get(word.removeprefix("$labels."), "")
        raise ValueError(f"annotation template {word!r} is not supported")

    return re.sub(r"\{\{([^}]*)\}\}", one, template)


def document(cases: Sequence[Case], rule_file: str, annotations: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return a promtool test file; `annotations` are the templates of each alert, by name."""
    return {
        "rule_files": [rule_file],
        "evaluation_interval": f"{STEP_SECONDS}s",
        "tests": [_test(case, annotations) for case in cases],
    }


def _test(case: Case, annotations: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": case.name,
        "interval": f"{STEP_SECONDS}s",
        "input_series": [
            {"series": f"{s.metric}{_braces(s.labels)}", "values": values(s.at, case.steps)} for s in case.series
        ],
    }
    if case.alerts:
        found["alert_rule_test"] = [_alert_test(e, annotations) for e in case.alerts]
    if case.queries:
        found["promql_expr_test"] = [
            {
                "expr": query.expr,
                "eval_time": f"{query.step * STEP_SECONDS}s",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in query.samples],
            }
            for query in case.queries
        ]
    return found


def _alert_test(expected: Expectation, annotations: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    templates = annotations[expected.alertname]
    return {
        "eval_time": f"{expected.step * STEP_SECONDS}s",
        "alertname": expected.alertname,
        "exp_alerts": [
            {
                "exp_labels": dict(labels),
                "exp_annotations": {key: expand(text, labels, value) for key, text in templates.items()},
            }
            for labels, value in expected.fires
        ],
    }


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
