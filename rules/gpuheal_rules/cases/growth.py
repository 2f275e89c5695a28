"""Cases for error counters that grow: within the window, after a reset, and old errors that are no news."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gpuheal_rules.cases.shows import limit, of_signal
from gpuheal_rules.cases.world import (
    NODE,
    STALE,
    STEP_SECONDS,
    UUIDS,
    Case,
    Expectation,
    Query,
    Series,
    Timeline,
    Value,
    lean,
    merged,
    since,
)
from gpuheal_rules.cases.xid import EVENT, instance
from gpuheal_rules.catalogue.model import Alert, Catalogue, Evidence, Fault
from gpuheal_rules.groups.trend import fields_of

GROWTH, GROWTH_HOUR = "gpuheal:gpu_counter:growth24h", "gpuheal:gpu_counter:growth1h"
HOUR = 3600 // STEP_SECONDS
BEGIN = HOUR + 8
"""A step at which the slow group is evaluated as well: current promtool honours the interval of each group."""


def of_a_day(catalogue: Catalogue, fault: Fault, alert: Alert, evidence: Evidence) -> list[Case]:
    """Return the cases of a growth within a day, with the growth itself as input: a day of steps would be too long."""
    number = limit(catalogue, evidence)
    bad, good = (number, number - 1) if evidence.op == ">=" else (number + 1, number)
    title = f"{alert.name} ({evidence.witness} {evidence.name})"
    first = EVENT + -(-round(alert.wait.total_seconds()) // STEP_SECONDS)
    end = first + 6
    fires = [(instance(fault, alert), 1.0)]

    def case(fact: str, up: Callable[[int], bool], at: Timeline, alerts: list[Expectation]) -> Case:
        labels = {"node": NODE, "gpu_uuid": UUIDS[1], "signal": evidence.signal}
        series = [*lean(exporter=up, dcgm=up).series(), Series(metric=GROWTH, labels=labels, at=at)]
        return Case(name=f"{title} {fact}", series=series, alerts=alerts, steps=end + 6)

    def grown(step: int) -> Value:
        return bad if EVENT <= step < end else STALE if step == end else None

    counter = f'max(gpuheal:gpu_counter:sum{{signal="{evidence.signal}", node="{NODE}"}})'
    world = lean()
    counted = merged(world.series(), of_signal(world, catalogue.signals[evidence.signal], lambda _step: 7.0))
    return [
        Case(
            name=f"{title} counts what its counter shows",
            series=counted,
            queries=[Query(step=20, expr=counter, samples=[("{}", 7.0)])],
            steps=20,
        ),
        *(
            Case(
                name=f"{title} counts what its counter shows as {name}",
                series=[*world.series(), *world.of_dcgm(name, 1, lambda _step: 7.0)],
                queries=[Query(step=20, expr=counter, samples=[("{}", 7.0)])],
                steps=20,
            )
            for name in _other_names(catalogue, evidence)
        ),
        case(
            "fires for a growth beyond the limit and resolves without it",
            lambda _step: True,
            grown,
            [
                Expectation(step=first - 1, alertname=alert.name),
                Expectation(step=first, alertname=alert.name, fires=fires),
                Expectation(step=end, alertname=alert.name),
            ],
        ),
        case(
            "holds when its sources fall silent",
            lambda step: step < end,
            grown,
            [Expectation(step=end + 6, alertname=alert.name, fires=fires)],
        ),
        case(
            "is quiet for a growth at the limit",
            lambda _step: True,
            lambda _step: good,
            [Expectation(step=end, alertname=alert.name)],
        ),
    ]


def cases(catalogue: Catalogue, fault: Fault, alert: Alert, evidence: Evidence) -> list[Case]:
    """Return the cases of a growth within an hour."""
    number = limit(catalogue, evidence)
    title = f"{alert.name} ({evidence.witness} {evidence.name})"
    # The slow group may be evaluated after the main one, and up to eight steps later.
    first = BEGIN + 9 + -(-round(alert.wait.total_seconds()) // STEP_SECONDS)
    fires = [
        Expectation(step=BEGIN - 1, alertname=alert.name),
        Expectation(step=first, alertname=alert.name, fires=[(instance(fault, alert), 1.0)]),
    ]
    quiet = [Expectation(step=step, alertname=alert.name) for step in (30, BEGIN, first + 8)]

    end = first + 4
    lapsed = end + 12
    """By then the slow group has been evaluated again."""

    def case(fact: str, at: Timeline, alerts: list[Expectation], silent: int = 9999) -> Case:
        world = lean(exporter=lambda step: step < silent, dcgm=lambda step: step < silent)
        series = merged(world.series(), of_signal(world, catalogue.signals[evidence.signal], at))
        return Case(name=f"{title} {fact}", series=series, alerts=alerts, steps=max(a.step for a in alerts))

    appears: Timeline = lambda s: number + 1 if s >= BEGIN else None  # noqa: E731
    if catalogue.signals[evidence.signal].source == "dcgm":
        born = [
            case("fires when a counter that was zero grows", lambda s: number + 1 if s >= BEGIN else 0.0, fires),
            case("is quiet when the field is shown for the first time", appears, quiet),
        ]
    else:
        born = [case("fires when a counter that was left out at zero grows", appears, fires)]
    return [
        case(
            "resolves when the counter is gone",
            lambda s: 500.0 + (number + 1 if s >= BEGIN else 0) if s < end else None,
            [*fires, Expectation(step=lapsed, alertname=alert.name)],
        ),
        case(
            "holds when its sources fall silent",
            lambda s: 500.0 + (number + 1 if s >= BEGIN else 0),
            [*fires, replace(fires[1], step=lapsed)],
            end,
        ),
        *born,
        *_every_field(catalogue, evidence),
        case("fires when a counter grows", lambda s: 500.0 + (number + 1 if s >= BEGIN else 0), fires),
        case("fires when a counter restarts and grows", lambda s: number + 1 if s >= BEGIN else 9000.0, fires),
        case("is quiet for growth at the limit", lambda s: 500.0 + (number if s >= BEGIN else 0), quiet),
        case("is quiet for old errors seen for the first time", lambda _s: 9000.0, quiet),
    ]


def _other_names(catalogue: Catalogue, evidence: Evidence) -> Sequence[str]:
    """Return all names of a dcgm-exporter signal's fields but the first."""
    signal = catalogue.signals[evidence.signal]
    return signal.metrics[1:] if signal.source == "dcgm" else ()


