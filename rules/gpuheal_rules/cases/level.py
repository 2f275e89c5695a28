"""Cases for evidence that is a level: it fires while it holds, holds through silence of its source, and resolves."""

from __future__ import annotations

from collections.abc import Sequence

from gpuheal_rules.cases import growth, memory, variants
from gpuheal_rules.cases.shows import SEEN, bad_value, good_value, limit, of_signal, show
from gpuheal_rules.cases.world import NODE, STEP_SECONDS, UUIDS, Case, Expectation, Query, World, lean, merged
from gpuheal_rules.cases.xid import EVENT, instance
from gpuheal_rules.catalogue.model import Alert, Catalogue, Evidence, Fault
from gpuheal_rules.groups.evidence import BRIDGED, rests_on_slow_facts, source_of
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import OPEN

NODE_WIDE = ("sxid_degraded",)
"""Special evidence of a GPU fault that cannot name the GPU."""

LONGEST = 120
"""Steps after which a healthy node is not looked at any more, however long an alert of a site waits."""
LAGGING = {"pcie_below_maximum": 9}
"""Steps some evidence may come and go later: it is recorded in the slow group."""
PATIENT = {"fabric_stuck": 40, "dcgm_fabric_stuck": 40}
"""Steps some evidence has to hold before it counts."""

STAMPS = {"other_number": float(EVENT * STEP_SECONDS)}
"""Times that timed evidence gives where it is not the event's own: dcgm-exporter does not show when an Xid was."""

LINGERING = {"suspect_owners": 5760, "rdma_port_down": 0}
"""Steps some evidence outlives what it shows."""


def cases(catalogue: Catalogue, fault: Fault, alert: Alert) -> list[Case]:
    """Return the cases of all evidence of a fault but growth and lost GPUs seen by dcgm-exporter."""
    found: list[Case] = []
    for evidence in fault.evidence:
        source = source_of(catalogue, Options(), evidence)
        if source in BRIDGED:
            found.append(memory.over_an_outage(fault, evidence, source))
        if rests_on_slow_facts(evidence):
            found.append(memory.until_looked_at(fault, evidence))
        if evidence.growth == "1h":
            found += growth.cases(catalogue, fault, alert, evidence)
        if evidence.growth == "24h":
            found += growth.of_a_day(catalogue, fault, alert, evidence)
        if evidence.growth or evidence.special == "lost_dcgm":
            continue
        found += variants.cases(catalogue, fault, evidence)
        weak_of_severe = evidence.strength == "weak" and fault.state == "faulty"
        if weak_of_severe:
            found += _weak(catalogue, fault, alert, evidence)
            continue
        found.append(_fires(catalogue, fault, alert, evidence))
        if evidence.special or source in BRIDGED:
            found.append(_silent(catalogue, fault, alert, evidence))
        if evidence.guarded:
            found.append(_guarded(catalogue, fault, alert, evidence))
        if evidence.leave:
            found.append(_hysteresis(catalogue, fault, alert, evidence))
        if evidence.signal:
            found.append(_edge(catalogue, alert, evidence))
    if found:
        found.append(_nothing(catalogue, fault, alert))
    return found


def _nothing(catalogue: Catalogue, fault: Fault, alert: Alert) -> Case:
    of_cluster = any(
        s.labels.get("job") == "kube-state-metrics"
        for evidence in fault.evidence
        if not evidence.growth and evidence.special != "lost_dcgm"
        for s in show(catalogue, evidence)(World(), lambda _step: True)
    )
    silent = (lambda s: s < EVENT) if of_cluster else (lambda _s: True)
    world = World(exporter=lambda s: s < EVENT, dcgm=lambda s: s < EVENT, ksm=silent)
    evident = f'count(gpuheal:fault_evidence:last_seen_seconds{{fault="{fault.slug}", node="{NODE}"}})'
    return Case(
        name=f"{alert.name} has no evidence when all sources of a node that is well fall silent",
        series=world.series(),
        queries=[Query(step=step, expr=evident) for step in (EVENT - 1, EVENT + 4)],
        steps=EVENT + 4,
        alone=of_cluster,
    )


