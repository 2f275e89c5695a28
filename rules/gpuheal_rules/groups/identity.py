"""Layer 0: which sources speak for which node, which GPUs are known there, and where the node stands."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from gpuheal_rules.model import Catalogue
from gpuheal_rules.options import Options
from gpuheal_rules.reader import format_duration
from gpuheal_rules.rule import GPU, Record, gpu_labels, promql, selector, threshold

SEEN = "gpuheal:gpu_seen:last_seconds"
UP = "gpuheal:source_up:info"
SOURCE_SEEN = "gpuheal:source_seen:last_seconds"
SILENT = "gpuheal:source_silent:info"


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield thresholds, sources, topology and identity, in the order they must be evaluated."""
    for name, item in catalogue.thresholds.items():
        yield Record(name="gpuheal:threshold", expr=f"vector({item.value:.12g})", labels={"name": name})
    yield from _sources(options)
    yield _topology(options)
    yield from _seen(catalogue, options)


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
    yield Record(name=UP, labels={"source": "ksm"}, expr=f'group (up{{job=~"{options.jobs["ksm"]}"}} == 1)')
    for source in ("exporter", "dcgm", "ksm"):
        of = f'{{source="{source}"}}'
        yield Record(
            name=SOURCE_SEEN,
            labels={"source": source},
            expr=f"{UP}{of} * time()\n  or {SOURCE_SEEN}{of} > time() - {threshold('hold_seconds')}",
        )
    # Silent now, but heard within the hold time: what it said last still counts.
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


def _seen(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    presence = gpu_labels(options, selector(catalogue.signals["dcgm_presence"]))
    slot = f"{GPU}, pci_bus_id"
    # dcgm-exporter forgets a lost GPU, so its last sighting is kept here: for a week, or until another GPU is
    # present in the same slot.
    yield Record(
        name="gpuheal:gpu_present:info",
        labels={"source": "dcgm"},
        expr=f"group by ({slot}) ({presence})",
    )
    yield Record(
        name=SEEN,
        labels={"source": "dcgm"},
        expr=promql(f"""
            max by ({slot}) (gpuheal:gpu_present:info{{source="dcgm"}}) * time()
              or on ({GPU})
              (max by ({slot}) ({SEEN}{{source="dcgm"}}) > time() - {threshold("identity_memory_seconds")}
                unless on (node, pci_bus_id) gpuheal:gpu_present:info{{source="dcgm", pci_bus_id!=""}})
            """),
    )
    # The exporter's inventory is persisted and complete, so it is only bridged while the exporter is silent.
    yield Record(
        name=SEEN,
        labels={"source": "exporter"},
        expr=promql(f"""
            max by ({GPU}) (gpuheal_gpu_info{{gpu_uuid!=""}}) * time()
              or on ({GPU})
              (max by ({GPU}) ({SEEN}{{source="exporter"}}) > time() - {threshold("identity_memory_seconds")}
                unless on (node) {UP}{{source="exporter"}})
            """),
    )
    for source in ("exporter", "dcgm"):
        yield Record(
            name="gpuheal:gpu_identity",
            labels={"source": source},
            expr=f'group by ({GPU}) ({SEEN}{{source="{source}"}})',
        )
