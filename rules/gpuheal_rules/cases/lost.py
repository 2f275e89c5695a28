"""Cases for GPUs that are gone: their series end while the exporters answer."""

from __future__ import annotations

from collections.abc import Callable

from gpuheal_rules.cases.world import NODE, STEP_SECONDS, UUIDS, Case, Expectation, Query, lean, settled
from gpuheal_rules.cases.xid import EVENT, instance
from gpuheal_rules.catalogue.model import Alert, Fault

GRACE = 5
"""Evaluations after the last sighting until dcgm-exporter's silence about a GPU counts: four scrapes have passed."""


def cases(fault: Fault, alert: Alert) -> list[Case]:
    """Return the cases of a lost GPU."""
    return [_both(fault, alert), _dcgm(fault, alert), _blip(alert), _all(alert), _settled(fault, alert),
            _replaced(fault, alert), _three(fault, alert), _exporter_down(fault, alert)]  # fmt: skip


def _gone(first: int, last: int | None = None) -> Callable[[int, int], bool]:
    return lambda gpu, step: gpu != 1 or step < first or (last is not None and step >= last)


def _state(step: int, *states: float) -> Query:
    samples = [(f'gpuheal:gpu_state{{gpu_uuid="{u}", node="{NODE}"}}', s) for u, s in zip(UUIDS, states, strict=True)]
    return Query(step=step, expr=f'gpuheal:gpu_state{{node="{NODE}"}}', samples=samples)


def _fires(fault: Fault, alert: Alert, step: int, value: float) -> Expectation:
    return Expectation(step=step, alertname=alert.name, fires=[(instance(fault, alert), value)])


def _both(fault: Fault, alert: Alert) -> Case:
    world = lean(present=_gone(EVENT, EVENT + 30))
    return Case(
        name=f"{alert.name} fires when NVML loses a GPU, is joined by dcgm-exporter, and resolves when the GPU is back",
        series=world.series(),
        alerts=[
            Expectation(step=EVENT - 1, alertname=alert.name),
            _fires(fault, alert, EVENT, 1),
            _fires(fault, alert, EVENT + GRACE, 2),
            _fires(fault, alert, EVENT + 29, 2),
            Expectation(step=EVENT + 30, alertname=alert.name),
        ],
        queries=[_state(EVENT - 1, 0, 0), _state(EVENT, 0, 4), _state(EVENT + 30, 0, 0)],
        steps=EVENT + 31,
    )


def _dcgm(fault: Fault, alert: Alert) -> Case:
    world = lean(exporter=None, present=_gone(EVENT))
    return Case(
        name=f"{alert.name} fires on dcgm-exporter alone, and remembers the lost GPU for hours",
        series=world.series(),
        alerts=[
            Expectation(step=EVENT + GRACE - 2, alertname=alert.name),
            _fires(fault, alert, EVENT + GRACE, 1),
            _fires(fault, alert, EVENT + 260, 1),
        ],
        queries=[
            Query(
                step=EVENT + 260,
                expr=f'max by (source) (gpuheal:gpu_identity{{gpu_uuid="{UUIDS[1]}", node="{NODE}"}})',
                samples=[('{source="dcgm"}', EVENT * STEP_SECONDS)],
            ),
            _state(EVENT + 260, 0, 4),
        ],
        steps=EVENT + 260,
    )


def _blip(alert: Alert) -> Case:
    world = lean(exporter=None, present=_gone(EVENT, EVENT + 3), dcgm=lambda s: not EVENT + 10 <= s < EVENT + 20)
    return Case(
        name=f"{alert.name} is quiet when dcgm-exporter misses a GPU for three scrapes, or is itself away",
        series=world.series(),
        alerts=[Expectation(step=step, alertname=alert.name) for step in range(EVENT, EVENT + 30)],
        steps=EVENT + 30,
    )


