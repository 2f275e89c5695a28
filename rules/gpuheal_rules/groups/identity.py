"""Layer 0: which sources speak for which node, which GPUs are known there, and where the node stands."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import GPU, Record, gpu_labels, indent, promql, threshold

IDENTITY = "gpuheal:gpu_identity"
NODE_GPUS = "gpuheal:node_gpus:count"
UP = "gpuheal:source_up:info"
SOURCE_SEEN = "gpuheal:source_seen:last_seconds"
SILENT = "gpuheal:source_silent:info"


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield thresholds, sources, topology and identity, in the order they must be evaluated."""
    for name, item in catalogue.thresholds.items():
        yield Record(name="gpuheal:threshold", expr=f"vector({item.value:.12g})", labels={"name": name})
    yield from _sources(options)
    yield _topology(options)
    yield from _known(catalogue, options)


def _sources(options: Options) -> Iterator[Record]:
    heartbeat = "gpuheal_exporter_heartbeat_timestamp_seconds"
    frozen = format_duration(max(options.scrape_interval * 8, timedelta(seconds=30)))
    # Frozen means: scraped all the time, and the exporter's own loop never moved. No clock is compared.
    yield Record(
        name="gpuheal:exporter_frozen:info",
        expr=promql(f"""
            max by (node) (changes({heartbeat}[{frozen}])) == 0
              and on (node) max by (node) (count_over_time({heartbeat}[{frozen}])) >= 4
            """),
    )
    yield Record(
        name=UP,
        labels={"source": "exporter"},
        expr=f"group by (node) ({heartbeat}) unless on (node) gpuheal:exporter_frozen:info",
    )
    yield Record(
        name=UP,
        labels={"source": "dcgm"},
        expr=f'group by (node) (up{{job=~"{options.jobs["dcgm"]}"}} == 1)',
    )
    for source in ("ksm", "responder"):
        yield Record(name=UP, labels={"source": source}, expr=f'group (up{{job=~"{options.jobs[source]}"}} == 1)')
    # What a silent exporter said counts for a while; that there was a responder is not forgotten overnight.
    memory = dict.fromkeys(("exporter", "dcgm", "ksm"), "hold_seconds") | {"responder": "identity_memory_seconds"}
    for source, name in memory.items():
        of = f'{{source="{source}"}}'
        yield Record(
            name=SOURCE_SEEN,
            labels={"source": source},
            expr=f"{UP}{of} * time()\n  or {SOURCE_SEEN}{of} > time() - {threshold(name)}",
        )
    # Silent now, but heard within its time.
    yield Record(name=SILENT, expr=f"group by (node, source) ({SOURCE_SEEN}) unless {UP}")


def _topology(options: Options) -> Record:
    topology = "node, rack, zone, fabric_domain"
    exporter, dcgm = options.jobs["exporter"], options.jobs["dcgm"]
    # One series per node whatever the targets say: a second one would make every join fail, and with it every alert.
    return Record(
        name="gpuheal:node_topology:info",
        expr=promql(f"""
            topk by (node) (1,
              max by ({topology}) (up{{job=~"{exporter}|{dcgm}", rack!=""}} * 0 + 2)
              or max by ({topology}) (up{{job=~"{exporter}|{dcgm}", rack="", node!=""}} * 0 + 1)
            ) ^ 0
            """),
    )


def _known(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield which GPUs each source knows: 1 while it shows the GPU, else the unix time at which it first did not."""
    presence = " or ".join(catalogue.signals["dcgm_presence"].metrics)
    shown = {
        # Fields of one GPU have equal labels, so a second field only adds GPUs that lack the first.
        "dcgm": f"group by ({GPU}, pci_bus_id) ({gpu_labels(options, presence)})",
        # The exporter's inventory is persisted and complete; what it does not list is bridged while it is silent.
        "exporter": f'group by ({GPU}) (gpuheal_gpu_info{{gpu_uuid!=""}})',
    }
    week = threshold("identity_memory_seconds")
    dcgm, exporter = (f'{IDENTITY}{{source="{source}"}}' for source in ("dcgm", "exporter"))
    silent = f'({exporter} unless on (node) {UP}{{source="exporter"}})'
    # The value of the previous evaluation: 1 for a GPU that has just gone.
    gone = {
        # dcgm-exporter forgets a lost GPU, so it is kept here until another one shows in its slot.
        "dcgm": f"""
            ({dcgm} == 1) * time()
              or {dcgm} > time() - {week}
              unless on (node, pci_bus_id) {IDENTITY}{{source="dcgm", pci_bus_id!=""}} == 1
            """,
        "exporter": f"({silent} == 1) * time()\n  or {silent} > time() - {week}",
    }
    for source, now in shown.items():
        memory = indent(promql(gone[source]), 4)
        yield Record(name=IDENTITY, labels={"source": source}, expr=f"{now}\n  or on ({GPU}) (\n{memory}\n  )")
    yield Record(name=NODE_GPUS, expr=f"count by (node) (group by ({GPU}) ({IDENTITY}))")
