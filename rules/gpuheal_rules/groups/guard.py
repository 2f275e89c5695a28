"""Layer 1: nodes on which missing things are expected: they boot, are upgraded, leave, or we work on them."""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.identity import NODE_GPUS
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import GPU_NODE, GUARD, Record, promql, threshold

ACCELERATORS = r"nvidia_com_gpu|nvidia_com_mig_.+|amd_com_gpu|huawei_com_.+"
"""Extended resources of accelerators as kube-state-metrics spells them."""

OPERATION = 'gpuheal_case_state{state=~"acting|waiting", step=~"(reboot|gpu_reset|restart_services|isolate_device).*"}'
"""Cases whose cure is under way: their node's exporters may be away, and its devices missing."""

UPGRADE_DONE = "|upgrade-done|upgrade-failed|upgrade-required|unknown"
"""Driver upgrade states of the GPU operator in which it does not touch the node (k8s-operator-libs pkg/upgrade)."""


def rules(_catalogue: Catalogue, _options: Options) -> Iterator[Record]:
    """Yield the GPU nodes and the guards by reason."""
    yield Record(
        name=GPU_NODE,
        expr=promql(f"""
            group by (node) ({NODE_GPUS})
              or group by (node) (kube_node_status_capacity{{resource=~"{ACCELERATORS}"}} > 0)
            """),
    )
    guards = {
        "boot": f"time() - max by (node) (gpuheal_node_boot_timestamp_seconds) < {threshold('boot_guard_seconds')}",
        "driver-upgrade": f'kube_node_labels{{label_nvidia_com_gpu_driver_upgrade_state!~"{UPGRADE_DONE}"}}',
        "leaving": 'kube_node_spec_taint{key=~"ToBeDeletedByClusterAutoscaler|karpenter.sh/disrupted"}',
        "operation": f'label_replace({OPERATION} == 1, "node", "$1", "target_node", "(.+)")',
    }
    for reason, expr in guards.items():
        yield Record(name=GUARD, labels={"reason": reason}, expr=f"group by (node) (\n  {expr}\n)")
