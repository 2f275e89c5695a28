"""Evidence that no single comparison can say; each function returns its expression and the source it depends on.

No source: what it says outlasts the silence of its source without help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.guard import ACCELERATORS
from gpuheal_rules.groups.identity import NODE_GPUS
from gpuheal_rules.groups.latch import CLOCKS, LOST, OWNER, PORT_DOWN, XID
from gpuheal_rules.groups.trend import SLOW_LINK
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import CLEARED, GPU, GPU_NODE, node_labels, promql, selector, threshold

Special = Callable[[Catalogue, Options], tuple[str, str]]


def _lost(witness: str, source: str) -> Special:
    # A loss that began before its settlement is settled: the GPU was taken out for good, or its case is closed.
    expr = promql(f"""
        gpuheal:gpu_lost:info{{class="{witness}"}}
          unless on ({GPU}) (
            {LOST}{{class="{witness}"}} <= on ({GPU}) group_left () {CLEARED}{{fault="gpu-fell-off-bus"}}
          )
        """)
    return lambda _catalogue, _options: (expr, source)


def _kernel(kinds: str) -> Special:
    """Return the time of the last kernel line of these kinds that is latched (exporter, driver lines without Xid)."""
    expr = promql(f"""
        gpuheal_kernel_fault_last_timestamp_seconds{{{kinds}}} and gpuheal_kernel_fault_latched == 1
        """)
    return lambda _catalogue, _options: (expr, "exporter")


def _plain(expr: str, source: str) -> Special:
    text = promql(expr)
    return lambda _catalogue, _options: (text, source)


def _sxid(actions: str) -> Special:
    return _plain(
        f"""
        gpuheal_sxid_last_timestamp_seconds and gpuheal_sxid_latched == 1
          and on (node, switch, pci_bus_id, sxid, link, severity)
          gpuheal_sxid_resolution_info{{{actions}}}
        """,
        "exporter",
    )


def _software(component: str) -> Special:
    """Return nodes on which a component that the node needs does not run."""
    return _plain(
        f"""
        group by (node, component) (gpuheal_software_up{{component="{component}"}} == 0)
          and on (node, component) gpuheal_software_expected == 1
        """,
        "exporter",
    )


def _bit(weight: int) -> str:
    """Return GPUs on which a bit of DCGM's mask of clock event reasons is set; PromQL has no bitwise operator."""
    return f"{CLOCKS} % {2 * weight} >= {weight}"


def _dcgm_fabric_manager(catalogue: Catalogue, options: Options) -> tuple[str, str]:
    status = selector(catalogue.signals["dcgm_fabric_manager_status"])
    failed = f"({status} == 1 or {status} > 3)"
    return f"max by (node) ({node_labels(options, failed)})", "dcgm"


def _foreign(catalogue: Catalogue, _options: Options) -> tuple[str, str]:
    terms = [
        f'kube_node_status_condition{{condition=~"{condition.type}", status="{condition.status}"}} == 1'
        for condition in catalogue.conditions
    ]
    anything = "\nor ".join(terms)
    return f"max by (node) (\n{anything}\n)\nand on (node) {GPU_NODE}", "ksm"


def _unknown_xid(catalogue: Catalogue, _options: Options) -> tuple[str, str]:
    known = "|".join(str(code) for code in catalogue.known_xids)
    return f'{XID}{{xid!~"{known}"}}', ""


_CAPACITY = f'max by (node, resource) (kube_node_status_capacity{{resource=~"{ACCELERATORS}"}})'
_ALLOCATABLE = f'max by (node, resource) (kube_node_status_allocatable{{resource=~"{ACCELERATORS}"}})'
_WHOLE = 'kube_node_status_capacity{resource="nvidia_com_gpu"}'

SPECIALS: Mapping[str, Special] = {
    "lost_nvml": _lost("nvml", "exporter"),
    "lost_dcgm": _lost("dcgm", "dcgm"),
    "kernel_gpu_lost": _kernel('kind="gpu_lost"'),
    "kernel_pcie": _kernel('kind=~"aer|pcie_link_down", severity!="corrected"'),
    "kernel_gsp": _kernel('kind="gsp_rate_limited"'),
    "pcie_below_maximum": _plain(SLOW_LINK, "exporter"),
    "allocatable_below_capacity": _plain(f"{_ALLOCATABLE} < {_CAPACITY}", "ksm"),
    # Time slicing makes the capacity larger than the number of GPUs and MIG makes it zero; neither is a loss.
    "capacity_below_inventory": _plain(
        f"""
        (max by (node) ({_WHOLE}) > 0)
          < on (node) {NODE_GPUS}
        """,
        "ksm",
    ),
    "pci_above_nvml": _plain(
        "max by (node) (gpuheal_driver_pci_gpus) > max by (node) (gpuheal_nvml_devices)", "exporter"
    ),
    "sxid_fatal": _sxid('action!~"none|alert"'),
    "sxid_degraded": _sxid('action="alert"'),
    "fabric_manager_software": _software("fabric_manager"),
    "dcgm_fabric_manager": _dcgm_fabric_manager,
    "driver_module_missing": _plain(
        """
        (max by (node) (gpuheal_driver_module_loaded{module="nvidia"}) == 0)
          and on (node) max by (node) (gpuheal_driver_pci_gpus) > 0
        """,
        "exporter",
    ),
    "plugin_software": _software("device_plugin"),
    "no_allocatable": _plain(f"({_ALLOCATABLE} == 0) and {_CAPACITY} > 0", "ksm"),
    "dcgm_clocks_thermal": _plain(f"{_bit(0x20)} or {_bit(0x40)}", "dcgm"),
    "dcgm_clocks_power_brake": _plain(_bit(0x80), "dcgm"),
    "slowdown_unexplained": _plain(
        f"""
        max by ({GPU}) (gpuheal_gpu_clocks_event{{reason="hw_slowdown"}} == 1)
          unless on ({GPU}) (gpuheal_gpu_clocks_event{{reason=~".*(thermal|power_brake).*"}} == 1)
        """,
        "exporter",
    ),
    "dcgm_slowdown_unexplained": _plain(f"{_bit(0x8)} unless ({_bit(0x20)} or {_bit(0x40)} or {_bit(0x80)})", "dcgm"),
    # Owners and latches outlast the silence of the exporter by themselves. A settlement counts the owners anew.
    "suspect_owners": _plain(
        f"""
        count by ({GPU}) (
          {OWNER}
            unless {OWNER} <= on ({GPU}) group_left () {CLEARED}{{fault="gpu-suspect-repeat"}}
        ) >= {threshold("suspect_owners")}
        """,
        "",
    ),
    "unknown_xid": _unknown_xid,
    "foreign_condition": _foreign,
    "not_ready": _plain(
        f"""
        (max by (node) (kube_node_status_condition{{condition="Ready", status="true"}}) == 0) and on (node) {GPU_NODE}
        """,
        "ksm",
    ),
    "rdma_port_down": _plain(f"{PORT_DOWN}", "exporter"),
}