def _older_names(catalogue: Catalogue, evidence: Evidence) -> list[str]:
    """Return the older names of the fields of a dcgm-exporter signal."""
    signal = catalogue.signals[evidence.signal]
    return [name for names in fields_of(signal) for name in names[1:]] if signal.source == "dcgm" else []


def _every_field(catalogue: Catalogue, evidence: Evidence) -> list[Case]:
    """Return the cases of fields that were zero: each is counted by itself, and under each of its names."""
    signal, world = catalogue.signals[evidence.signal], lean()
    grown_hour = f'max({GROWTH_HOUR}{{signal="{signal.name}", node="{NODE}"}})'
    older = [
        Case(
            name=f"{signal.name}: {name} that was zero an hour ago counts with what it has grown",
            series=[*world.series(), *world.of_dcgm(name, 1, since(BEGIN, 5, 0.0))],
            queries=[Query(step=BEGIN + 9, expr=grown_hour, samples=[("{}", 5.0)])],
            steps=BEGIN + 9,
        )
        for name in _older_names(catalogue, evidence)
    ]
    fields = [names[0] for names in fields_of(signal)] if signal.source == "dcgm" else []
    if len(fields) < 2:
        return older
    # Powers of two: every sum is of other fields.
    grown = [s for n, field in enumerate(fields) for s in world.of_dcgm(field, 1, since(BEGIN, 2.0**n, 0.0))]
    return [
        *older,
        Case(
            name=f"{signal.name}: each of its fields that was zero an hour ago counts with what it has grown",
            series=[*world.series(), *grown],
            queries=[Query(step=BEGIN + 9, expr=grown_hour, samples=[("{}", 2.0 ** len(fields) - 1)])],
            steps=BEGIN + 9,
        ),
    ]
