"""Cases for what is given back after a start of Prometheus: what was alive in the last snapshot, for a few minutes."""

from __future__ import annotations

from gpuheal_rules.cases.world import NODE, UUIDS, Case, Query, Series, always, between, lean, merged, since
from gpuheal_rules.catalogue.model import Evidence, Fault
from gpuheal_rules.groups.identity import IDENTITY, NODE_KNOWN, SOURCE_SEEN
from gpuheal_rules.groups.latch import DCGM_XID, LOST, PORT_DOWN
from gpuheal_rules.groups.memory import SINCE, STATES, TAKEN, TIMED, kept
from gpuheal_rules.promql.rule import EVIDENCE, GPU_GONE, GPU_SHOWN, recovered

EARLY, SECOND, LATE = 3, 8, 24
"""Steps of an evaluation soon after the start, of the slow group's second one, and of its first one that is too late.

promtool 2.42 evaluates every group at every step.
"""
BEFORE = 50.0
"""What a series said before the outage."""
ALIVE = 1e9
"""When it was there last: at the last snapshot, whenever that was."""
LONG_AGO = -1e6
"""A time that no rule counts any more, so that none shows the series again and takes it into the next snapshot."""

LAST = Series(metric=TAKEN, labels={}, at=between(1, 2, 0.0))
"""The last snapshot before the start; after it none is taken for a while."""
LISTED = Series(
    metric="kube_node_status_condition",
    labels={"job": "kube-state-metrics", "node": NODE, "condition": "Ready", "status": "true"},
    at=always(1),
)
"""Kubernetes knows the node: of one that was deleted nothing is remembered."""


def cases() -> list[Case]:
    """Return a case for each remembered series, and those of rules that go on from what is given back."""
    remembered = [(name, kept(name, "at"), 100.0) for name in STATES] + [(GPU_SHOWN, kept(GPU_SHOWN), 1.0)]
    return [
        *(_timed(name) for name in TIMED),
        *(_given_back(name, at, value) for name, at, value in remembered),
        *_lost(),
        *(_known(name) for name in (GPU_GONE, GPU_SHOWN)),
        Case(
            name="A node that a source spoke for is known after an outage of Prometheus before anything was scraped",
            series=_snapshot(SOURCE_SEEN, source="exporter"),
            queries=[
                Query(step=EARLY, expr=f'max({NODE_KNOWN}{{node="{NODE}"}})', samples=[("{}", 1.0)]),
                Query(step=LATE + 4, expr=f'max({NODE_KNOWN}{{node="{NODE}"}})'),
            ],
            steps=LATE + 4,
            alone=True,
        ),
        *_ports(),
        *_codes(),
        Case(
            name="Memory begins when a Prometheus without data first hears a source",
            series=lean(dcgm=None).series(),
            # The slow group may look before the first source is heard, and then two minutes later.
            queries=[Query(step=LATE, expr=f"count({SINCE} < 200)", samples=[("{}", 1.0)])],
            steps=LATE,
            alone=True,
        ),
    ]


def over_an_outage(fault: Fault, evidence: Evidence, source: str) -> Case:
    """Return the case of evidence whose source has not been heard since Prometheus started anew."""
    return Case(
        name=f"{fault.slug} ({evidence.witness} {evidence.name}) holds over an outage of Prometheus while it is silent",
        series=[*_snapshot(SOURCE_SEEN, source=source), LISTED, *_evidence(fault, evidence)],
        queries=[_seen(fault, evidence, step) for step in (EARLY, SECOND, LATE + 4)],
        steps=LATE + 4,
        alone=source == "ksm",
    )


def until_looked_at(fault: Fault, evidence: Evidence) -> Case:
    """Return the case of evidence that rests on facts of the slow group, whose source has been heard again."""
    return Case(
        name=f"{fault.slug} ({evidence.witness} {evidence.name}) holds after a start until the slow group looked at it",
        series=[*lean().series(), *_evidence(fault, evidence)],
        queries=[
            *(_seen(fault, evidence, step) for step in (EARLY, SECOND)),
            _seen(fault, evidence, LATE + 4, held=False),
        ],
        steps=LATE + 4,
    )


def _evidence(fault: Fault, evidence: Evidence) -> list[Series]:
    labels = {"fault": fault.slug, "class": evidence.witness, "signal": evidence.name, "strength": evidence.strength}
    return _snapshot(EVIDENCE, **labels, **({"gpu_uuid": UUIDS[1]} if fault.scope == "gpu" else {}))


def _seen(fault: Fault, evidence: Evidence, step: int, *, held: bool = True) -> Query:
    of = f'fault="{fault.slug}", class="{evidence.witness}", signal="{evidence.name}"'
    samples = [("{}", BEFORE)] if held else []
    return Query(step=step, expr=f'max({EVIDENCE}{{{of}, node="{NODE}"}})', samples=samples)


def _snapshot(name: str, **labels: str) -> list[Series]:
    """Return what the last snapshot before the start has of one series of the node."""
    labels = {"node": NODE, **labels}
    found = [Series(metric=kept(name), labels=labels, at=between(0, 1, BEFORE))]
    alive = Series(metric=kept(name, "at"), labels=labels, at=between(0, 1, ALIVE))
    return found if name in TIMED else [*found, alive, LAST]


