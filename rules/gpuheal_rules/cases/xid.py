"""Cases for faults that an Xid shows: the latch, its settlement, and what must not end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gpuheal_rules.cases.world import (
    BUSES,
    NODE,
    OTHER_NODE,
    STEP_SECONDS,
    TOPOLOGY,
    UUIDS,
    Case,
    Expectation,
    Query,
    Series,
    World,
    event_time,
    lean,
    settled,
    since,
)
from gpuheal_rules.catalogue.model import Alert, Catalogue, Fault
from gpuheal_rules.groups.alerts import static_labels
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import WITNESS

EVENT = 10
"""Step whose scrape is the first to show the event: some minutes of healthy telemetry come before it."""


LONG = "gpu-fell-off-bus"
"""The fault whose cases include the hours-long ones; they prove rules that all faults share."""


def silent_about_codes(world: World) -> list[Series]:
    """Return the healthy series without the code that dcgm-exporter shows for the second GPU."""
    return [s for s in world.series() if not (s.metric == "DCGM_FI_DEV_XID_ERRORS" and s.labels["UUID"] == UUIDS[1])]


def instance(
    fault: Fault, alert: Alert, gpu: int | None = 1, node: str = NODE, topology: Mapping[str, str] = TOPOLOGY
) -> dict[str, str]:
    """Return the labels of one instance of a fault's alert, without alertname."""
    found = {**static_labels(fault, alert, Options()), "node": node, **topology}
    return found if gpu is None else {**found, "gpu_uuid": UUIDS[gpu]}


def cases(catalogue: Catalogue, fault: Fault, alert: Alert) -> list[Case]:
    """Return the cases of an Xid fault with an alert that fires at once."""
    code = fault.xids[0]
    fires, quiet = _fires(fault, alert), Expectation(step=EVENT - 1, alertname=alert.name)
    wait = round(alert.wait.total_seconds() / STEP_SECONDS)
    first = EVENT + wait
    return [
        Case(
            name=f"{alert.name} fires for each Xid of the fault, within one evaluation of the scrape that shows it",
            series=[*lean().series(), *_codes(fault, EVENT)],
            alerts=[quiet, fires(first), fires(first + 8)],
            queries=[_others_quiet(fault, first), *_witness(fault, first, EVENT)],
            steps=first + 8,
        ),
        Case(
            name=f"{alert.name} is quiet for Xids of other faults",
            series=[*lean().series(), *lean().xid(1, _foreign(catalogue, fault), EVENT)],
            alerts=[Expectation(step=EVENT + 10 + wait, alertname=alert.name)],
            steps=EVENT + 10 + wait,
        ),
        _boot(fault, alert, code, wait),
        _settlement(fault, alert, code, wait),
        _restart(fault, alert, code, wait),
        *([_silent(fault, alert, code, wait)] if fault.slug == LONG else []),
        _node_lost(fault, alert, code, wait),
        *([_prometheus_gap(fault, alert, code, wait)] if fault.slug == LONG else []),
        *(_dcgm_alone(fault, alert, clear, wait) for clear in _numbers(catalogue, fault, weak=False)[:1]),
        *(_dcgm_number(alert, weak, wait) for weak in _numbers(catalogue, fault, weak=True)[:1]),
        *([_upgraded(fault, alert, code)] if fault.upgrade else []),
        *(
            [*(_downgraded(fault, alert, code, said) for said in HARMLESS), _in_full(fault, code)]
            if fault.downgrade
            else []
        ),
    ]


def _numbers(catalogue: Catalogue, fault: Fault, *, weak: bool) -> list[int]:
    """Return the fault's codes that the number alone judges, or does not."""
    return [code for code in fault.xids if (code in catalogue.weak_numbers) is weak]


def _fires(fault: Fault, alert: Alert, value: float = 1, gpu: int = 1) -> Callable[[int], Expectation]:
    return lambda step: Expectation(step=step, alertname=alert.name, fires=[(instance(fault, alert, gpu), value)])


def _codes(fault: Fault, first: int) -> list[Series]:
    return [series for code in fault.xids for series in lean().xid(1, code, first)]


def _foreign(catalogue: Catalogue, fault: Fault) -> int:
    other = "gpu-fell-off-bus" if fault.slug == "app-gpu-error" else "app-gpu-error"
    return catalogue.fault(other).xids[-1]


def _others_quiet(fault: Fault, step: int) -> Query:
    own = "|".join([alert.name for alert in fault.alerts] + ["GPUHealWatchdog"])
    return Query(step=step, expr=f'count(ALERTS{{alertstate="firing", alertname!~"{own}", node="{NODE}"}})')


def _witness(fault: Fault, step: int, event: int) -> list[Query]:
    of = f'{{fault="{fault.slug}", class="{fault.witness}", node="{NODE}"}}'
    labels = f'class="{fault.witness}", fault="{fault.slug}", gpu_uuid="{UUIDS[1]}", node="{NODE}", strength="strong"'
    return [Query(step=step, expr=f"{WITNESS}{of}", samples=[(f"{WITNESS}{{{labels}}}", event_time(event))])]


