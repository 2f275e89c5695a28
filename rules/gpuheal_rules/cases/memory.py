"""Cases for what is given back after a start of Prometheus: what was alive in the last snapshot, for a few minutes."""

from __future__ import annotations

from gpuheal_rules.cases.world import NODE, UUIDS, Case, Query, Series, between, lean, since
from gpuheal_rules.catalogue.model import Evidence, Fault
from gpuheal_rules.groups.identity import IDENTITY, SOURCE_SEEN
from gpuheal_rules.groups.latch import LOST
from gpuheal_rules.groups.memory import REMEMBERED, kept
from gpuheal_rules.promql.rule import EVIDENCE, recovered

SECOND, LATE = 8, 16
"""Steps of the slow group's second evaluation, and of its first one that is too long after the start.

promtool evaluates every group at every step, so each of them takes a snapshot.
"""
BEFORE = 50.0
"""What a series said before the outage."""
LONG_AGO = -1e6
"""A time that no rule counts any more, so that none shows the series again and takes it into the next snapshot."""


def cases() -> list[Case]:
    """Return a case for each remembered series, and those of rules that go on from what is given back."""
    return [*(_given_back(name) for name in REMEMBERED), *_lost()]


def over_an_outage(fault: Fault, evidence: Evidence, source: str) -> Case:
    """Return the case of evidence whose source has not been heard since Prometheus started anew."""
    of = f'fault="{fault.slug}", class="{evidence.witness}", signal="{evidence.name}"'
    labels = {"fault": fault.slug, "class": evidence.witness, "signal": evidence.name, "strength": evidence.strength}
    gpu = {"gpu_uuid": UUIDS[1]} if fault.scope == "gpu" else {}
    return Case(
        name=f"{fault.slug} ({evidence.witness} {evidence.name}) holds over an outage of Prometheus while it is silent",
        series=[_snapshot(SOURCE_SEEN, source=source), _snapshot(EVIDENCE, **labels, **gpu)],
        queries=[
            Query(step=step, expr=f'max({EVIDENCE}{{{of}, node="{NODE}"}})', samples=[("{}", BEFORE)])
            for step in (SECOND, LATE + 4)
        ],
        steps=LATE + 4,
        alone=source == "ksm",
    )


def _snapshot(name: str, **labels: str) -> Series:
    """Return what the last snapshot before the start has of one series of the node."""
    return Series(metric=kept(name), labels={"node": NODE, **labels}, at=between(0, 1, BEFORE))


def _lost() -> list[Case]:
    found = []
    # Heard anew when what was remembered has come back, but before it is forgotten.
    for witness, source, heard in (("nvml", "exporter", 2), ("dcgm", "dcgm", 1)):
        silent = "dcgm" if source == "exporter" else "exporter"
        own = {"gpu_uuid": UUIDS[1], "class": witness}
        remembered = Series(metric=kept(LOST), labels={"node": NODE, **own}, at=between(0, SECOND + 2, BEFORE))
        identity = _snapshot(IDENTITY, gpu_uuid=UUIDS[1], source=source)
        began = f'max({LOST}{{gpu_uuid="{UUIDS[1]}", node="{NODE}", class="{witness}"}})'
        still = lean(present=lambda gpu, _step: gpu != 1, **{source: since(heard, 1.0, 0.0), silent: None})
        found += [
            Case(
                name=f"Lost to {witness}: the time it began is the same after an outage of Prometheus",
                series=[*series, remembered, identity],
                queries=[Query(step=step, expr=began, samples=[("{}", BEFORE)]) for step in (SECOND, LATE + 4)],
                steps=LATE + 4,
            )
            for series in (still.series(), [_snapshot(SOURCE_SEEN, source=source)])
        ]
    return found


def _given_back(name: str) -> Case:
    alive, gone = ({"node": NODE, "gpu_uuid": f"GPU-{what}"} for what in ("alive", "gone"))
    labels = {what["gpu_uuid"]: f'{{gpu_uuid="{what["gpu_uuid"]}", node="{NODE}"}}' for what in (alive, gone)}

    def seen(step: int, *uuids: str) -> Query:
        """Without its name: that is what was asked for."""
        expr = f'max by (gpu_uuid, node) ({recovered(name)}{{gpu_uuid=~"GPU-(alive|gone)|"}})'
        return Query(step=step, expr=expr, samples=[(labels[uuid], 100) for uuid in uuids])

    return Case(
        name=f"Memory of {name}: after a start what the last snapshot showed is given back, and later nothing is",
        series=[
            Series(metric=kept(name), labels=alive, at=between(0, LATE + 2, 100)),
            Series(metric=kept(name), labels=gone, at=between(0, 1, LONG_AGO)),
        ],
        queries=[seen(SECOND, "GPU-alive"), seen(LATE)],
        steps=LATE + 1,
        alone=True,
    )
