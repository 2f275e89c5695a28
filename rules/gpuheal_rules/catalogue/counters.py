"""The counters CSV for dcgm-exporter: the fields that rules and dashboards read, alone and beside its own."""

from __future__ import annotations

from collections.abc import Mapping

from gpuheal_rules.catalogue.model import Catalogue, Counter

KEY = "dcgm-metrics.csv"
"""The key that the GPU operator mounts of the ConfigMap named in `dcgmExporter.config.name`."""

MADE = "# Made by `gpuheal rules build` from rules/gpuheal_rules/catalogue/data/signals.yaml; edit that, not this.\n"
HEADER = (
    MADE
    + """\
# Counters for dcgm-exporter (`-f`, or `dcgmExporter.config.name` of the GPU operator). Names up to DCGM 4.5.
# A field that the host's DCGM does not know stops dcgm-exporter at its start: comment out what your release lacks
# (DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION came with DCGM 4.5.0).
# DCGM FIELD, Prometheus metric type, help message
"""
)
_GAUGES = {
    "DCGM_FI_DEV_SM_CLOCK": "SM clock frequency in MHz",
    "DCGM_FI_DEV_MEM_CLOCK": "Memory clock frequency in MHz",
    "DCGM_FI_DEV_MEMORY_TEMP": "Memory temperature in degrees Celsius",
    "DCGM_FI_DEV_GPU_TEMP": "GPU temperature in degrees Celsius",
    "DCGM_FI_DEV_POWER_USAGE": "Power draw in watts",
    "DCGM_FI_DEV_GPU_UTIL": "GPU utilisation in percent",
    "DCGM_FI_DEV_MEM_COPY_UTIL": "Memory utilisation in percent",
    "DCGM_FI_DEV_ENC_UTIL": "Encoder utilisation in percent",
    "DCGM_FI_DEV_DEC_UTIL": "Decoder utilisation in percent",
    "DCGM_FI_DEV_XID_ERRORS": "Code of the last Xid",
    "DCGM_FI_DEV_FB_FREE": "Free framebuffer memory in MiB",
    "DCGM_FI_DEV_FB_USED": "Used framebuffer memory in MiB",
    "DCGM_FI_DEV_FB_RESERVED": "Reserved framebuffer memory in MiB",
    "DCGM_FI_DEV_VGPU_LICENSE_STATUS": "Status of the vGPU licence",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "Whether a row remap failed",
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": "Share of time in which the graphics engine is active",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": "Share of cycles in which the tensor pipe is active",
    "DCGM_FI_PROF_DRAM_ACTIVE": "Share of cycles in which the memory interface is active",
    "DCGM_FI_PROF_PCIE_TX_BYTES": "Bytes sent over PCIe per second",
    "DCGM_FI_PROF_PCIE_RX_BYTES": "Bytes received over PCIe per second",
}
_COUNTERS = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": "Energy used since boot in mJ",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": "PCIe replays",
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": "NVLink bandwidth of all lanes",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "Rows remapped for uncorrectable errors",
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": "Rows remapped for correctable errors",
}
STOCK: Mapping[str, Counter] = {
    field: Counter(field=field, type=kind, help=text)
    for kind, fields in (("gauge", _GAUGES), ("counter", _COUNTERS))
    for field, text in fields.items()
}
"""Fields of dcgm-exporter's own default-counters.csv (4.5.3-4.8.2); its label field is no series."""


def fields(catalogue: Catalogue) -> dict[str, Counter]:
    """Return the fields that rules and dashboards read, by name."""
    return {c.field: c for signal in catalogue.signals.values() for c in signal.counters}


def render(catalogue: Catalogue) -> str:
    """Return the CSV with each field of ours once, sorted by name."""
    return _csv(fields(catalogue))


def config_map(catalogue: Catalogue) -> dict[str, object]:
    """Return the GPU operator's ConfigMap: the fields of the exporter's own CSV and ours, each once.

    The operator's CSV replaces the exporter's, so with ours alone the panels of others would go empty.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "gpuheal-dcgm-metrics", "namespace": "gpu-operator"},
        "data": {KEY: _csv({**STOCK, **fields(catalogue)})},
    }


def _csv(found: Mapping[str, Counter]) -> str:
    lines = [f"{c.field}, {c.type}, {c.help}." for _name, c in sorted(found.items())]
    return HEADER + "\n".join(lines) + "\nDCGM_FI_DRIVER_VERSION, label, Driver version.\n"
