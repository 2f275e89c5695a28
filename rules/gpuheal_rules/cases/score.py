"""Cases for the state of a GPU, the health score of parity row A11, and the tier of a node."""

from __future__ import annotations

from gpuheal_rules.cases.growth import GROWTH
from gpuheal_rules.cases.world import NODE, UUIDS, Case, Query, Series, World, always, lean, merged, since, until
from gpuheal_rules.cases.xid import EVENT
from gpuheal_rules.catalogue.model import Catalogue

TIERS = ("critical-training", "inference", "preemptible")


def cases(_catalogue: Catalogue) -> list[Case]:
    """Return the cases of score, tier, state and node guards."""
    world = World()
    gpu = {"gpu_uuid": UUIDS[1]}
    links = world.of_exporter("gpuheal_gpu_nvlinks_active", gpu, always(9))
    warm = world.of_dcgm("DCGM_FI_DEV_GPU_TEMP", 1, always(89.5))
    oven = world.of_dcgm("DCGM_FI_DEV_GPU_TEMP", 1, always(120))
    # Where the device knows its own limit, the fixed number does not count.
    unlimited = [s for s in world.series() if s.metric != "gpuheal_gpu_temperature_margin_celsius"]
    throttled = world.of_exporter("gpuheal_gpu_clocks_event", {**gpu, "reason": "hw_thermal"}, always(1))
    pending = world.of_exporter("gpuheal_gpu_row_remap_pending", gpu, always(1))
    fault = world.xid(1, 62, EVENT)
    corrected = Series(
        metric=GROWTH, labels={"node": NODE, "gpu_uuid": UUIDS[1], "signal": "ecc_corrected"}, at=always(500)
    )
    lost = World(present=lambda index, step: index != 1 or step < EVENT)
    return [
        _scored("a healthy GPU scores 1", world.series(), 1.0, "critical-training"),
        _scored("an Xid of the hardware costs 0.4", merged(world.series(), fault), 0.6, "preemptible"),
        _scored("half of the links cost 0.15", merged(world.series(), links), 0.85, "inference"),
        _scored("half way to the slowdown limit costs 0.05", merged(unlimited, warm), 0.95, "critical-training"),
        _scored("heat costs 0.1 at most", merged(unlimited, oven), 0.9, "inference"),
        _scored("heat costs nothing where the device's margin is wide", merged(world.series(), oven), 1.0, TIERS[0]),
        _scored("clocks held by heat cost 0.1", merged(world.series(), throttled), 0.9, "inference"),
        _scored("a memory repair costs 0.2", merged(world.series(), pending), 0.8, "inference"),
        _scored("half a day's corrected errors cost 0.1", [*world.series(), corrected], 0.9, "inference"),
        _state("a GPU with an Xid of the hardware is faulty", [*world.series(), *fault], 3),
        _state("a GPU with Xid 79 that is there is faulty", [*world.series(), *world.xid(1, 79, EVENT)], 3),
        _state("a GPU that is gone is lost", lost.series(), 4),
        _state("a GPU with a memory repair is degraded", merged(world.series(), pending), 1),
        _partly(),
        _untiered("inference", links),
        _untiered("preemptible", fault),
        _scored("losses multiply", merged(world.series(), [*links, *fault, *pending]), 0.6 * 0.85 * 0.8, "preemptible"),
        _scored("a lost GPU scores 0", lost.series(), 0.0, "preemptible"),
        _unknown(),
        _recovers(),
        _suspect(),
        _unsure("nvml-down", [Series(metric=s.metric, labels=s.labels, at=since(EVENT, 0, 1.0))
                              for s in World(dcgm=None).series() if s.metric == "gpuheal_nvml_up"]),
        _no_inventory(),
        _frozen(),
        _frozen_between_rare_scrapes(),
        *_witnessed(world, fault),
    ]  # fmt: skip


def _witnessed(world: World, fault: list[Series]) -> list[Case]:
    gpu = {"gpu_uuid": UUIDS[1]}
    return [
        Case(
            name="Witnesses: the driver's verdict through DCGM confirms a fault that the kernel log shows",
            series=[
                *world.series(),
                *fault,
                *world.of_dcgm("DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION", 1, always(2)),
            ],
            queries=[
                Query(
                    step=EVENT,
                    expr=f"max({_node('gpuheal:gpu_witnesses:count', fault='gpu-engine-fault')})",
                    samples=[("{}", 2.0)],
                ),
            ],
            steps=EVENT,
        ),
        Case(
            name="Witnesses: weak evidence of a severe fault counts beside strong evidence",
            series=[
                *world.series(),
                *world.xid(1, 48, EVENT),
                *world.of_exporter(
                    "gpuheal_gpu_ecc_errors_total", {**gpu, "severity": "uncorrected", "counter": "volatile"}, always(1)
                ),
            ],
            queries=[
                Query(step=EVENT - 1, expr=_node("gpuheal:gpu_witnesses:count")),
                Query(
                    step=EVENT,
                    expr=f"max({_node('gpuheal:gpu_witnesses:count', fault='gpu-memory-uncontained')})",
                    samples=[("{}", 2.0)],
                ),
            ],
            steps=EVENT,
        ),
        Case(
            name="State: an exporter counts from its first scrape on",
            series=lean(exporter=lambda step: step >= EVENT, dcgm=None).series(),
            queries=[Query(step=EVENT, expr=_gpu("gpuheal:gpu_state"), samples=[(_gpu("gpuheal:gpu_state"), 0.0)])],
            steps=EVENT,
        ),
    ]