def _lost() -> list[Case]:
    found = []
    # dcgm-exporter is heard anew so late that nobody knows yet what it showed four scrapes ago.
    for witness, source, heard in (("nvml", "exporter", 2), ("dcgm", "dcgm", SECOND - 3)):
        silent = "dcgm" if source == "exporter" else "exporter"
        own = {"gpu_uuid": UUIDS[1], "class": witness}
        remembered = _snapshot(LOST, **own)
        gone = _snapshot(GPU_GONE, gpu_uuid=UUIDS[1], source=source)
        began = f'max({LOST}{{gpu_uuid="{UUIDS[1]}", node="{NODE}", class="{witness}"}})'
        still = lean(present=lambda gpu, _step: gpu != 1, **{source: since(heard, 1.0, 0.0), silent: None})
        found += [
            Case(
                name=f"Lost to {witness}: the time it began is the same after an outage of Prometheus",
                series=[*series, *remembered, *gone],
                queries=[Query(step=step, expr=began, samples=[("{}", BEFORE)]) for step in (SECOND, LATE + 4)],
                steps=LATE + 4,
            )
            for series in (still.series(), [*_snapshot(SOURCE_SEEN, source=source), LISTED])
        ]
    return found


def _known(name: str) -> Case:
    gpu = {"node": NODE, "gpu_uuid": UUIDS[1], "source": "dcgm"}
    shown = [Series(metric=kept(name), labels=gpu, at=between(0, 1, ALIVE)), LAST]
    identity = f'count({IDENTITY}{{gpu_uuid="{UUIDS[1]}", node="{NODE}", source="dcgm"}} > 1)'
    what = "was gone" if name == GPU_GONE else "was shown"
    return Case(
        name=f"A GPU that {what}, and its node, are known after an outage of Prometheus before anything was scraped",
        series=shown if name == GPU_SHOWN else _snapshot(name, gpu_uuid=UUIDS[1], source="dcgm"),
        queries=[
            Query(step=LATE + 4, expr=identity, samples=[("{}", 1.0)]),
            Query(step=LATE + 4, expr=f'max({NODE_KNOWN}{{node="{NODE}"}})', samples=[("{}", 1.0)]),
        ],
        steps=LATE + 4,
        alone=True,
    )


def _codes() -> list[Case]:
    latch = _snapshot(DCGM_XID, gpu_uuid=UUIDS[1], xid="62")
    world = lean(exporter=None)
    code = world.of_dcgm("DCGM_FI_DEV_XID_ERRORS", 1, since(2, 62, 0.0), err_code="0", err_msg="No Error")
    views = {
        "is silent": [*_snapshot(SOURCE_SEEN, source="dcgm"), LISTED],
        "still shows it": merged(world.series(), code),
    }
    return [
        Case(
            name=f"A code that dcgm-exporter showed before an outage of Prometheus has its time while it {how}",
            series=[*series, *latch],
            queries=[
                Query(step=step, expr=f'max({DCGM_XID}{{xid="62", node="{NODE}"}})', samples=[("{}", BEFORE)])
                for step in (EARLY, LATE + 4)
            ],
            steps=LATE + 4,
        )
        for how, series in views.items()
    ]


def _ports() -> list[Case]:
    port = {"device": "mlx5_3", "port": "1"}
    expr = f'count({PORT_DOWN}{{node="{NODE}", device="mlx5_3"}})'
    world = lean()
    shown = {
        "down": world.of_exporter("gpuheal_rdma_port_state", port, always(1)),
        "gone": world.of_exporter("gpuheal_rdma_exclusive", {}, always(0)),
    }
    return [
        Case(
            name=f"A port that is {how} counts after an outage of Prometheus until the slow group has looked at it",
            series=[*series, *_snapshot(PORT_DOWN, **port)],
            queries=[Query(step=EARLY, expr=expr, samples=[("{}", 1.0)]), Query(step=LATE + 4, expr=expr)],
            steps=LATE + 4,
        )
        for how, series in shown.items()
    ]


def _timed(name: str) -> Case:
    labels = {"node": NODE, "gpu_uuid": "GPU-alive"}
    return Case(
        name=f"Memory of {name}: after a start what the last snapshot showed is given back, and later nothing is",
        series=[Series(metric=kept(name), labels=labels, at=between(0, LATE + 2, 100))],
        queries=[_back(name, SECOND, 100.0, "GPU-alive"), _back(name, LATE, 100.0)],
        steps=LATE + 1,
        alone=True,
    )


def _given_back(name: str, at: str, value: float) -> Case:
    alive, gone = ({"node": NODE, "gpu_uuid": f"GPU-{what}"} for what in ("alive", "gone"))
    states = (
        []
        if at == kept(name)
        else [Series(metric=kept(name), labels=labels, at=between(0, LATE + 2, 100)) for labels in (alive, gone)]
    )
    return Case(
        name=f"Memory of {name}: after a start only what the last snapshot showed is given back, and later nothing is",
        series=[
            *states,
            LAST,
            Series(metric=at, labels=alive, at=between(0, LATE + 2, ALIVE)),
            Series(metric=at, labels=gone, at=between(0, 1, LONG_AGO)),
        ],
        queries=[_back(name, SECOND, value, "GPU-alive"), _back(name, LATE, value)],
        steps=LATE + 1,
        alone=True,
    )


def _back(name: str, step: int, value: float, *uuids: str) -> Query:
    """Return what is given back; without its name: that is what was asked for."""
    expr = f'max by (gpu_uuid, node) ({recovered(name)}{{gpu_uuid=~"GPU-(alive|gone)|"}})'
    samples = [(f'{{gpu_uuid="{uuid}", node="{NODE}"}}', value) for uuid in uuids]
    return Query(step=step, expr=expr, samples=samples)
