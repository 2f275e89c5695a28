"""Layer 0: which sources speak for which node, which GPUs are known there, and where the node stands."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import (
    GPU,
    GPU_GONE,
    GPU_SHOWN,
    TARGET_NODE,
    Record,
    before,
    gpu_labels,
    indent,
    node_labels,
    promql,
    readings,
    recovered,
    targets,
    threshold,
)

ACCELERATORS = r"nvidia_com_gpu|nvidia_com_mig_.+|amd_com_gpu|huawei_com_.+"
"""Extended resources of accelerators as kube-state-metrics spells them."""

IDENTITY = "gpuheal:gpu_identity"
NODE_GPUS = "gpuheal:node_gpus:count"
SHOWN = "gpuheal:gpus_shown:count"
"""How many GPUs of a node a source shows."""
UP = "gpuheal:source_up:info"
SOURCE_SEEN = "gpuheal:source_seen:last_seconds"
SILENT = "gpuheal:source_silent:info"
NODE_KNOWN = "gpuheal:node_known:info"
KSM_GAP = "5m"
"""How long kube-state-metrics may leave out a node before it counts as deleted; a restart takes a minute or two."""
SLOW_SCRAPES = timedelta(minutes=5)
"""Holds four scrapes of a target that is scraped once a minute, the default of Prometheus and prometheus-operator."""


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield thresholds, sources, topology and identity, in the order they must be evaluated."""
    for name, item in catalogue.thresholds.items():
        yield Record(name="gpuheal:threshold", expr=f"vector({item.value:.12g})", labels={"name": name})
    yield from _heard(catalogue, options)
    yield _topology(options)
    yield _live(options)
    yield from _known(catalogue, options)
    yield from _remembered_sources()


def _standing(heartbeat: str, span: timedelta) -> str:
    window = format_duration(span)
    return promql(f"""
        max by (node) (changes({heartbeat}[{window}])) == 0
          and on (node) max by (node) (count_over_time({heartbeat}[{window}])) >= 4
        """)


def _target_nodes(catalogue: Catalogue, options: Options) -> Record:
    job = options.job("dcgm")
    named = node_labels(options, readings(catalogue.signals["dcgm_presence"]))
    placed = f'group by (namespace, pod, node) (kube_pod_info{{pod=~"({job}).*", node!=""}})'
    # A page without GPUs, or a target that does not answer, names no node: then its pod does, else what is remembered
    # while the target exists. The pod comes first, as another node's exporter may have got the address.
    return Record(
        name=TARGET_NODE,
        expr=promql(f"""
            topk by (job, instance) (1, group by (job, instance, node) ({named}))
              or on (job, instance) topk by (job, instance) (1, group by (job, instance, node) (
                up{{job=~"{job}"}} * on (namespace, pod) group_left (node) topk by (namespace, pod) (1, {placed})
              ))
              or on (job, instance) ({before(TARGET_NODE)} and on (job, instance) up{{job=~"{job}"}})
            """),
    )


