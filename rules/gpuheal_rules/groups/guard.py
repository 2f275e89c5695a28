"""Layer 1: nodes on which missing things are expected: they boot, are upgraded, leave, or we work on them."""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.identity import ACCELERATORS, NODE_GPUS, SOURCE_SEEN, UP
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import GPU_NODE, GUARD, Record, indent, promql, targets, threshold

READY = 'kube_node_status_condition{condition="Ready", status="true"}'
OPERATION = 'gpuheal_case_state{state=~"acting|waiting", phase="cure"}'
"""Cases whose cure is under way: their node's exporters may be away, and its devices missing."""

LEAVING = (
    "ToBeDeletedByClusterAutoscaler|karpenter.sh/disrupt(ed|ion)|aws-node-termination-handler/.+"
    "|cloud.google.com/impending-node-termination|node.cloudprovider.kubernetes.io/shutdown"
)
"""Taints of a node that is about to go: cluster autoscaler, Karpenter (v1 and v1beta1), AWS's node termination handler
(pkg/node/node.go), GKE (graceful node shutdown), cloud node lifecycle controller."""

UPGRADE_DONE = "|upgrade-done|upgrade-failed|upgrade-required|unknown"
"""Driver upgrade states of the GPU operator in which it does not touch the node (k8s-operator-libs pkg/upgrade)."""


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield the GPU nodes and the guards by reason."""
    # Only what is there counts: a live source speaks for it, or Kubernetes lists it.
    yield Record(
        name=GPU_NODE,
        expr=promql(f"""
            group by (node) ({NODE_GPUS} and on (node) {UP}{{source=~"exporter|dcgm"}})
              or group by (node) ({NODE_GPUS} and on (node) {READY})
              or group by (node) (kube_node_status_capacity{{resource=~"{ACCELERATORS}"}} > 0)
            """),
    )
    guards = {
        "boot": f"time() - max by (node) (gpuheal_node_boot_timestamp_seconds) < {threshold('boot_guard_seconds')}",
        "driver-upgrade": f'kube_node_labels{{label_nvidia_com_gpu_driver_upgrade_state!~"{UPGRADE_DONE}"}}',
        # kube-state-metrics shows no node labels unless told to; a dcgm-exporter that was taken away tells as much.
        "operands-away": promql(f"""
            ({SOURCE_SEEN}{{source="dcgm"}} > time() - {catalogue.number("operands_away")})
              unless on (node) {targets(options, ["dcgm"])}
            """),
        "leaving": f'kube_node_spec_taint{{key=~"{LEAVING}"}}',
        "operation": f'label_replace({OPERATION} == 1, "node", "$1", "target_node", "(.+)")',
    }
    for reason, expr in guards.items():
        yield Record(name=GUARD, labels={"reason": reason}, expr=f"group by (node) (\n{indent(expr)}\n)")