def _boot(fault: Fault, alert: Alert, code: int, wait: int) -> Case:
    cleared = EVENT + wait + 12
    return Case(
        name=f"{alert.name} resolves when the exporter drops the latch at a boot or an Xid 154 with value 0",
        series=[*lean().series(), *lean().xid(1, code, EVENT, cleared=cleared)],
        alerts=[_fires(fault, alert)(cleared - 1), Expectation(step=cleared, alertname=alert.name)],
        steps=cleared + 1,
    )


def _settlement(fault: Fault, alert: Alert, code: int, wait: int) -> Case:
    first, again = EVENT + wait, EVENT + wait + 14
    fires = _fires(fault, alert)
    return Case(
        name=f"{alert.name} resolves when its evidence is settled and fires again for a later event only",
        series=[
            *lean().series(),
            *lean().xid(1, code, EVENT, last=again),
            settled(fault.slug, UUIDS[1], first + 6, EVENT),
            settled(fault.slug, UUIDS[0], EVENT, first + 90),
            settled("another-fault", UUIDS[1], EVENT, first + 90),
            settled(fault.slug, UUIDS[1], EVENT, first + 90, node=OTHER_NODE),
        ],
        alerts=[
            fires(first + 5),
            Expectation(step=first + 6, alertname=alert.name),
            Expectation(step=again - 1, alertname=alert.name),
            fires(again + wait),
        ],
        steps=again + wait + 1,
    )


def _restart(fault: Fault, alert: Alert, code: int, wait: int) -> Case:
    event, restart = EVENT, EVENT + wait + 10
    down = range(restart - 2, restart + 3)
    own = f'ALERTS{{alertname="{alert.name}", alertstate="firing", node="{NODE}"}}'
    world = lean(exporter=lambda step: step not in down, restart_at=restart)
    fires = _fires(fault, alert)
    return Case(
        name=f"{alert.name} stays one alert, without a break, while the exporter restarts under another address",
        series=[*world.series(), *world.xid(1, code, event)],
        alerts=[fires(step) for step in range(restart - 3, restart + 6)],
        queries=[
            Query(
                step=restart + 5,
                expr=f"count_over_time({own}[2m]) > bool 7",
                samples=[(_alerts(fault, alert), 1.0)],
            )
        ],
        steps=restart + 6,
    )


def _silent(fault: Fault, alert: Alert, code: int, wait: int) -> Case:
    silent = EVENT + wait + 8
    hold = 3600 // STEP_SECONDS
    world = lean(exporter=lambda step: step < silent, dcgm=None)
    fires = _fires(fault, alert)
    return Case(
        name=f"{alert.name} holds for an hour of silence and then gives way to the state unknown",
        series=[*world.series(), *world.xid(1, code, EVENT)],
        alerts=[
            fires(silent + 4),
            fires(silent + hold - 2),
            Expectation(step=silent + hold + 1, alertname=alert.name),
        ],
        queries=[
            Query(
                step=silent + hold + 1,
                expr=f'gpuheal:gpu_state{{node="{NODE}"}}',
                samples=[(f'gpuheal:gpu_state{{gpu_uuid="{uuid}", node="{NODE}"}}', 5.0) for uuid in UUIDS],
            )
        ],
        steps=silent + hold + 1,
    )


def _node_lost(fault: Fault, alert: Alert, code: int, wait: int) -> Case:
    lost = EVENT + wait + 8
    world = lean(exporter=lambda step: step < lost, dcgm=lambda step: step < lost)
    back = lean(node=OTHER_NODE)
    return Case(
        name=f"{alert.name} holds when the whole node falls silent, and says nothing about other nodes",
        series=[*world.series(), *world.xid(1, code, EVENT), *back.series()],
        alerts=[_fires(fault, alert)(lost + 8)],
        steps=lost + 8,
    )


def _prometheus_gap(fault: Fault, alert: Alert, code: int, wait: int) -> Case:
    gap = range(EVENT + wait + 5, EVENT + wait + 30)

    def unseen(series: Series) -> Series:
        return Series(
            metric=series.metric, labels=series.labels, at=lambda step: None if step in gap else series.at(step)
        )

    raw: Sequence[Series] = [*lean().series(), *lean().xid(1, code, EVENT)]
    return Case(
        name=f"{alert.name} fires after a gap in which Prometheus itself scraped nothing",
        series=[unseen(series) for series in raw],
        alerts=[_fires(fault, alert)(gap.stop + wait), _fires(fault, alert)(gap.stop + wait + 4)],
        steps=gap.stop + wait + 4,
    )


