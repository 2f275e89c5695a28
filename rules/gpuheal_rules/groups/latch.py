"""Layer 1: Xids as levels. An event becomes a state that holds until a boot, a 154 with value 0, or a settlement.

`increase` and `changes` have no place here: an Xid seen for the first time is a new series with a constant value, on
which both are silent (dcgm-exporter#190, #500). The exporter keeps the latch; these rules bridge the time when the
exporter cannot be heard, and build a weaker latch from dcgm-exporter alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.identity import ACCELERATORS, IDENTITY, SHOWN, SILENT, SOURCE_SEEN, UP
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import (
    BLANK,
    CLEARED,
    GPU,
    GPU_GONE,
    Record,
    before,
    gpu_labels,
    promql,
    readings,
    recovered,
)

XID = "gpuheal:xid_latch:last_seconds"
DCGM_XID = "gpuheal:dcgm_xid_latch:first_seconds"
LOST = "gpuheal:gpu_lost:since_seconds"
OWNER = "gpuheal:app_xid_owner:last_seconds"
MISSED = "gpuheal:gpu_missed:since_seconds"
"""GPUs that dcgm-exporter does not show any more and NVML does not show either."""
CLOCKS = "gpuheal:dcgm_clocks_event:mask"
PORT_DOWN = "gpuheal:rdma_port_down:info"
PORT_SEEN = "gpuheal:rdma_port_active:last_seconds"
PORTS_MOST = "gpuheal:rdma_ports:max"
ROLES = "master|worker|launcher|leader|chief|ps|evaluator"
"""Replica types of training operators (kubeflow trainer v1: PyTorchJob, TFJob, MPIJob; LeaderWorkerSet's examples)."""
APPENDED = f"(.+?)(-({ROLES}))?(-[0-9]+)*((-[bcdf4-9]{{6,10}})?-[a-z0-9]{{5}})?"
"""A pod's name with what controllers append: Deployments and Jobs a hash of the template (apimachinery
rand.SafeEncodeString: no vowels) and five random letters (names.SimpleNameGenerator), StatefulSets, indexed Jobs,
JobSets and LeaderWorkerSets one or two ordinals, training operators a role."""

SETTLED_MEMORY_SECONDS = 7 * 86400
"""How long a settlement is remembered while nobody exports it; the responder exports it again after a restart."""


def bridged(series: str, source: str) -> str:
    """Return `series` of the previous evaluation where its source is silent now but was heard within the hold time.

    The previous value is taken by an instant selector, which honours staleness: what had ended before the source fell
    silent does not come back, as it would with last_over_time. After an outage of Prometheus it is the recovered one.
    """
    on = "on ()" if source == "ksm" else "on (node)"
    return f'{before(series)}\n  and {on} {SILENT}{{source="{source}"}}'


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield the latches, the lost GPUs and the settlements."""
    key = f"{GPU}, xid"
    yield Record(
        name=CLEARED,
        expr=promql(f"""
            max by (node, gpu_uuid, fault) (
              label_replace(gpuheal_fault_cleared_timestamp_seconds, "node", "$1", "target_node", "(.+)")
            )
              or {before(CLEARED)} > time() - {SETTLED_MEMORY_SECONDS}
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
    yield from _lost(catalogue, options)
    yield _owners(catalogue)
    yield _ports()
    # Idle (1), application clocks (2) and the power cap (4) are normal; only GPUs with another bit are kept.
    mask = readings(catalogue.signals["dcgm_clocks_event"], "% 256 >= 8")
    yield Record(name=CLOCKS, expr=f"max by ({GPU}) ({gpu_labels(options, mask)})")


def _dcgm(catalogue: Catalogue, options: Options, key: str) -> Iterator[Record]:
    last = gpu_labels(options, readings(catalogue.signals["dcgm_xid"], "> 0"))
    counted = gpu_labels(options, readings(catalogue.signals["dcgm_xid_count"], "> 0"))
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
            {before(DCGM_XID)} and on ({GPU}) {now}
              or on ({key}) {now} * time()
              or on ({key})
              ({before(DCGM_XID)}
                unless on ({GPU}) {IDENTITY}{{source="dcgm"}} == 1
                and on (node) {SOURCE_SEEN}{{source="dcgm"}})
            """),
    )


def _owners(catalogue: Catalogue) -> Record:
    codes = "|".join(str(code) for code in catalogue.fault("app-gpu-error").xids)
    # Prometheus renames the labels pod and namespace of a series when its target has labels of the same names.
    holders = (
        'label_replace(label_replace(last_over_time(gpuheal_gpu_pod_info[5m]), "pod", "$1", "exported_pod", "(.+)")'
    )
    holders += ', "namespace", "$1", "exported_namespace", "(.+)")'
    of_event = f'{holders} and on ({GPU}) ({XID}{{xid=~"{codes}"}} > time() - 120)'
    # Who held the GPU around an application's Xid, remembered for a day. A job that is tried again gets new pods, and
    # its workers are one program: the owner is the pod's name without what controllers append to it.
    return Record(
        name=OWNER,
        expr=promql(f"""
            group by ({GPU}, namespace, owner) (
              label_replace({of_event}, "owner", "$1", "pod", "{APPENDED}")
            ) * time()
              or {before(OWNER)} > time() - {catalogue.number("owners_remembered")}
            """),
    )


def _ports() -> Record:
    key = "node, device, port"
    seen = f"({PORT_SEEN} or {recovered(PORT_DOWN)})"
    # A port that was active within the last week and is not now, or has disappeared; a port that never was is unused.
    # Nothing has disappeared where pods take devices along, or as long as there are as many ports as ever: then they
    # have other names, or others took their place.
    return Record(
        name=PORT_DOWN,
        expr=promql(f"""
            group by ({key}) (
              gpuheal_rdma_port_state != 4 and on ({key}) {seen}
                or
              {seen} unless on ({key}) gpuheal_rdma_port_state
                and on (node) (
                  gpuheal_rdma_exclusive == 0
                    unless on (node) count by (node) (gpuheal_rdma_port_state) >= on (node) {PORTS_MOST}
                )
            )
            """),
    )


def _lost(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    grace = options.scrapes(4)
    gone = f'{GPU_GONE}{{source="dcgm"}}'
    known = before(f'{LOST}{{class="dcgm"}}')
    blank = f"{catalogue.signals['dcgm_presence'].metrics[0]} >= {BLANK}"
    now = {
        "nvml": promql(f"""
            gpuheal_gpu_present == 0
              and on (node) {UP}{{source="exporter"}}
              and on (node) max by (node) (gpuheal_nvml_up == 1)
            """),
        # Known here before, not shown now, by a dcgm-exporter that shows others and did so a while ago; that is asked
        # of a new loss only, as nobody knows it after an outage of Prometheus. One opinion is not enough: a GPU that
        # NVML shows, or that stands on the page with blanks, is there; where most of a node are not shown, or its GPUs
        # are no device of the kubelet (dynamic resource allocation), the exporter hides them.
        "dcgm": promql(f"""
            {MISSED} <= time() - {options.scrape_seconds(4)}
              and on (node) {UP}{{source="dcgm"}}
              and on ({GPU}) ({gone} and on (node) ({UP}{{source="dcgm"}} offset {grace}) or {known})
              and on (node) ({SHOWN}{{source="dcgm"}} >= on (node) count by (node) ({gone}))
              unless on ({GPU}) group by ({GPU}) ({gpu_labels(options, blank)})
              unless on (node) (
                kube_node_status_condition{{condition="Ready", status="true"}}
                  unless on (node) kube_node_status_capacity{{resource=~"{ACCELERATORS}"}} > 0
              )
            """),
    }
    yield Record(
        name=MISSED,
        expr=f'{gone}\n  unless on ({GPU}) (gpuheal_gpu_present == 1 and on (node) {UP}{{source="exporter"}})',
    )
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
                {before(own)} and on ({GPU}) {seen}
                  or {seen} * time()
                  or (%s)
                """) % bridged(own, source),
        )  # fmt: skip


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
