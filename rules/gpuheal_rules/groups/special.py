"""Evidence that no single comparison can say: the expression of each, the source it depends on, and its meaning.

No source: what it says outlasts the silence of its source without help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.identity import ACCELERATORS, NODE_GPUS
from gpuheal_rules.groups.latch import CLOCKS, DCGM_XID, LOST, OWNER, PORT_DOWN, XID
from gpuheal_rules.groups.trend import SLOW_LINK
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import CLEARED, GPU, GPU_NODE, gpu_labels, node_labels, promql, readings, threshold

Special = Callable[[Catalogue, Options], tuple[str, str]]
ASKED = "gpuheal:recovery_action:raised"
RECOVERIES = ("recovery_action", "kernel_recovery_action", "dcgm_recovery_action")
"""Signals that show which recovery the driver asks for."""


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
    expr = f"gpuheal_kernel_fault_last_timestamp_seconds{{{kinds}}} and gpuheal_kernel_fault_latched == 1"
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
    status = catalogue.signals["dcgm_fabric_manager_status"]
    failed = f"{readings(status, '== 1')} or {readings(status, '> 3')}"
    return f"max by (node) ({node_labels(options, failed)})", "dcgm"


def _fabric_stuck(catalogue: Catalogue, _options: Options) -> tuple[str, str]:
    ago = catalogue.window("fabric_join")
    return (
        promql(f"""
            (
              max by ({GPU}) (gpuheal_gpu_fabric_state == 2)
                and on ({GPU}) max by ({GPU}) (gpuheal_gpu_fabric_state offset {ago} == 2)
            )
            or (max by ({GPU}) (gpuheal_gpu_fabric_state == 3) and on ({GPU}) gpuheal_gpu_fabric_status > 0)
            """),
        "exporter",
    )


def _dcgm_fabric_stuck(catalogue: Catalogue, options: Options) -> tuple[str, str]:
    status = catalogue.signals["dcgm_fabric_manager_status"]
    now, before = (gpu_labels(options, readings(status, "== 2", ago)) for ago in ("", catalogue.window("fabric_join")))
    return f"max by ({GPU}) ({now})\n  and on ({GPU}) max by ({GPU}) ({before})", "dcgm"


def _module_missing(catalogue: Catalogue, _options: Options) -> tuple[str, str]:
    # GPUs that a hypervisor passes on need no driver here: no GPU of such a node was ever shown or offered. No fault
    # unloads a module: when it is gone without a reboot, somebody replaces the driver, and gets time for it.
    module = 'gpuheal_driver_module_loaded{module="nvidia"}'
    boot = "gpuheal_node_boot_timestamp_seconds"
    then = f"{module} offset {catalogue.window('operands_away')}"
    return (
        promql(f"""
            (max by (node) ({module}) == 0)
              and on (node) max by (node) (gpuheal_driver_pci_gpus) > 0
              and on (node) {GPU_NODE}
              unless on (node) (
                {then} == 1
                  and on (node) max by (node) (timestamp({then})) > on (node) max by (node) ({boot})
              )
            """),
        "exporter",
    )


def _recovery(signal: str, condition: Callable[[Catalogue], str]) -> Special:
    """Return GPUs whose driver asks for a recovery of a kind, read by its number."""

    return lambda catalogue, _options: (
        f'{ASKED}{{signal="{signal}"}} {condition(catalogue)}',
        catalogue.signals[signal].source,
    )


def _of_gpu(catalogue: Catalogue) -> str:
    """Return the condition that holds for recovery actions that concern the GPU itself."""
    last = max(catalogue.recoveries)
    others = [n for n in range(1, last) if n not in catalogue.recoveries]
    return f"<= {last}" + "".join(f" != {number}" for number in (0, *others))


def _of_domain(_catalogue: Catalogue) -> str:
    return f"== {IMEX_DOMAIN}"


def _of_future(catalogue: Catalogue) -> str:
    return f"> {max(catalogue.recoveries)}"


def foreign_conditions(catalogue: Catalogue) -> str:
    """Return the node conditions of other agents that say that something is wrong."""
    return "\nor ".join(
        f'kube_node_status_condition{{condition=~"{condition.type}", status="{condition.status}"}} == 1'
        for condition in catalogue.conditions
    )


def _foreign(catalogue: Catalogue, _options: Options) -> tuple[str, str]:
    return f"max by (node) (\n{foreign_conditions(catalogue)}\n)\nand on (node) {GPU_NODE}", "ksm"


def _other_xid(catalogue: Catalogue, _options: Options) -> tuple[str, str]:
    return f'{XID}{{xid!~"{catalogue.judged("kernel")}"}} > time() - {_hold(catalogue)}', ""


def _other_number(catalogue: Catalogue, options: Options) -> tuple[str, str]:
    # A number whose line is needed is no fault; it is told until the exporter, which reads the line, has it too. Where
    # DCGM shows the recovery action, that says all that 154 could.
    read = gpu_labels(options, readings(catalogue.signals["dcgm_recovery_action"]))
    return (
        promql(f"""
            (
              {DCGM_XID}{{xid!~"{catalogue.judged("dcgm")}"}}
                unless on ({GPU}, xid) {XID}
                unless on ({GPU}, xid) label_replace({read}, "xid", "154", "", "")
            ) > time() - {_hold(catalogue)}
            """),
        "",
    )


def _hold(catalogue: Catalogue) -> str:
    hold = catalogue.fault("gpu-other-xid").hold
    assert hold is not None
    return f"{hold.total_seconds():.12g}"


_CAPACITY = f'max by (node, resource) (kube_node_status_capacity{{resource=~"{ACCELERATORS}"}})'
_ALLOCATABLE = f'max by (node, resource) (kube_node_status_allocatable{{resource=~"{ACCELERATORS}"}})'
_WHOLE = 'kube_node_status_capacity{resource="nvidia_com_gpu"}'
_SLICED = 'kube_node_status_capacity{resource=~"nvidia_com_mig_.+"} > 0'
IMEX_DOMAIN = 5
"""Recovery action for the memory-export domain of a multi-node NVLink system (nvml.h, 595)."""

SLOW = frozenset({"pcie_below_maximum"})
"""Evidence that reads facts of the slow group."""

SPECIALS: Mapping[str, Special] = {
    "lost_nvml": _lost("nvml", "exporter"),
    "lost_dcgm": _lost("dcgm", "dcgm"),
    # A line that names no GPU of ours is of another device.
    "kernel_gpu_lost": _kernel('kind="gpu_lost", gpu_uuid!=""'),
    "kernel_pcie": _kernel('kind=~"aer|pcie_link_down", severity!="corrected", gpu_uuid!=""'),
    "kernel_gsp": _kernel('kind="gsp_rate_limited", gpu_uuid!=""'),
    "kernel_uvm": _kernel('kind="uvm_fatal"'),
    "kernel_init": _kernel('kind="init_failed"'),
    "kernel_training": _kernel('kind="nvlink_rxdet_failed"'),
    "recovery_nvml": _recovery("recovery_action", _of_gpu),
    "recovery_kernel": _recovery("kernel_recovery_action", _of_gpu),
    "recovery_dcgm": _recovery("dcgm_recovery_action", _of_gpu),
    "domain_nvml": _recovery("recovery_action", _of_domain),
    "domain_kernel": _recovery("kernel_recovery_action", _of_domain),
    "domain_dcgm": _recovery("dcgm_recovery_action", _of_domain),
    "future_nvml": _recovery("recovery_action", _of_future),
    "future_kernel": _recovery("kernel_recovery_action", _of_future),
    "future_dcgm": _recovery("dcgm_recovery_action", _of_future),
    # Long on its way into the fabric, or there with an error.
    "fabric_stuck": _fabric_stuck,
    "dcgm_fabric_stuck": _dcgm_fabric_stuck,
    "pcie_below_maximum": _plain(SLOW_LINK, "exporter"),
    "allocatable_below_capacity": _plain(f"{_ALLOCATABLE} < {_CAPACITY}", "ksm"),
    # Time slicing makes the capacity larger than the number of GPUs, and MIG makes it smaller; neither is a loss.
    "capacity_below_inventory": _plain(
        f"""
        (max by (node) ({_WHOLE}) > 0)
          < on (node) {NODE_GPUS}
          unless on (node) {_SLICED}
        """,
        "ksm",
    ),
    "pci_above_nvml": _plain(
        """
        (max by (node) (gpuheal_driver_pci_gpus) > max by (node) (gpuheal_nvml_devices))
          and on (node) gpuheal_nvml_up == 1
        """,
        "exporter",
    ),
    "sxid_fatal": _sxid('action!~"none|alert"'),
    "sxid_degraded": _sxid('action="alert"'),
    "fabric_manager_software": _software("fabric_manager"),
    "dcgm_fabric_manager": _dcgm_fabric_manager,
    "driver_module_missing": _module_missing,
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
    "other_xid": _other_xid,
    "other_number": _other_number,
    "foreign_condition": _foreign,
    "not_ready": _plain(
        f"""
        (max by (node) (kube_node_status_condition{{condition="Ready", status="true"}}) == 0)
          and on (node) {GPU_NODE}
          unless on (node) kube_node_spec_unschedulable == 1
        """,
        "ksm",
    ),
    "rdma_port_down": _plain(f"{PORT_DOWN}", "exporter"),
}
MEANINGS: Mapping[str, str] = {
    "lost_nvml": "NVML no longer reports the GPU while it reports others",
    "lost_dcgm": "dcgm-exporter no longer reports the GPU while it is up",
    "kernel_gpu_lost": "kernel log line about a GPU off the bus, without an Xid",
    "kernel_pcie": "uncorrected PCIe AER error or lost PCIe link of the GPU in the kernel log",
    "kernel_gsp": "rate-limited GSP RPC errors in the kernel log",
    "kernel_uvm": "global fatal error of nvidia-uvm in the kernel log",
    "kernel_init": "failed GPU initialisation in the kernel log",
    "kernel_training": "failed NVLink receiver detection in the kernel log",
    "recovery_nvml": "GPU recovery action reported by NVML",
    "recovery_kernel": "GPU recovery action in an Xid 154",
    "recovery_dcgm": "GPU recovery action reported by DCGM",
    "domain_nvml": "recovery action 5 (IMEX domain) reported by NVML",
    "domain_kernel": "recovery action 5 (IMEX domain) in an Xid 154",
    "domain_dcgm": "recovery action 5 (IMEX domain) reported by DCGM",
    "future_nvml": "unknown recovery action reported by NVML",
    "future_kernel": "unknown recovery action in an Xid 154",
    "future_dcgm": "unknown recovery action reported by DCGM",
    "fabric_stuck": "fabric registration hangs or failed, from NVML",
    "dcgm_fabric_stuck": "fabric registration hangs or failed, from DCGM",
    "pcie_below_maximum": "PCIe link below its maximum width or generation under load",
    "allocatable_below_capacity": "allocatable devices below the node's capacity",
    "capacity_below_inventory": "device capacity below the number of known GPUs",
    "pci_above_nvml": "fewer GPUs in NVML than on the PCI bus",
    "sxid_fatal": "NVSwitch SXid that calls for an action in the kernel log",
    "sxid_degraded": "NVSwitch SXid that is informational only in the kernel log",
    "fabric_manager_software": "the fabric manager is needed but not running",
    "dcgm_fabric_manager": "fabric manager not started or failed, from DCGM",
    "driver_module_missing": "GPUs on the PCI bus, but no nvidia kernel module loaded",
    "plugin_software": "the device plugin's socket is missing",
    "no_allocatable": "no allocatable devices on a node with capacity",
    "dcgm_clocks_thermal": "thermal throttling, from DCGM",
    "dcgm_clocks_power_brake": "hardware power brake, from DCGM",
    "slowdown_unexplained": "hardware slowdown without a reported reason",
    "dcgm_slowdown_unexplained": "hardware slowdown without a reported reason, from DCGM",
    "suspect_owners": "application Xids of several workload owners on the same GPU",
    "other_xid": "Xid or recovery action that maps to no known fault, in the kernel log",
    "other_number": "Xid that maps to no known fault, from dcgm-exporter",
    "foreign_condition": "node condition set by another agent",
    "not_ready": "node condition Ready is not True",
    "rdma_port_down": "RDMA port that was active and is down or has disappeared",
}
"""What each of them shows, as runbooks say it; without an entry the name of the evidence is told."""
