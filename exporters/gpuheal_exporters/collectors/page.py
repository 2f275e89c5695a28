"""METRICS.md, made from the metric tables: `python -m gpuheal_exporters.collectors.page > exporters/METRICS.md`."""

from __future__ import annotations

import sys

from gpuheal_exporters.collectors.registry import metrics

_HEAD = """# Metrics of `gpuheal exporter`

This page is generated from the metric tables by `python -m gpuheal_exporters.collectors.page`; a test checks for drift.

- Prometheus attaches the label `node` at scrape time; no metric has it.
- `pci_bus_id` is `dddd:bb:dd` in lower case. `gpu_uuid` is the physical GPU, also for faults of a MIG instance; it is
  empty while the GPU at an address is not known.
- Times are Unix seconds. Kernel log counters restart with each boot.
- The usual `process_*` metrics are exported as well.
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