def _all(alert: Alert) -> Case:
    world = lean(exporter=None, present=lambda _gpu, step: step < EVENT)
    told = f'count(ALERTS{{alertname="GPUHealGPUsNotShown", alertstate="firing", node="{NODE}"}})'
    unknown = f'max(gpuheal:gpu_state{{gpu_uuid="{UUIDS[1]}", node="{NODE}"}})'
    return Case(
        name=f"{alert.name} is quiet when dcgm-exporter answers and shows no GPU: that is told, all are unknown",
        series=world.series(),
        alerts=[Expectation(step=step, alertname=alert.name) for step in (EVENT + GRACE, EVENT + 20)],
        queries=[
            Query(step=EVENT + 20, expr=told, samples=[("{}", 1.0)]),
            Query(step=EVENT + 20, expr=unknown, samples=[("{}", 5.0)]),
        ],
        steps=EVENT + 20,
    )


def _settled(fault: Fault, alert: Alert) -> Case:
    world = lean(present=_gone(EVENT))
    return Case(
        name=f"{alert.name} resolves when a loss is settled that began before the settlement",
        series=[*world.series(), settled(fault.slug, UUIDS[1], EVENT + 20, EVENT + 20)],
        alerts=[
            _fires(fault, alert, EVENT + 19, 2),
            Expectation(step=EVENT + 20, alertname=alert.name),
            Expectation(step=EVENT + 60, alertname=alert.name),
        ],
        steps=EVENT + 60,
    )


def _replaced(fault: Fault, alert: Alert) -> Case:
    world = lean(exporter=None, present=_gone(EVENT))
    new = lean(exporter=None, uuids=(UUIDS[0], "GPU-22222222-0000-0000-0000-000000000001"))
    swap = EVENT + 40
    fresh = [
        series
        for metric in ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_SM_CLOCK")
        for series in new.of_dcgm(metric, 1, lambda step: 40.0 if step >= swap else None)
    ]
    return Case(
        name=f"{alert.name} resolves when another GPU stands in the slot of the lost one",
        series=[*world.series(), *fresh],
        alerts=[_fires(fault, alert, swap, 1), Expectation(step=swap + 1, alertname=alert.name)],
        steps=swap + 1,
    )


def _three(fault: Fault, alert: Alert) -> Case:
    world = lean(present=_gone(EVENT))
    asks = [
        s for s in world.series()
        if not (s.metric == "gpuheal_gpu_recovery_action" and s.labels["gpu_uuid"] == UUIDS[1])
    ]  # fmt: skip
    verdict = world.of_exporter(
        "gpuheal_gpu_recovery_action", {"gpu_uuid": UUIDS[1]}, lambda step: 2.0 if step >= EVENT else 0.0
    )
    key = f'fault="{fault.slug}", gpu_uuid="{UUIDS[1]}", node="{NODE}"'
    return Case(
        name=f"{alert.name} counts kernel, NVML, DCGM and the driver's verdict as four witnesses of one GPU",
        series=[*asks, *verdict, *world.xid(1, 79, EVENT)],
        alerts=[_fires(fault, alert, EVENT, 3), _fires(fault, alert, EVENT + GRACE, 4)],
        queries=[
            Query(
                step=EVENT + GRACE,
                expr=f'gpuheal:fault_confidence:ratio{{fault="{fault.slug}", node="{NODE}"}}',
                samples=[(f"gpuheal:fault_confidence:ratio{{{key}}}", 0.99)],
            )
        ],
        steps=EVENT + GRACE,
    )


def _exporter_down(fault: Fault, alert: Alert) -> Case:
    world = lean(exporter=lambda s: s < EVENT + 10, dcgm=lambda s: s < EVENT + 10, present=_gone(EVENT))
    return Case(
        name=f"{alert.name} of a lost GPU holds when its exporters fall silent: silence is no recovery",
        series=world.series(),
        alerts=[_fires(fault, alert, EVENT + 9, 2), _fires(fault, alert, EVENT + 60, 2)],
        steps=EVENT + 60,
    )
