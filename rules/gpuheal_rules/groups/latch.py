"""Layer 1: Xids as levels. An event becomes a state that holds until a boot, a 154 with value 0, or a settlement.

`increase` and `changes` have no place here: an Xid seen for the first time is a new series with a constant value, on
which both are silent (dcgm-exporter#190, #500). The exporter keeps the latch; these rules bridge the time when the
exporter cannot be heard, and build a weaker latch from dcgm-exporter alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.identity import IDENTITY, SILENT, SOURCE_SEEN, UP
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import CLEARED, GPU, Record, gpu_labels, promql, selector

XID = "gpuheal:xid_latch:last_seconds"
DCGM_XID = "gpuheal:dcgm_xid_latch:first_seconds"
LOST = "gpuheal:gpu_lost:since_seconds"
OWNER = "gpuheal:app_xid_owner:last_seconds"
CLOCKS = "gpuheal:dcgm_clocks_event:mask"
PORT_DOWN = "gpuheal:rdma_port_down:info"

SETTLED_MEMORY_SECONDS = 7 * 86400
"""How long a settlement is remembered while nobody exports it; the responder exports it again after a restart."""


def bridged(series: str, source: str) -> str:
    """Return `series` of the previous evaluation where its source is silent now but was heard within the hold time.

    The previous value is taken by an instant selector, which honours staleness: what had ended before the source fell
    silent does not come back, as it would with last_over_time.
    """
    on = "on ()" if source == "ksm" else "on (node)"
    return f'{series}\n  and {on} {SILENT}{{source="{source}"}}'


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield the latches, the lost GPUs and the settlements."""
    key = f"{GPU}, xid"
    yield Record(
        name=CLEARED,
        expr=promql(f"""
            max by (node, gpu_uuid, fault) (
              label_replace(gpuheal_fault_cleared_timestamp_seconds, "node", "$1", "target_node", "(.+)")
            )
              or {CLEARED} > time() - {SETTLED_MEMORY_SECONDS}
            """),
    )
    yield Record(
        name=XID,
        expr=promql(f"""
            max by ({key}) (gpuheal_xid_last_timestamp_seconds and gpuheal_xid_latched == 1)
              or on ({key})
              (%s)
            """) % bridged(XID, "exporter"),
    )  # fmt: skip
    yield from _dcgm(catalogue, options, key)
    yield from _lost(options)
    yield _owners(catalogue)
    yield _ports(options)
    mask = selector(catalogue.signals["dcgm_clocks_event"])
    # Idle (1), application clocks (2) and the power cap (4) are normal; only GPUs with another bit are kept.
    yield Record(name=CLOCKS, expr=f"max by ({GPU}) ({gpu_labels(options, f'{mask} % 256 >= 8')})")


def _dcgm(catalogue: Catalogue, options: Options, key: str) -> Iterator[Record]:
    last = gpu_labels(options, f"{selector(catalogue.signals['dcgm_xid'])} > 0")
    counted = gpu_labels(options, f"{selector(catalogue.signals['dcgm_xid_count'])} > 0")
    now = "gpuheal:dcgm_xid:info"
    # The code as a label comes from the value, which every release has; err_code exists since 3.3.6-3.4.2 only.
    yield Record(
        name=now,
        expr=promql(f"""
            group by ({key}) (
              count_values by ({GPU}) ("xid", max by ({GPU}) ({last}))
              or max by ({key}) ({counted})
            )
            """),
    )
    # The value is when the code was first seen: the gauge says nothing about repeats. A later code does not end an
    # earlier one; a GPU that reports and shows no code at all (its exporter or driver restarted) does.
    yield Record(
        name=DCGM_XID,
        expr=promql(f"""
            {DCGM_XID} and on ({GPU}) {now}
              or on ({key}) {now} * time()
              or on ({key})
              ({DCGM_XID}
                unless on ({GPU}) {IDENTITY}{{source="dcgm"}} == 1
                and on (node) {SOURCE_SEEN}{{source="dcgm"}})
            """),
    )


def _owners(catalogue: Catalogue) -> Record:
    codes = "|".join(str(code) for code in catalogue.faults["app-gpu-error"].xids)
    # Prometheus renames the labels pod and namespace of a series when its target has labels of the same names.
    holders = (
        'label_replace(label_replace(last_over_time(gpuheal_gpu_pod_info[5m]), "pod", "$1", "exported_pod", "(.+)")'
    )
    holders += ', "namespace", "$1", "exported_namespace", "(.+)")'
    # The pods that held the GPU around an application's Xid, remembered for a day.
    return Record(
        name=OWNER,
        expr=promql(f"""
            group by ({GPU}, namespace, pod) (
              {holders}
                and on ({GPU}) ({XID}{{xid=~"{codes}"}} > time() - 120)
            ) * time()
              or {OWNER} > time() - 86400
            """),
    )


def _ports(options: Options) -> Record:
    key = "node, device, port"
    state = "gpuheal_rdma_port_state"
    # A port that was active a moment ago and is not now, until it is active again; a port that never was is unused.
    return Record(
        name=PORT_DOWN,
        expr=promql(f"""
            group by ({key}) (
              {state} != 4
                and on ({key}) (({state} offset {options.scrapes(4)}) == 4 or on ({key}) {PORT_DOWN})
            )
            """),
    )


def _lost(options: Options) -> Iterator[Record]:
    grace = options.scrapes(4)
    now = {
        "nvml": promql(f"""
            gpuheal_gpu_present == 0
              and on (node) {UP}{{source="exporter"}}
              and on (node) max by (node) (gpuheal_nvml_up == 1)
            """),
        # Known here before, not shown now, by a dcgm-exporter that answers and answered a while ago.
        "dcgm": promql(f"""
            {IDENTITY}{{source="dcgm"}} > 1 <= time() - {options.scrape_seconds(4)}
              and on (node) {UP}{{source="dcgm"}}
              and on (node) ({UP}{{source="dcgm"}} offset {grace})
            """),
    }
    for witness, source in (("nvml", "exporter"), ("dcgm", "dcgm")):
        own = f'{LOST}{{class="{witness}"}}'
        yield Record(
            name="gpuheal:gpu_lost:info",
            labels={"class": witness},
            expr=f"group by ({GPU}) (\n{_indent(now[witness])}\n)",
        )
        seen = f'gpuheal:gpu_lost:info{{class="{witness}"}}'
        yield Record(
            name=LOST,
            labels={"class": witness},
            expr=promql(f"""
                {own} and on ({GPU}) {seen}
                  or {seen} * time()
                  or (%s)
                """) % bridged(own, source),
        )  # fmt: skip


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