def _gpu(name: str) -> str:
    return f'{name}{{gpu_uuid="{UUIDS[1]}", node="{NODE}"}}'


def _node(name: str, **labels: str) -> str:
    more = "".join(f', {key}="{value}"' for key, value in labels.items())
    return f'{name}{{node="{NODE}"{more}}}'


def _scored(fact: str, series: list[Series], score: float, tier: str) -> Case:
    step = EVENT + 70
    rounded = f"round({_gpu('gpuheal:gpu_score')}, 0.0001)"
    return Case(
        name=f"Score: {fact}",
        series=series,
        queries=[
            Query(step=step, expr=rounded, samples=[(f'{{gpu_uuid="{UUIDS[1]}", node="{NODE}"}}', round(score, 4))]),
            Query(
                step=step,
                expr=f"round({_node('gpuheal:node_score')}, 0.0001)",
                samples=[(f'{{node="{NODE}"}}', round(score, 4))],
            ),
            Query(
                step=step,
                expr=_node("gpuheal:node_tier"),
                samples=[(f'gpuheal:node_tier{{node="{NODE}", tier="{tier}"}}', 1.0)],
            ),
        ],
        steps=step,
    )


def _state(fact: str, series: list[Series], state: float) -> Case:
    expr = _gpu("gpuheal:gpu_state")
    return Case(
        name=f"State: {fact}",
        series=series,
        queries=[Query(step=EVENT + 8, expr=expr, samples=[(expr, state)])],
        steps=EVENT + 8,
    )


def _unseen(world: World, gpu: int, end: int) -> list[Series]:
    """Return that the exporter no longer says whether the GPU is present, from step `end` on."""
    return [
        Series(metric=s.metric, labels=s.labels, at=until(end, 1.0))
        for s in world.series()
        if s.metric == "gpuheal_gpu_present" and s.labels["gpu_uuid"] == UUIDS[gpu]
    ]


def _partly() -> Case:
    world = lean(dcgm=None)
    other = f'gpuheal:gpu_score{{gpu_uuid="{UUIDS[0]}", node="{NODE}"}}'
    return Case(
        name="Score: a node has none while one of its GPUs is unknown",
        series=merged(world.series(), _unseen(world, 1, EVENT)),
        queries=[
            Query(step=EVENT + 1, expr=other, samples=[(other, 1.0)]),
            Query(step=EVENT + 1, expr=_node("gpuheal:node_score")),
        ],
        steps=EVENT + 1,
    )


def _untiered(tier: str, worse: list[Series]) -> Case:
    world = World(dcgm=None)
    end = EVENT + 70
    known = _node("gpuheal:node_tier")
    return Case(
        name=f"Tier: a node of tier {tier} has none while one of its GPUs is unknown",
        series=merged(world.series(), [*worse, *_unseen(world, 0, end)]),
        queries=[
            Query(step=end - 1, expr=known, samples=[(_node("gpuheal:node_tier", tier=tier), 1.0)]),
            Query(step=end + 1, expr=known),
        ],
        steps=end + 1,
    )


def _unknown() -> Case:
    silent = World(exporter=lambda step: step < EVENT, dcgm=lambda step: step < EVENT)
    return Case(
        name="State: a silent node's GPUs are unknown and have neither score nor tier",
        series=silent.series(),
        queries=[
            Query(step=EVENT - 1, expr=_gpu("gpuheal:gpu_state"), samples=[(_gpu("gpuheal:gpu_state"), 0.0)]),
            Query(step=EVENT, expr=_gpu("gpuheal:gpu_state"), samples=[(_gpu("gpuheal:gpu_state"), 5.0)]),
            Query(step=EVENT, expr=_gpu("gpuheal:gpu_score")),
            Query(step=EVENT, expr=_node("gpuheal:node_score")),
            Query(step=EVENT, expr=_node("gpuheal:node_tier")),
        ],
        steps=EVENT,
    )