def _dcgm_alone(fault: Fault, alert: Alert, code: int, wait: int) -> Case:
    world = lean(exporter=None)
    fires = _fires(fault, alert)
    first = EVENT + wait
    settle, restart = first + 8, first + 12
    gauge = [
        *world.of_dcgm(
            "DCGM_FI_DEV_XID_ERRORS", 1, lambda s: float(code) if EVENT <= s < EVENT + 5 else None, err_code="a"
        ),
        *world.of_dcgm("DCGM_FI_DEV_XID_ERRORS", 1, lambda s: 45.0 if EVENT + 5 <= s < restart else None, err_code="b"),
    ]
    return Case(
        name=f"{alert.name} fires on dcgm-exporter alone, holds when Xid 45 overwrites the code, and can be settled",
        series=[*silent_about_codes(world), *gauge, settled(fault.slug, UUIDS[1], settle, settle)],
        alerts=[
            Expectation(step=EVENT - 1, alertname=alert.name),
            fires(first),
            fires(settle - 1),
            Expectation(step=settle, alertname=alert.name),
        ],
        queries=[
            Query(
                step=settle - 1,
                expr=f'gpuheal:fault_confidence:ratio{{fault="{fault.slug}", node="{NODE}"}}',
                samples=[
                    (
                        f'gpuheal:fault_confidence:ratio{{fault="{fault.slug}", gpu_uuid="{UUIDS[1]}", node="{NODE}"}}',
                        0.9,
                    )
                ],
            )
        ],
        steps=restart,
    )


def _dcgm_number(alert: Alert, code: int, wait: int) -> Case:
    world = lean(exporter=None)
    gauge = world.of_dcgm("DCGM_FI_DEV_XID_ERRORS", 1, since(EVENT, code, 0.0), err_code="a")
    end = EVENT + wait + 8
    told = f'count(ALERTS{{alertname="GPUOtherXid", alertstate="firing", gpu_uuid="{UUIDS[1]}", node="{NODE}"}})'
    return Case(
        name=f"{alert.name} is quiet on the number {code} of dcgm-exporter alone, which is told and judges nothing",
        series=[*silent_about_codes(world), *gauge],
        alerts=[Expectation(step=step, alertname=alert.name) for step in (EVENT, end)],
        queries=[Query(step=end, expr=told, samples=[("{}", 1.0)])],
        steps=end,
    )


def _upgraded(fault: Fault, alert: Alert, code: int) -> Case:
    world = lean()
    info = {"gpu_uuid": UUIDS[1], "pci_bus_id": BUSES[1], "xid": str(code), "basis": "message", "blames": ""}
    worse = f'max(gpuheal:gpu_witnesses:count{{fault="{fault.upgrade}", node="{NODE}"}})'
    return Case(
        name=f"{alert.name} is quiet, and the severer fault is seen, when the line itself asks for a reset",
        series=[
            *world.series(),
            *world.xid(1, code, EVENT),
            *world.of_exporter("gpuheal_xid_resolution_info", {**info, "action": "gpu_reset"}, since(EVENT, 1)),
        ],
        alerts=[Expectation(step=EVENT + wait, alertname=alert.name) for wait in (0, 8)],
        queries=[Query(step=EVENT + 8, expr=worse, samples=[("{}", 1.0)])],
        steps=EVENT + 8,
    )


HARMLESS = (
    {"action": "none", "blames": ""},
    {"action": "alert", "blames": ""},
    {"action": "gpu_reset", "blames": "peer"},
)
"""What the line of an Xid can say that makes it no fault of this GPU."""


def _milder_cases(fault: Fault, alert: Alert, code: int) -> list[Case]:
    return [*(_downgraded(fault, alert, code, said) for said in HARMLESS), _in_full(fault, code)]


def _downgraded(fault: Fault, alert: Alert, code: int, about: Mapping[str, str]) -> Case:
    world = lean()
    info = {"gpu_uuid": UUIDS[1], "pci_bus_id": BUSES[1], "xid": str(code), **about}
    says = " and ".join(f"{key} {value}" for key, value in about.items() if value)
    return Case(
        name=f"{alert.name} is quiet, and the milder fault is seen, when the line says {says}",
        series=[
            *silent_about_codes(world),
            *world.xid(1, code, EVENT),
            *world.of_exporter("gpuheal_xid_resolution_info", info, since(EVENT, 1)),
            *world.of_dcgm("DCGM_FI_DEV_XID_ERRORS", 1, since(EVENT, code, 0.0), err_code="a"),
        ],
        alerts=[Expectation(step=EVENT + wait, alertname=alert.name) for wait in (0, 8)],
        queries=[
            Query(step=EVENT + 8, expr=_milder(fault), samples=[("{}", 1.0)]),
            Query(
                step=EVENT + 8,
                expr=f'max({WITNESS}{{fault="{fault.downgrade}", class="kernel", node="{NODE}"}})',
                samples=[("{}", event_time(EVENT))],
            ),
        ],
        steps=EVENT + 8,
    )


def _in_full(fault: Fault, code: int) -> Case:
    return Case(
        name=f"{fault.slug} is not the milder fault as well when nothing is said about its line",
        series=[*lean().series(), *lean().xid(1, code, EVENT)],
        queries=[Query(step=EVENT + 8, expr=_milder(fault))],
        steps=EVENT + 8,
    )


def _milder(fault: Fault) -> str:
    return f'max(gpuheal:gpu_witnesses:count{{fault="{fault.downgrade}", node="{NODE}"}})'


def _alerts(fault: Fault, alert: Alert) -> str:
    labels = {**instance(fault, alert), "alertname": alert.name, "alertstate": "firing"}
    return "{" + ", ".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"
