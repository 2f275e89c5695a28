"""One runbook page per alert, from the catalogue: meaning, impact, evidence, what gpuheal does, what to do."""

from __future__ import annotations

from collections.abc import Mapping

from jinja2 import Environment, StrictUndefined

from gpuheal_rules.catalogue.model import TELLING, Alert, Catalogue, Fault
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.groups.alerts import EXPRESSIONS
from gpuheal_rules.options import Options
from gpuheal_rules.policies import SERVED, profiles, steps_for
from gpuheal_rules.promql.rule import COUNT, EVIDENCE, WITNESS

_PAGE = """\
<!-- {{ mark }} -->
# {{ alert.name }}

{{ alert.description | replace("{{ $value }}", "N") | replace("{{ $labels.", "<") | replace(" }}", ">") }}

| fault | scope | severity | for | GPU state |
|---|---|---|---|---|
| `{{ fault.slug }}` | {{ fault.scope }} | {{ alert.severity }} | {{ wait }} | {{ fault.state }} |

## Meaning

{{ fault.runbook.meaning }}

## Impact

{{ fault.runbook.impact }}

## Evidence

{% for line in witnesses -%}
- {{ line }}
{% endfor -%}
{% for title, query in queries %}
{{ title }}:

```promql
{{ query }}
```
{% endfor %}
## What gpuheal does

{{ fault.runbook.gpuheal }}
{%- if ways %}

| steps | in the generated policies of profile |
|---|---|
{%- for steps, names in ways.items() %}
| {{ steps | join(" → ") }} | {{ names | join(", ") }} |
{%- endfor %}

Their mode is `observe`: the responder only records what it would do, until you change the mode.
{%- elif acted %}

No generated policy acts on this fault; a policy of your own can.
{%- endif %}
{%- if people %}

The usual escalation for this fault is {{ fault.ladder | join(" → ") }}.
gpuheal has no action for {{ people | join(", ") }}; do that manually.
{%- endif %}

## What to do

{% for line in fault.runbook.person -%}
- {{ line }}
{% endfor %}
## Sources

{% for line in fault.sources -%}
- {{ line }}
{% endfor -%}
"""
SPECIALS: Mapping[str, str] = {
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
    "rdma_port_down": "RDMA port that was active and is down",
}
"""What evidence of more than one comparison shows (`special` in faults.yaml); without an entry its name is told."""
MARK = "Generated by `gpuheal rules build` from rules/gpuheal_rules/catalogue/data/faults.yaml; edit that file instead."


def pages(catalogue: Catalogue, options: Options) -> dict[str, str]:
    """Return the pages by file name."""
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701
    known = profiles(catalogue)
    template = environment.from_string(_PAGE)
    return {
        f"{alert.name}.md": template.render(
            mark=MARK,
            fault=fault,
            alert=alert,
            wait=format_duration(alert.wait) if alert.wait else "0s",
            witnesses=_witnesses(catalogue, fault),
            queries=_queries(catalogue, fault, alert, options),
            ways=steps_for(known, fault.slug),
            acted=fault.family not in ("pipeline", "own", "fleet") and fault.ladder != ("none",),
            people=[rung for rung in fault.ladder if rung not in (*SERVED, *TELLING)],
        )
        for fault, alert in catalogue.alerts()
    }


def _witnesses(catalogue: Catalogue, fault: Fault) -> list[str]:
    found = []
    if fault.xids:
        codes = ", ".join(str(code) for code in fault.xids)
        found.append(f"Xid {codes} in the kernel log (class {fault.witness}) or from dcgm-exporter (class dcgm)")
    for evidence in fault.evidence:
        what = SPECIALS.get(evidence.special) or evidence.name.replace("-", " ")
        if evidence.signal:
            what = catalogue.signals[evidence.signal].meaning
        grows = f", growth in {evidence.growth}" if evidence.growth else ""
        weak = "; weak" if evidence.strength == "weak" else ""
        found.append(f"{what}{grows} (class {evidence.witness}, signal `{evidence.name}`{weak})")
    return found


def _queries(catalogue: Catalogue, fault: Fault, alert: Alert, options: Options) -> list[tuple[str, str]]:
    if alert.expr:
        return [("Alert expression", EXPRESSIONS[alert.expr](catalogue, options))]
    of = f'{{fault="{fault.slug}", node="NODE"}}'
    return [
        ("Sources that report it, with the Unix time of the last report", WITNESS + of),
        ("All evidence, including settled evidence", EVIDENCE + of),
        ("Number of source classes that agree", COUNT + of),
        ("States of the node's GPUs", 'gpuheal:gpu_state{node="NODE"}'),
    ]