def _unsure(name: str, changed: list[Series]) -> Case:
    return Case(
        name=f"State: GPUs that neither NVML nor dcgm-exporter shows are unknown ({name})",
        series=merged(World(dcgm=None).series(), changed),
        queries=[
            Query(step=EVENT - 1, expr=_gpu("gpuheal:gpu_state"), samples=[(_gpu("gpuheal:gpu_state"), 0.0)]),
            Query(step=EVENT, expr=_gpu("gpuheal:gpu_state"), samples=[(_gpu("gpuheal:gpu_state"), 5.0)]),
        ],
        steps=EVENT,
    )


def _no_inventory() -> Case:
    bare = [s for s in lean(dcgm=None).series() if s.metric != "gpuheal_gpu_present"]
    return Case(
        name="State: an exporter that reads the kernel log only cannot call a GPU well",
        series=bare,
        queries=[Query(step=EVENT, expr=_gpu("gpuheal:gpu_state"), samples=[(_gpu("gpuheal:gpu_state"), 5.0)])],
        steps=EVENT,
    )


def _frozen() -> Case:
    world = lean(dcgm=None)
    still = world.of_exporter("gpuheal_exporter_heartbeat_timestamp_seconds", {}, lambda s: min(s, EVENT) * 15.0)
    state = _gpu("gpuheal:gpu_state")
    return Case(
        name="State: what a frozen exporter shows is old, so its GPUs are unknown, and known again when it moves",
        series=merged(world.series(), still),
        queries=[
            Query(step=EVENT + 6, expr=state, samples=[(state, 0.0)]),
            Query(step=EVENT + 8, expr=state, samples=[(state, 5.0)]),
        ],
        steps=EVENT + 8,
    )


def _frozen_between_rare_scrapes() -> Case:
    """At one scrape a minute two minutes hold too few samples to judge by; five do."""
    world = lean(dcgm=None)
    last = EVENT - EVENT % 4
    still = [
        Series(metric=s.metric, labels=s.labels, at=lambda step: None if step % 4 else min(step, last) * 15.0)
        for s in world.of_exporter("gpuheal_exporter_heartbeat_timestamp_seconds", {}, always(0))
    ]
    state = _gpu("gpuheal:gpu_state")
    return Case(
        name="State: an exporter that is scraped once a minute is seen to be frozen within five minutes",
        series=merged(world.series(), still),
        queries=[
            Query(step=last + 15, expr=state, samples=[(state, 0.0)]),
            Query(step=last + 17, expr=state, samples=[(state, 5.0)]),
        ],
        steps=last + 17,
    )


def _recovers() -> Case:
    end = EVENT + 10
    world = World()
    quarter = end + 60

    def tier(step: int, name: str) -> Query:
        return Query(
            step=step,
            expr=_node("gpuheal:node_tier"),
            samples=[(f'gpuheal:node_tier{{node="{NODE}", tier="{name}"}}', 1.0)],
        )

    return Case(
        name="Tier: a node falls at once and rises a quarter of an hour after its last bad score",
        series=[*world.series(), *world.xid(1, 62, EVENT, cleared=end)],
        queries=[
            tier(EVENT - 1, "critical-training"),
            tier(EVENT, "preemptible"),
            tier(quarter - 2, "preemptible"),
            tier(quarter + 1, "critical-training"),
            Query(step=quarter - 2, expr=_node("gpuheal:node_score"), samples=[(_node("gpuheal:node_score"), 1.0)]),
        ],
        steps=quarter + 1,
    )


def _suspect() -> Case:
    world = World()
    found = world.xid(1, 31, EVENT)
    for index in range(3):
        labels = {"gpu_uuid": UUIDS[1], "namespace": "team-a", "pod": f"job-{'abc'[index]}", "container": "c"}
        found += world.of_exporter("gpuheal_gpu_pod_info", labels, always(1))
    two = {"gpu_uuid": UUIDS[0], "namespace": "team-a", "container": "c"}
    for index in range(2):
        found += world.of_exporter("gpuheal_gpu_pod_info", {**two, "pod": f"job-{'abc'[index]}"}, always(1))
    state = f'gpuheal:gpu_state{{node="{NODE}"}}'
    expected = [
        (f'gpuheal:gpu_state{{gpu_uuid="{UUIDS[0]}", node="{NODE}"}}', 0.0),
        (f'gpuheal:gpu_state{{gpu_uuid="{UUIDS[1]}", node="{NODE}"}}', 2.0),
    ]
    return Case(
        name="State: application Xids under three owners make a GPU suspect, nothing more",
        series=[*world.series(), *found, *world.xid(0, 31, EVENT)],
        queries=[
            Query(step=EVENT, expr=state, samples=expected),
            Query(
                step=EVENT + 1,
                expr=f'count(gpuheal:gpu_witnesses:count{{node="{NODE}", fault!~"app-gpu-error|gpu-suspect-repeat"}})',
            ),
        ],
        steps=EVENT + 1,
    )