def _heard(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    heartbeat = "gpuheal_exporter_heartbeat_timestamp_seconds"
    frozen = max(options.scrape_interval * 8, timedelta(seconds=30))
    # Frozen means: scraped all the time, and the exporter's own loop never moved. No clock is compared. The second
    # window is for targets that are scraped less often than the rules were told.
    yield Record(
        name="gpuheal:exporter_frozen:info",
        expr="\n  or on (node)\n".join(_standing(heartbeat, span) for span in (frozen, max(frozen * 2, SLOW_SCRAPES))),
    )
    if options.labels.node != "node":
        yield _target_nodes(catalogue, options)
    yield Record(
        name=UP,
        labels={"source": "exporter"},
        expr=f"group by (node) ({heartbeat}) unless on (node) gpuheal:exporter_frozen:info",
    )
    for source in ("ksm", "responder"):
        yield Record(name=UP, labels={"source": source}, expr=f'group (up{{job=~"{options.job(source)}"}} == 1)')


def _remembered_sources() -> Iterator[Record]:
    # What a silent exporter said counts for a while, as long as its node is there; that there was a responder is not
    # forgotten overnight.
    memory = dict.fromkeys(("exporter", "dcgm", "ksm"), "hold_seconds") | {"responder": "identity_memory_seconds"}
    for source, name in memory.items():
        of = f'{{source="{source}"}}'
        remembered = f"{before(f'{SOURCE_SEEN}{of}')} > time() - {threshold(name)}"
        if source in ("exporter", "dcgm"):
            remembered = f"({remembered} and on (node) {NODE_KNOWN})"
        yield Record(name=SOURCE_SEEN, labels={"source": source}, expr=f"{UP}{of} * time()\n  or {remembered}")
    # Silent now, but heard within its time.
    yield Record(name=SILENT, expr=f"group by (node, source) ({SOURCE_SEEN}) unless {UP}")


def _topology(options: Options) -> Record:
    topology = "node, rack, zone, fabric_domain"
    both = ["exporter", "dcgm"]
    racked = targets(options, both, match='rack!=""')
    named = 'rack="", node!=""' if options.labels.node == "node" else 'rack=""'
    # One series per node whatever the targets say: a second one would make every join fail, and with it every alert.
    return Record(
        name="gpuheal:node_topology:info",
        expr=promql(f"""
            topk by (node) (1,
              max by ({topology}) ({racked} * 0 + 2)
              or max by ({topology}) ({targets(options, both, match=named)} * 0 + 1)
            ) ^ 0
            """),
    )


def _live(options: Options) -> Record:
    # A node that was deleted is no node: it counts nowhere, and what was said of it is forgotten. A moment's gap of
    # kube-state-metrics (a restart, one of its shards) deletes none. Where nobody can say which nodes there are, the
    # ones of which something is remembered are believed.
    listed = 'kube_node_status_condition{condition="Ready", status="true"}'
    remembered = (NODE_GPUS, recovered(GPU_GONE), recovered(GPU_SHOWN), recovered(SOURCE_SEEN))
    return Record(
        name=NODE_KNOWN,
        expr=promql(f"""
            group by (node) ({targets(options, ["exporter", "dcgm"])})
              or group by (node) ({listed} or {listed} offset {KSM_GAP})
              or (group by (node) ({" or ".join(remembered)}) unless on () {UP}{{source="ksm"}})
            """),
    )


def _known(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield which GPUs each source knows: 1 while it shows the GPU, else the unix time at which it first did not."""
    presence = readings(catalogue.signals["dcgm_presence"])
    shown = {
        # Fields of one GPU have equal labels, so a second field only adds GPUs that lack the first.
        "dcgm": f"group by ({GPU}, pci_bus_id) ({gpu_labels(options, presence)})",
        # The exporter's inventory is persisted and complete; what it does not list is bridged while it is silent.
        "exporter": f'group by ({GPU}) (gpuheal_gpu_info{{gpu_uuid!=""}})',
    }
    week = threshold("identity_memory_seconds")
    was = {
        source: f'({IDENTITY}{{source="{source}"}} or {recovered(GPU_SHOWN)}{{source="{source}"}})' for source in shown
    }
    away = {source: before(f'{GPU_GONE}{{source="{source}"}}') for source in shown}
    silent = f'unless on (node) {UP}{{source="exporter"}}'
    # The value of the previous evaluation: 1 for a GPU that has just gone.
    gone = {
        # dcgm-exporter forgets a lost GPU, so it is kept here until another one shows in its slot.
        "dcgm": f"""
            ({was["dcgm"]} == 1) * time()
              or {away["dcgm"]} > time() - {week}
              unless on (node, pci_bus_id) {IDENTITY}{{source="dcgm", pci_bus_id!=""}} == 1
            """,
        "exporter": f"""
            (({was["exporter"]} == 1) * time() {silent})
              or ({away["exporter"]} > time() - {week} {silent})
            """,
    }
    for source, now in shown.items():
        memory = f"  (\n{indent(promql(gone[source]), 4)}\n  ) and on (node) {NODE_KNOWN}"
        yield Record(name=IDENTITY, labels={"source": source}, expr=f"{now}\n  or on ({GPU})\n{memory}")
        seen = f'{IDENTITY}{{source="{source}"}} == 1'
        yield Record(name=SHOWN, labels={"source": source}, expr=f"count by (node) ({seen})")
    yield Record(
        name=UP,
        labels={"source": "dcgm"},
        # A page that shows no GPU says nothing of any: such a target is silent, though it answers.
        expr=f'group by (node) ({targets(options, ["dcgm"], "== 1")})\n  and on (node) {SHOWN}{{source="dcgm"}}',
    )
    yield Record(name=GPU_GONE, expr=f"{IDENTITY} > 1")
    missing = f"count by (node, source) ({GPU_GONE})"
    yield Record(
        name=NODE_GPUS,
        expr=f"max by (node) (\n  {SHOWN} + on (node, source) {missing}\n  or {SHOWN}\n  or {missing}\n)",
    )
