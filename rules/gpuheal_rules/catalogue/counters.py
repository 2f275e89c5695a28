"""The counters CSV for dcgm-exporter: exactly the fields that rules and dashboards read, from the catalogue."""

from __future__ import annotations

from gpuheal_rules.catalogue.model import Catalogue

HEADER = """\
# Made by `gpuheal rules build` from rules/gpuheal_rules/catalogue/data/signals.yaml; edit that, not this.
# Counters for dcgm-exporter (`-f`, or `dcgmExporter.config.name` of the GPU operator). Names up to DCGM 4.5.
# A field that the host's DCGM does not know stops dcgm-exporter at its start: comment out what your release lacks
# (DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION came with DCGM 4.5.0).
# DCGM FIELD, Prometheus metric type, help message
"""


def render(catalogue: Catalogue) -> str:
    """Return the CSV with each field once, sorted by name."""
    found = {c.field: c for signal in catalogue.signals.values() for c in signal.counters}
    lines = [f"{c.field}, {c.type}, {c.help}." for _name, c in sorted(found.items())]
    return HEADER + "\n".join(lines) + "\nDCGM_FI_DRIVER_VERSION, label, Driver version.\n"
