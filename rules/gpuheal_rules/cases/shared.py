"""Cases for the rules that all faults share: what is known, what is remembered, and when that ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpuheal_rules.cases import memory
from gpuheal_rules.cases.world import (
    BUSES,
    NODE,
    STALE,
    STEP_SECONDS,
    UUIDS,
    Case,
    Query,
    Series,
    Timeline,
    World,
    always,
    between,
    event_time,
    lean,
    merged,
    settled,
    since,
    until,
)
from gpuheal_rules.cases.xid import EVENT, silent_about_codes
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.identity import IDENTITY, SOURCE_SEEN
from gpuheal_rules.groups.latch import PORTS_MOST

FAULT, CODE = "gpu-engine-fault", 62
GPU = {"gpu_uuid": UUIDS[1]}
SEEN = f'max(gpuheal:gpu_witnesses:count{{fault="{FAULT}", node="{NODE}"}})'


def cases(_catalogue: Catalogue) -> list[Case]:
    """Return the cases of identity, latches, settlements and the memory over an outage of Prometheus."""
    return [
        *_identity(),
        *_nodes(),
        *_deleted(),
        *_kernel(),
        *_dcgm(),
        *_lost(),
        *_owners(),
        *_confidence(),
        *_topology(),
        *memory.cases(),
    ]


def asked(expr: str, *expected: tuple[int, float | None]) -> list[Query]:
    """Return what `expr`, which gives one sample without labels or none, must give at each step."""
    return [Query(step=step, expr=expr, samples=[] if value is None else [("{}", value)]) for step, value in expected]


def _of(name: str, labels: str = "") -> str:
    return f'max({name}{{gpu_uuid="{UUIDS[1]}", node="{NODE}"{labels}}})'


def _case(name: str, series: Sequence[Series], *queries: Sequence[Query]) -> Case:
    found = [query for some in queries for query in some]
    return Case(name=name, series=series, queries=found, steps=max(query.step for query in found))


def _identity() -> list[Case]:
    state = _of("gpuheal:gpu_state")
    exporter = _of("gpuheal:gpu_identity", ', source="exporter"')
    fields = []
    for field in ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_SM_CLOCK"):
        world = lean(exporter=None)
        without = merged(world.series(), world.of_dcgm(field, 1, until(EVENT, 45.0)))
        fields.append(
            _case(f"Identity: a GPU that no longer shows {field} is there", without, asked(state, (EVENT + 10, 0)))
        )
    dropped = [
        Series(metric=s.metric, labels=s.labels, at=until(EVENT, 1.0))
        for s in lean(dcgm=None).series()
        if s.metric == "gpuheal_gpu_info" and s.labels["gpu_uuid"] == UUIDS[1]
    ]
    return [
        *fields,
        _case(
            "Identity: while the exporter is silent its GPUs are known, with the time they were first not shown",
            lean(dcgm=None, exporter=lambda step: step < EVENT).series(),
            asked(exporter, (EVENT - 1, 1), (EVENT, EVENT * STEP_SECONDS), (EVENT + 30, EVENT * STEP_SECONDS)),
        ),
        _case(
            "Identity: a GPU that the exporter takes from its inventory is not known from then on",
            merged(lean(dcgm=None).series(), dropped),
            asked(exporter, (EVENT - 1, 1), (EVENT, None), (EVENT + 1, None)),
        ),
    ]


def _nodes() -> list[Case]:
    known = f'max(gpuheal:gpu_node:info{{node="{NODE}"}})'
    capacity = World().of_ksm("kube_node_status_capacity", always(0), resource="nvidia_com_gpu", unit="integer")
    return [
        _case(
            "GPU node: Kubernetes' capacity is enough",
            World(exporter=None, dcgm=None).series(),
            asked(known, (EVENT, 1)),
        ),
        _case("GPU node: an exporter's GPUs are enough", lean().series(), asked(known, (EVENT, 1))),
        _case("GPU node: a capacity of none is not", capacity, asked(known, (EVENT, None))),
    ]


def _deleted() -> list[Case]:
    world, end = lean(dcgm=None), EVENT + 15
    port = world.of_exporter("gpuheal_rdma_port_state", {"device": "mlx5_0", "port": "1"}, always(4))
    shown = [*world.series(), *port]
    targets = [Series(metric=s.metric, labels=s.labels, at=_ending(s.at, end)) for s in shown]
    ksm = Series(metric="up", labels={"job": "kube-state-metrics", "instance": "10.0.0.2:8080"}, at=always(1))
    lists, listed = (
        World().of_ksm("kube_node_status_condition", at, condition="Ready", status="true")
        for at in (always(1), until(end, 1.0))
    )
    seen = f'max({SOURCE_SEEN}{{node="{NODE}", source="exporter"}})'
    last, gap, gone = float((end - 1) * STEP_SECONDS), end + 19, end + 22
    return [
        _alone(
            "Deleted: what was said of a node is forgotten five minutes after kube-state-metrics last listed it",
            [*targets, ksm, *listed],
            asked(seen, (gap, last), (gone, None)),
            asked(_of(IDENTITY), (gap, last + STEP_SECONDS), (gone, None)),
            asked(f'max({PORTS_MOST}{{node="{NODE}"}})', (gap, 1), (gone + 10, None)),
        ),
        _alone(
            "Deleted: a node without targets that kube-state-metrics lists is there",
            [*targets, ksm, *lists],
            asked(seen, (gone, last)),
        ),
        _alone(
            "Deleted: where nobody lists nodes, what is silent is remembered for its time",
            targets,
            asked(seen, (gone, last)),
        ),
    ]


def _ending(at: Timeline, step: int) -> Timeline:
    return lambda now: at(now) if now < step else STALE if now == step else None


def _alone(name: str, series: Sequence[Series], *queries: Sequence[Query]) -> Case:
    return replace(_case(name, series, *queries), alone=True)


def _kernel() -> list[Case]:
    world = lean()
    labels = {**GPU, "pci_bus_id": BUSES[1], "xid": str(CODE)}
    released = [
        *world.of_exporter("gpuheal_xid_latched", labels, between(EVENT, EVENT + 10, 1, 0)),
        *world.of_exporter("gpuheal_xid_last_timestamp_seconds", labels, since(EVENT, event_time(EVENT))),
    ]
    told = settled(FAULT, UUIDS[1], EVENT + 5, EVENT + 5)
    forgotten = Series(
        metric=told.metric, labels=told.labels, at=lambda s: told.at(s) if s < EVENT + 10 else until(EVENT + 10, 0)(s)
    )
    return [
        _case(
            "Latch: an Xid ends when the exporter no longer latches it",
            [*world.series(), *released],
            asked(SEEN, (EVENT, 1), (EVENT + 9, 1), (EVENT + 10, None)),
        ),
        _case(
            "Settlement: it is remembered when the responder that told it is gone",
            [*world.series(), *world.xid(1, CODE, EVENT), forgotten],
            asked(SEEN, (EVENT + 4, 1), (EVENT + 5, None), (EVENT + 60, None)),
        ),
    ]


def _with_code(world: World, code: Timeline) -> list[Series]:
    return [*silent_about_codes(world), *world.of_dcgm("DCGM_FI_DEV_XID_ERRORS", 1, code, err_code="0")]


def _dcgm() -> list[Case]:
    plain = lean(exporter=None)
    gap = lean(exporter=None, dcgm=lambda step: not EVENT + 5 <= step < EVENT + 15)
    ends = lean(exporter=None, dcgm=lambda step: step < EVENT + 5)
    counted = plain.of_dcgm("DCGM_EXP_XID_ERRORS_COUNT", 1, since(EVENT, 1, 0.0), xid=str(CODE))
    code: Timeline = lambda step: float(CODE) if EVENT <= step < EVENT + 25 else 0.0  # noqa: E731
    return [
        _case(
            "DCGM: a counted Xid shows the code as a label, and a count of none shows nothing",
            [*plain.series(), *counted],
            asked(SEEN, (EVENT - 1, None), (EVENT, 1)),
        ),
        _case(
            "DCGM: a code holds while dcgm-exporter is silent and ends when it shows none",
            _with_code(gap, code),
            asked(SEEN, (EVENT, 1), (EVENT + 14, 1), (EVENT + 24, 1), (EVENT + 25, None)),
        ),
        _case(
            "DCGM: what was shown an hour before dcgm-exporter fell silent no longer counts",
            _with_code(ends, since(EVENT, CODE, 0.0)),
            asked(SEEN, (EVENT + 100, 1), (EVENT + 250, None)),
        ),
    ]


def _lost() -> list[Case]:
    def gone(gpu: int, step: int) -> bool:
        return gpu != 1 or not EVENT <= step < EVENT + 20

    found = []
    for witness, grace in (("nvml", 0), ("dcgm", 4)):
        silent = "exporter" if witness == "nvml" else "dcgm"
        lost, began = _of("gpuheal:gpu_lost:info", f', class="{witness}"'), (EVENT + grace) * STEP_SECONDS
        start = _of("gpuheal:gpu_lost:since_seconds", f', class="{witness}"')
        away = lean(present=lambda gpu, step: gpu != 1 or step < EVENT, **{silent: lambda step: step < EVENT + 10})
        found += [
            _case(
                f"Lost to {witness}: the time it began holds, and ends with the loss",
                lean(present=gone).series(),
                asked(lost, (EVENT + grace - 1, None), (EVENT + grace, 1), (EVENT + 20, None)),
                asked(start, (EVENT + 10, began), (EVENT + 19, began), (EVENT + 20, None)),
            ),
            _case(
                f"Lost to {witness}: the time it began outlasts the silence of the source",
                away.series(),
                asked(start, (EVENT + 9, began), (EVENT + 40, began)),
                asked(lost, (EVENT + 40, None)),
            ),
        ]
    return found + _unproven() + _returning()


def _returning() -> list[Case]:
    lost = _of("gpuheal:gpu_lost:info", ', class="dcgm"')
    late = lean(
        exporter=None,
        dcgm=lambda step: not EVENT <= step < EVENT + 10,
        present=lambda gpu, step: gpu != 1 or not EVENT <= step < EVENT + 13,
    )
    dying = lean(
        exporter=None,
        dcgm=lambda step: step < EVENT + 3,
        present=lambda gpu, step: gpu != 1 or step < EVENT,
    )
    return [
        _case(
            "Lost to dcgm: not by a dcgm-exporter that has just begun to answer",
            late.series(),
            asked(lost, *((step, None) for step in range(EVENT + 9, EVENT + 20))),
        ),
        _case(
            "Lost to dcgm: not by a dcgm-exporter that fell silent before the GPU was away for long",
            dying.series(),
            asked(lost, *((step, None) for step in range(EVENT, EVENT + 10))),
        ),
    ]


def _owners() -> list[Case]:
    suspect = f'max(gpuheal:gpu_witnesses:count{{fault="gpu-suspect-repeat", node="{NODE}"}})'
    world = lean()

    def pods(*held: tuple[int, int], named: str = "job-{}") -> list[Series]:
        found: list[Series] = []
        for index, (first, last) in enumerate(held):
            labels = {**GPU, "exported_namespace": "team-a", "exported_pod": named.format("abc"[index], index)}
            found += world.of_exporter("gpuheal_gpu_pod_info", labels, between(first, last, 1))
        return found

    state = _of("gpuheal:gpu_state")
    return [
        _case(
            "Owners: a settlement counts them anew, and the GPU stays suspect for a quarter of an hour",
            [
                *world.series(),
                *world.xid(1, 31, EVENT),
                *pods((0, EVENT + 2), (0, EVENT + 2), (0, EVENT + 2)),
                settled("gpu-suspect-repeat", UUIDS[1], EVENT + 20, EVENT + 20),
            ],
            asked(suspect, (EVENT + 19, 1), (EVENT + 20, None)),
            asked(state, (EVENT + 19, 2), (EVENT + 70, 2), (EVENT + 85, 0)),
        ),
        _case(
            "Owners: three that failed one after the other make a suspect",
            [
                *world.series(),
                *world.xid(1, 31, EVENT, last=EVENT + 60),
                *world.xid(1, 13, EVENT + 30),
                *pods((0, EVENT + 2), (EVENT + 28, EVENT + 32), (EVENT + 58, EVENT + 62)),
            ],
            asked(suspect, (EVENT + 58, None), (EVENT + 62, 1)),
        ),
        _case(
            "Owners: workers of one training job that failed one after the other are one",
            [
                *world.series(),
                *world.xid(1, 31, EVENT, last=EVENT + 60),
                *world.xid(1, 13, EVENT + 30),
                *pods((0, EVENT + 2), (EVENT + 28, EVENT + 32), (EVENT + 58, EVENT + 62), named="job-worker-{1}"),
            ],
            asked(suspect, (EVENT + 62, None)),
        ),
        _case(
            "Owners: those that held the GPU when nothing failed do not count",
            [
                *world.series(),
                *world.xid(1, 31, EVENT),
                *pods((0, EVENT + 2), (EVENT + 40, EVENT + 42), (EVENT + 60, EVENT + 62)),
            ],
            asked(suspect, (EVENT + 62, None), (EVENT + 70, None)),
        ),
    ]


def _confidence() -> list[Case]:
    def ratio(fault: str) -> str:
        return f'max(gpuheal:fault_confidence:ratio{{fault="{fault}", node="{NODE}"}})'

    world = lean(dcgm=None)
    both = lean()
    return [
        _case(
            "Confidence: one strong witness makes a fault probable",
            [*world.series(), *world.xid(1, CODE, EVENT)],
            asked(ratio(FAULT), (EVENT, 0.9)),
        ),
        _case(
            "Confidence: two classes of witnesses confirm a fault",
            [*_with_code(both, since(EVENT, CODE, 0.0)), *both.xid(1, CODE, EVENT)],
            asked(ratio(FAULT), (EVENT, 0.99)),
        ),
        _case(
            "Confidence: the driver's own verdict confirms by itself",
            [*world.series(), *world.of_exporter("gpuheal_gpu_recovery_action", GPU, since(EVENT, 2, 0.0))],
            asked(ratio("gpu-recovery-required"), (EVENT, 0.99)),
        ),
        _case(
            "Confidence: weak evidence of a mild fault makes a suspicion",
            [*world.series(), *world.of_exporter("gpuheal_gpu_row_remap_banks", {**GPU, "spare": "low"}, always(1))],
            asked(ratio("gpu-ecc-trend"), (EVENT, 0.6)),
        ),
    ]


def _unproven() -> list[Case]:
    lost = _of("gpuheal:gpu_lost:info", ', class="nvml"')
    gone = lean(present=lambda gpu, step: gpu != 1 or step < EVENT)
    late = lean(present=lambda gpu, step: gpu != 1 or step < EVENT + 12)
    stuck = late.of_exporter(
        "gpuheal_exporter_heartbeat_timestamp_seconds", {}, lambda step: float(min(step, EVENT) * STEP_SECONDS)
    )
    standing = gone.of_exporter("gpuheal_exporter_heartbeat_timestamp_seconds", {}, always(0))
    return [
        _case(
            "Lost to nvml: not while NVML itself does not answer",
            merged(gone.series(), gone.of_exporter("gpuheal_nvml_up", {}, since(EVENT, 0, 1.0))),
            asked(lost, (EVENT + 10, None)),
        ),
        _case(
            "Lost to dcgm: an exporter that stands still is no second opinion",
            merged([*lean(dcgm=None).series(), *lean(exporter=None, present=gone.present).series()], standing),
            asked(_of("gpuheal:gpu_lost:info", ', class="dcgm"'), (EVENT + 12, 1)),
        ),
        _case(
            "Lost to nvml: not by an exporter that stands still",
            merged(late.series(), stuck),
            asked(lost, (EVENT + 20, None)),
        ),
    ]


def _topology() -> list[Case]:
    zone_only = lean(topology={"zone": "z1"})
    silent = World(exporter=None, dcgm=None)
    fewer = silent.of_ksm("kube_node_status_allocatable", always(1), resource="nvidia_com_gpu", unit="integer")
    return [
        _case(
            "Topology: a fault of a node that no exporter speaks for is active as well",
            merged(silent.series(), fewer),
            asked(f'max(gpuheal:fault_active:count{{fault="gpu-missing", node="{NODE}"}})', (EVENT, 1)),
        ),
        Case(
            name="Topology: a node without a rack keeps its zone",
            series=[*zone_only.series(), *zone_only.xid(1, CODE, EVENT)],
            queries=[
                Query(
                    step=EVENT,
                    expr=f'max by (rack, zone) (gpuheal:fault_active:count{{fault="{FAULT}", node="{NODE}"}})',
                    samples=[('{zone="z1"}', 1.0)],
                )
            ],
            steps=EVENT,
        ),
    ]
