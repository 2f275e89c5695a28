"""Layer 3: witnesses, confidence and the state of every GPU."""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.identity import IDENTITY, UP
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import (
    CLEARED,
    COUNT,
    EVIDENCE,
    GPU,
    GPU_GONE,
    OPEN,
    WITNESS,
    Record,
    before,
    indent,
    promql,
    threshold,
)

STATE = "gpuheal:gpu_state"
UNKNOWN = "gpuheal:gpu_unknown:info"
LOST = f'{OPEN}{{fault="gpu-fell-off-bus", signal=~"lost-.+"}}'
"""GPUs that are gone for good, as far as anybody can tell."""
ACTIVE = "gpuheal:fault_active:count"
SUSPECT = "gpuheal:gpu_suspect:last_seconds"


def rules(catalogue: Catalogue, _options: Options) -> Iterator[Record]:
    """Yield witnesses, their number, the confidence, the faults with topology, and the state."""
    key = f"{GPU}, fault"
    yield Record(name=OPEN, expr=f"{EVIDENCE}\n  unless ({EVIDENCE} <= on ({key}) group_left () {CLEARED})")
    severe = "|".join(f.slug for f in catalogue.faults.values() if f.state == "faulty")
    # Weak evidence of a severe fault needs strong evidence beside it; of a mild one it is enough.
    # A class that has seen anything strong is a strong witness, whatever weak it saw beside it and however lately.
    yield Record(
        name=WITNESS,
        labels={"strength": "strong"},
        expr=f'max by ({key}, class) ({OPEN} and on ({key}, class) {OPEN}{{strength="strong"}})',
    )
    yield Record(
        name=WITNESS,
        labels={"strength": "weak"},
        expr=promql(f"""
            max by ({key}, class) (
              {OPEN}{{fault!~"{severe}"}}
                or {OPEN} and on ({key}) {WITNESS}{{strength="strong"}}
            )
              unless on ({key}, class) {WITNESS}{{strength="strong"}}
            """),
    )
    yield _driver(catalogue)
    yield Record(name=COUNT, expr=f"count by ({key}) ({WITNESS})")
    yield _confidence(key)
    yield Record(
        name=ACTIVE,
        expr=promql(f"""
            {COUNT} * on (node) group_left (rack, zone, fabric_domain) gpuheal:node_topology:info
              or on ({key}) {COUNT}
            """),
    )
    suspect = _suspect(catalogue)
    if suspect:
        yield Record(
            name=SUSPECT,
            expr=promql(f"""
                group by ({GPU}) ({COUNT}{{fault=~"{suspect}"}}) * time()
                  or {before(SUSPECT)} > time() - {threshold("suspect_hold_seconds")}
                """),
        )
    # Known, shown by no source that answers now, and not for a fault that is known as well.
    yield Record(
        name=UNKNOWN,
        expr=promql(f"""
            group by ({GPU}) (
              ({GPU_GONE}{{source="dcgm"}} or {IDENTITY}{{source="exporter"}})
                unless on ({GPU}) {IDENTITY}{{source="dcgm"}} == 1
                unless on ({GPU}) (
                  gpuheal_gpu_present == 1
                    and on (node) ({UP}{{source="exporter"}} and on (node) gpuheal_nvml_up == 1)
                )
                unless on ({GPU}) {_having(catalogue, "faulty")}
            )
            """),
    )
    yield _state(catalogue)


def _driver(catalogue: Catalogue) -> Record:
    hardware = "|".join(
        f.slug for f in catalogue.faults.values() if f.hardware and f.scope == "gpu" and f.witness != "driver"
    )
    # The driver's own verdict confirms a hardware fault that another class sees; alone it is a fault of its own.
    return Record(
        name=WITNESS,
        labels={"class": "driver", "strength": "strong"},
        expr=promql(f"""
            group by ({GPU}, fault) (
              {WITNESS}{{class!="driver", fault=~"{hardware}"}}
                unless on ({GPU}, fault) {OPEN}{{class="driver"}}
                and on ({GPU}) {OPEN}{{fault="gpu-recovery-required", class="driver"}}
            ) * time()
            """),
    )


def _confidence(key: str) -> Record:
    # 0.99 confirmed, 0.9 probable, 0.6 suspect: the numbers of the reference design, for people and dashboards. The
    # responder computes the same from the witnesses (core/evidence.py); a test holds both together.
    return Record(
        name="gpuheal:fault_confidence:ratio",
        expr=promql(f"""
            ({COUNT} >= 2) * 0 + 0.99
              or group by ({key}) ({WITNESS}{{class="driver"}}) * 0.99
              or group by ({key}) ({WITNESS}{{strength="strong"}}) * 0.9
              or {COUNT} * 0 + 0.6
            """),
    )


def _suspect(catalogue: Catalogue) -> str:
    return "|".join(f.slug for f in catalogue.faults.values() if f.state == "suspect")


def _having(catalogue: Catalogue, state: str) -> str:
    faults = "|".join(f.slug for f in catalogue.faults.values() if f.state == state and f.scope == "gpu")
    return f'{COUNT}{{fault=~"{faults}"}}'


def _state(catalogue: Catalogue) -> Record:
    levels = [
        (4, LOST),
        (3, _having(catalogue, "faulty")),
        (5, UNKNOWN),
    ]
    levels += [(2, SUSPECT)] if _suspect(catalogue) else []
    levels.append((1, _having(catalogue, "degraded")))
    levels.append((0, IDENTITY))
    terms = [f"group by ({GPU}) (\n{indent(expr)}\n) * {value}" for value, expr in levels]
    return Record(name=STATE, expr=f"\nor on ({GPU})\n".join(terms))
