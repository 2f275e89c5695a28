"""METRICS.md, made from the metric tables: `python -m gpuheal_exporters.collectors.page > exporters/METRICS.md`."""

from __future__ import annotations

import sys

from gpuheal_exporters.collectors.registry import metrics

_HEAD = """# Metrics of `gpuheal exporter`

This page is made from the metric tables (`python -m gpuheal_exporters.collectors.page`); a test keeps both equal.

- The label `node` is attached by Prometheus when it scrapes; no metric carries it.
- `pci_bus_id` is `dddd:bb:dd` in lower case. `gpu_uuid` is the physical GPU, also for faults of a MIG instance; it is
  empty while nothing told which GPU sits at an address.
- Times are unix seconds. Counters of the kernel log begin anew with each boot.
- Besides these there are the usual `process_*` metrics.
"""


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    sources = dict.fromkeys(metric.source for metric in metrics())
    for source in sources:
        parts.append(f"\n## From {source}\n\n| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n")
        for metric in metrics():
            if metric.source == source:
                labels = " ".join(f"`{label}`" for label in metric.labels)
                meaning = metric.help.replace("|", "\\|")
                parts.append(f"| `{metric.name}` | {metric.type} | {metric.unit} | {labels} | {meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
