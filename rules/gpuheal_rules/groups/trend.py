"""Slow facts: how much error counters grew in an hour and in a day, in a group of their own.

Only counters that are not zero are recorded, so a healthy fleet costs nothing. `increase` is not used: the raw series
are born again with every pod and driver version, and a counter born at one shows no increase.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.identity import IDENTITY, UP
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import GPU, Record, gpu_labels, promql, selector

COUNTER = "gpuheal:gpu_counter:sum"
SLOW_LINK = "gpuheal:pcie_below_maximum:info"
NVLINK_RATIO = "gpuheal:nvlink_active:ratio"


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield the counters that some evidence needs, and their growth."""
    for name in sorted({e.signal for f in catalogue.faults.values() for e in f.evidence if e.growth}):
        signal = catalogue.signals[name]
        vector = f"{selector(signal)} > 0"
        if signal.source == "dcgm":
            # MIG instances and pods repeat the value of the GPU: one of them per field, then all fields together.
            per_field = f"max by ({GPU}, __name__) ({gpu_labels(options, vector)})"
            expr = f"sum by ({GPU}) ({per_field})"
        else:
            expr = f"sum by ({GPU}) ({vector})"
        yield Record(name=COUNTER, labels={"signal": name, "source": signal.source}, expr=expr)
    yield from _links()
    key = f"{GPU}, signal"
    for window, before in (("1h", "55m"), ("24h", "1435m")):
        earlier = f"last_over_time({COUNTER}[10m] offset {before})"
        # A counter that was not there, or fell because it was reset, counts from zero, but only if its GPU was being
        # read then: a first sighting of old errors is no growth.
        yield Record(
            name=f"gpuheal:gpu_counter:growth{window}",
            expr=promql(f"""
                max by ({key}) (
                  ({COUNTER} - {earlier} >= 0)
                    or ({COUNTER}{{source="dcgm"}} and on ({GPU}) ({IDENTITY}{{source="dcgm"}} offset {window} == 1))
                    or ({COUNTER}{{source="exporter"}} and on (node) {UP}{{source="exporter"}} offset {window})
                ) > 0
                """),
        )


def _links() -> Iterator[Record]:
    yield Record(
        name=SLOW_LINK,
        expr=promql(f"""
            group by ({GPU}) (
              max by ({GPU}) (gpuheal_gpu_pcie_link_generation_under_load)
                < max by ({GPU}) (gpuheal_gpu_pcie_link_generation_max)
              or max by ({GPU}) (gpuheal_gpu_pcie_link_width) < max by ({GPU}) (gpuheal_gpu_pcie_link_width_max)
            )
            """),
    )
    yield Record(
        name=NVLINK_RATIO,
        expr=promql(f"""
            max by ({GPU}) (gpuheal_gpu_nvlinks_active)
              / (max by ({GPU}) (gpuheal_gpu_nvlinks_expected) > 0) < 1
            """),
    )
