"""Slow facts: how much error counters grew in an hour and in a day, in a group of their own.

Only counters that are not zero are recorded, so a healthy fleet costs nothing. `increase` is not used: the raw series
are born again with every pod and driver version, and a counter born at one shows no increase.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue, Signal
from gpuheal_rules.groups.identity import IDENTITY, NODE_KNOWN
from gpuheal_rules.groups.latch import PORT_SEEN, PORTS_MOST
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import GPU, MEMORY, Record, gpu_labels, promql, reading, readings

COUNTER = "gpuheal:gpu_counter:sum"
SLOW_LINK = "gpuheal:pcie_below_maximum:info"
NVLINK_RATIO = "gpuheal:nvlink_active:ratio"
BEST_LINK = "gpuheal:pcie_best:max"
LINKS = {"generation": "gpuheal_gpu_pcie_link_generation_under_load", "width": "gpuheal_gpu_pcie_link_width"}
BEFORE = {"1h": "55m", "24h": "1435m"}
"""Windows of growth, and how long ago the window that holds their beginning ends."""


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield the counters that some evidence needs, and their growth."""
    watched: dict[str, list[str]] = {window: [] for window in BEFORE}
    for name in sorted({e.signal for f in catalogue.faults.values() for e in f.evidence if e.growth}):
        signal = catalogue.signals[name]
        yield from _counted(options, signal)
        for window in sorted({e.growth for f in catalogue.faults.values() for e in f.evidence if e.signal == name}):
            watched[window] += _was_zero(options, signal, window)
    for window, before in BEFORE.items():
        grown = f"({COUNTER} - last_over_time({COUNTER}[10m] offset {before}) >= 0)"
        # A counter that fell because it was reset counts from zero, and so does one that was zero; one that was not
        # there is seen for the first time, with what it gathered in its life: that is no growth.
        terms = "\n    or\n  ".join([grown, *watched[window]])
        yield Record(name=f"gpuheal:gpu_counter:growth{window}", expr=f"sum by ({GPU}, signal) (\n  {terms}\n) > 0")
    yield from _links()
    # The ports that were active, for a week; an outage of Prometheus itself is bridged.
    yield Record(
        name=PORT_SEEN,
        expr=promql(f"""
            max by (node, device, port) (gpuheal_rdma_port_state == 4) * 0 + time()
              or last_over_time({PORT_SEEN}[{MEMORY}]) > time() - {catalogue.number("port_remembered")}
            """),
    )
    ports, most = "count by (node) (gpuheal_rdma_port_state)", f"last_over_time({PORTS_MOST}[{MEMORY}])"
    yield Record(
        name=PORTS_MOST,
        expr=promql(f"""
            ({ports} > on (node) {most} or on (node) {most} or on (node) {ports}) and on (node) {NODE_KNOWN}
            """),
    )


def fields_of(signal: Signal) -> list[tuple[str, ...]]:
    """Return the names of each field of a dcgm-exporter signal, the current one first; older names follow in order."""
    count = max(len(signal.counters), 1)
    return [signal.metrics[index::count] for index in range(count)]


def _counted(options: Options, signal: Signal) -> Iterator[Record]:
    """Yield the counters that are not zero, one per field."""
    if signal.source != "dcgm":
        labels = {"signal": signal.name, "field": "all"}
        yield Record(name=COUNTER, labels=labels, expr=f"sum by ({GPU}) ({readings(signal, '> 0')})")
        return
    for names in fields_of(signal):
        # MIG instances and pods repeat the value of the GPU, and a page may show both names: one of them counts.
        some = " or ".join(reading(signal, name, "> 0") for name in names)
        labels = {"signal": signal.name, "field": names[0]}
        yield Record(name=COUNTER, labels=labels, expr=f"max by ({GPU}) ({gpu_labels(options, some)})")


def _was_zero(options: Options, signal: Signal, ago: str) -> list[str]:
    """Return, per field, the counters of GPUs on which the field was read `ago`."""
    if signal.source != "dcgm":
        # The exporter may leave out a counter that is zero: a GPU that NVML showed had none.
        return [
            f'({COUNTER}{{signal="{signal.name}"}}'
            f" and on ({GPU}) (gpuheal_gpu_present offset {ago} == 1)"
            f" and on (node) (gpuheal_nvml_up offset {ago} == 1))"
        ]
    found = []
    for names in fields_of(signal):
        read = " or ".join(reading(signal, name, ago=ago) for name in names)
        own = f'{COUNTER}{{signal="{signal.name}", field="{names[0]}"}}'
        found.append(f"({own} and on ({GPU}) ({gpu_labels(options, read)}))")
    return found


def _links() -> Iterator[Record]:
    for what, metric in LINKS.items():
        yield Record(
            name=BEST_LINK,
            labels={"what": what},
            expr=promql(f"""
                max by ({GPU}) ({metric} or last_over_time({BEST_LINK}{{what="{what}"}}[{MEMORY}]))
                  and on ({GPU}) {IDENTITY}
                """),
        )
    # Against the best that was ever seen of this GPU or of its neighbours: what the slot cannot do is no fault.
    below = [
        f'  max by ({GPU}) ({metric})\n    < on (node) group_left () max by (node) ({BEST_LINK}{{what="{what}"}})'
        for what, metric in LINKS.items()
    ]
    yield Record(name=SLOW_LINK, expr=f"group by ({GPU}) (\n" + "\n  or\n".join(below) + "\n)")
    yield Record(
        name=NVLINK_RATIO,
        expr=promql(f"""
            max by ({GPU}) (gpuheal_gpu_nvlinks_active)
              / (max by ({GPU}) (gpuheal_gpu_nvlinks_expected) > 0) < 1
            """),
    )