def healthy(alerts: Sequence[Alert]) -> list[Case]:
    """Return the cases in which every alert must be silent: a node that is well, and no data at all."""
    nothing = f'count(ALERTS{{alertname!="GPUHealWatchdog", node=~"|{NODE}"}})'
    end = EVENT + min(max(_wait(alert) for alert in alerts), LONGEST) + 5
    quiet = [Expectation(step=step, alertname=alert.name) for alert in alerts for step in (EVENT, end)]
    return [
        Case(
            name="No alert fires, or is about to, on healthy telemetry",
            series=World().series(),
            alerts=quiet,
            queries=[Query(step=step, expr=nothing) for step in (1, EVENT, end)],
            steps=end,
            alone=True,
        ),
        Case(
            name="No alert fires without any data",
            series=[],
            alerts=[e for e in quiet if e.step == EVENT],
            queries=[Query(step=EVENT, expr=nothing)],
            steps=EVENT,
            alone=True,
        ),
    ]


def _wait(alert: Alert) -> int:
    return -(-round(alert.wait.total_seconds()) // STEP_SECONDS)


def _instance(fault: Fault, alert: Alert, evidence: Evidence) -> dict[str, str]:
    gpu = None if fault.scope != "gpu" or evidence.special in NODE_WIDE else 1
    return instance(fault, alert, gpu)


def _expect(fault: Fault, alert: Alert, evidence: Evidence, step: int) -> Expectation:
    return Expectation(step=step, alertname=alert.name, fires=[(_instance(fault, alert, evidence), 1.0)])


def _title(alert: Alert, evidence: Evidence) -> str:
    return f"{alert.name} ({evidence.witness} {evidence.name})"


def _fires(catalogue: Catalogue, fault: Fault, alert: Alert, evidence: Evidence) -> Case:
    lag = LAGGING.get(evidence.special, 0)
    patience = PATIENT.get(evidence.special, 0)
    first = EVENT + patience + _wait(alert) + lag
    end = first + 8
    shown = show(catalogue, evidence)
    world = World(rich=bool(evidence.special))
    lasting = evidence.special in LINGERING and LINGERING[evidence.special] > 0
    quiet = [Expectation(step=EVENT + patience + _wait(alert) - 1, alertname=alert.name)]
    resolved = [] if lasting else [Expectation(step=end + lag, alertname=alert.name)]
    return Case(
        name=f"{_title(alert, evidence)} fires after its wait, not earlier, and resolves when the evidence ends",
        series=merged(world.series(), shown(world, lambda step: EVENT <= step < end)),
        alerts=[*quiet, *(_expect(fault, alert, evidence, s) for s in (first, end - 1)), *resolved],
        queries=[_stamped(fault, evidence, first)] if evidence.timed else [],
        steps=end + lag,
    )


def _stamped(fault: Fault, evidence: Evidence, step: int) -> Query:
    of = f'{{fault="{fault.slug}", class="{evidence.witness}", signal="{evidence.name}", node="{NODE}"}}'
    return Query(step=step, expr=f"max({OPEN}{of})", samples=[("{}", STAMPS.get(evidence.special, SEEN))])


def _silent(catalogue: Catalogue, fault: Fault, alert: Alert, evidence: Evidence) -> Case:
    down = EVENT + _wait(alert) + 3 + LAGGING.get(evidence.special, 0) + PATIENT.get(evidence.special, 0)
    shown = show(catalogue, evidence)
    of_cluster = any(s.labels.get("job") == "kube-state-metrics" for s in shown(World(), lambda _step: True))
    silent = (lambda s: s < down) if of_cluster else (lambda _s: True)
    world = World(exporter=lambda s: s < down, dcgm=lambda s: s < down, ksm=silent, rich=bool(evidence.special))
    return Case(
        name=f"{_title(alert, evidence)} holds when all its sources fall silent: no data is no recovery",
        series=merged(world.series(), shown(world, lambda step: step >= EVENT)),
        alerts=[_expect(fault, alert, evidence, down + 8)],
        steps=down + 8,
        alone=of_cluster,
    )


def _guarded(catalogue: Catalogue, fault: Fault, alert: Alert, evidence: Evidence) -> Case:
    shown = show(catalogue, evidence)
    guard = 40
    world = World(booted_at=0.0)
    first = guard + _wait(alert)
    return Case(
        name=f"{_title(alert, evidence)} does not count during the first ten minutes after a boot",
        series=merged(world.series(), shown(world, lambda step: step >= 1)),
        alerts=[
            *(Expectation(step=step, alertname=alert.name) for step in (guard - 1, first - 1)),
            _expect(fault, alert, evidence, first),
        ],
        steps=first,
    )


def _weak(catalogue: Catalogue, fault: Fault, alert: Alert, evidence: Evidence) -> list[Case]:
    shown = show(catalogue, evidence)
    end = EVENT + 6
    count = (
        f'count({OPEN}{{fault="{fault.slug}", signal="{evidence.name}", class="{evidence.witness}", node="{NODE}"}})'
    )
    if fault.scope == "gpu":
        count = count.replace("})", f', gpu_uuid="{UUIDS[1]}"}})')
    held = [("{}", 1.0)]

    def case(fact: str, silent_from: int, queries: list[Query]) -> Case:
        world = World(
            exporter=lambda step: step < silent_from, dcgm=lambda step: step < silent_from, rich=bool(evidence.special)
        )
        return Case(
            name=f"{_title(alert, evidence)} is quiet on weak evidence alone, which {fact}",
            series=merged(world.series(), shown(world, lambda step: EVENT <= step < end)),
            alerts=[Expectation(step=step, alertname=alert.name) for step in (EVENT, end - 1, end + 4)],
            queries=queries,
            steps=end + 4,
        )

    return [
        case(
            "ends with what it shows",
            999,
            [
                Query(step=end - 1, expr=count, samples=held),
                Query(step=end, expr=count),
                *([_stamped(fault, evidence, end - 1)] if evidence.timed else []),
            ],
        ),
        case("holds when its sources fall silent", end, [Query(step=end + 4, expr=count, samples=held)]),
    ]


def _edge(catalogue: Catalogue, alert: Alert, evidence: Evidence) -> Case:
    signal = catalogue.signals[evidence.signal]
    good = good_value(catalogue, evidence)
    world = lean()
    end = EVENT + _wait(alert) + 10
    return Case(
        name=f"{_title(alert, evidence)} is quiet at the value {good:g}, on its side of the limit",
        series=merged(world.series(), of_signal(world, signal, lambda _step: good)),
        alerts=[Expectation(step=end, alertname=alert.name)],
        steps=end,
    )


def _hysteresis(catalogue: Catalogue, fault: Fault, alert: Alert, evidence: Evidence) -> Case:
    signal = catalogue.signals[evidence.signal]
    enter, leave = limit(catalogue, evidence), catalogue.thresholds[evidence.leave].value
    middle = (enter + leave) / 2
    first = EVENT + _wait(alert)
    world = lean()

    def at(step: int) -> float:
        if step < EVENT:
            return middle
        return bad_value(catalogue, evidence) if step < first + 2 else middle if step < first + 12 else leave

    return Case(
        name=f"{_title(alert, evidence)} does not begin between its two limits, and does not end there",
        series=merged(world.series(), of_signal(world, signal, at)),
        alerts=[
            Expectation(step=EVENT - 1, alertname=alert.name),
            _expect(fault, alert, evidence, first),
            _expect(fault, alert, evidence, first + 11),
            Expectation(step=first + 12, alertname=alert.name),
        ],
        queries=[Query(step=EVENT - 1, expr=f'gpuheal:fault_evidence:last_seen_seconds{{node="{NODE}"}}')],
        steps=first + 12,
    )
