"""Layer 4: what is wrong with many nodes at once, with a node's telemetry, and with our own cases."""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.guard import READY
from gpuheal_rules.groups.identity import ACCELERATORS, SHOWN, UP
from gpuheal_rules.groups.latch import LOST, MISSED
from gpuheal_rules.groups.witness import UNKNOWN
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import COUNT, GPU, GPU_GONE, GPU_NODE, GUARD, WITNESS, Record, promql, targets

BAD = "gpuheal:node_bad:info"
NEW = "gpuheal:node_bad:new30m"
PROBLEM = "gpuheal:node_problem:info"
ACTIVE_PROBLEM = "gpuheal:node_problem_active:info"
TOPOLOGY = "gpuheal:node_topology:info"
HARMLESS = ("app-gpu-error", "gpu-suspect-repeat", "gpu-other-xid", "gpu-ecc-trend")


STATES = ("pending", "held", "escalated", "stale")


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield bad nodes, correlations, the growth of each fault, and problems of telemetry and cases by node."""
    faults = "|".join(f.slug for f in catalogue.faults.values() if f.hardware and f.scope == "node")
    faults += "|" + "|".join(f.slug for f in catalogue.faults.values() if f.state == "faulty" and f.scope == "gpu")
    faults = "|".join((faults, *catalogue.live(["node-not-ready"])))
    yield Record(
        name=BAD,
        expr=promql(f"""
            group by (node) (
              {COUNT}{{fault=~"{faults}"}} or {UNKNOWN}
            ) unless on (node) {GUARD}
            """),
    )
    yield Record(name=NEW, expr=f"{BAD} unless on (node) ({BAD} offset 30m)")
    for domain in ("rack", "fabric_domain"):
        yield Record(
            name=f"gpuheal:{domain}:new_bad_nodes",
            expr=promql(f"""
                count by ({domain}, zone) (
                  {NEW} * on (node) group_left ({domain}, zone) {TOPOLOGY}{{{domain}!=""}}
                )
                """),
        )
    yield Record(
        name="gpuheal:driver_version:new_bad_nodes",
        expr=promql(f"""
            count by (driver_version) (
              {NEW} * on (node) group_left (driver_version)
              topk by (node) (1, group by (node, driver_version) (gpuheal_nvml_driver_info))
            )
            """),
    )
    yield Record(
        name="gpuheal:fault_nodes:growth10m",
        expr=promql(f"""
            count by (fault) (
              group by (fault, node) ({WITNESS}{{fault!~"{"|".join(catalogue.live(HARMLESS))}"}})
                unless on (fault, node) ({WITNESS} offset 10m)
            )
            """),
    )
    # What no alert tells of is not recorded.
    told = {name.replace("_", "-") for name in catalogue.expressions()}
    problems = (*_problems(options), *_problems_of_cases(catalogue))
    yield from (problem for problem in problems if problem.labels["problem"] in told)
    yield Record(
        name=ACTIVE_PROBLEM,
        expr=promql(f"""
            {PROBLEM} * on (node) group_left (rack, zone, fabric_domain) {TOPOLOGY}
              or on (node, problem) {PROBLEM}
            """),
    )
    yield Record(name="gpuheal:gpu_nodes:count", expr=f"count({GPU_NODE})")


def _problems_of_cases(catalogue: Catalogue) -> Iterator[Record]:
    of_case = {f"case-{state}": f'gpuheal_case_state{{state="{state}"}} == 1' for state in STATES}
    of_case["policy-missing"] = 'gpuheal_case_state{state="held", reason="policy-missing"} == 1'
    escalated = 'gpuheal_case_state{state="escalated"} == 1'
    age = f"time() - gpuheal_case_opened_timestamp_seconds > {catalogue.number('case_waits')}"
    of_case["case-escalated-for-days"] = f"{age} and on (target_node) ({escalated})"
    for problem, expr in of_case.items():
        yield Record(
            name=PROBLEM,
            labels={"problem": problem},
            expr=f'group by (node) (label_replace({expr}, "node", "$1", "target_node", "(.+)"))',
        )


def _problems(options: Options) -> Iterator[Record]:
    host = f'up{{job=~"{options.job("node")}"}}'
    ours = targets(options, ["exporter", "dcgm"])
    # Where nobody lists nodes and none tells that the node is down, an exporter that does not answer is news.
    alive = promql(f"""
        (
          group by (node) ({host} == 1)
            or group by (node) (kube_node_status_condition{{condition="Ready", status="true"}} == 1)
            or (group by (node) ({ours}) unless on (node) {host} unless on () {UP}{{source="ksm"}})
        )
        """)
    gpus = f'kube_node_status_capacity{{resource=~"{ACCELERATORS}"}} > 0'
    # Empty pages of a node that has GPUs, and GPUs that only dcgm-exporter knew, are not shown now, and are not lost.
    # With dynamic resource allocation the kubelet counts no GPUs, and the page of an idle node is empty: NVML has them.
    unseen = promql(f"""
        ({targets(options, ["dcgm"], "== 1")}) unless on (node) {UP}{{source="dcgm"}}
          and on (node) ({gpus} or on (node) {GPU_GONE}{{source="dcgm"}})
          unless on (node) (gpuheal_nvml_devices > 0 and on (node) ({READY} unless on (node) ({gpus})))
        or on (node)
        ({UP}{{source="exporter"}} and on (node) ({gpus}) unless on (node) {SHOWN}{{source="exporter"}})
        or on (node)
        (
          {MISSED} and on (node) {UP}{{source="dcgm"}}
            unless on ({GPU}) {LOST}
            unless on ({GPU}) {COUNT}{{fault="gpu-fell-off-bus"}}
        )
        """)
    problems = {
        "exporter-down": f"(max by (node) ({targets(options, ['exporter'])}) == 0)\n  and on (node) {alive}",
        "dcgm-down": f"(max by (node) ({targets(options, ['dcgm'])}) == 0)\n  and on (node) {alive}",
        "exporter-frozen": "gpuheal:exporter_frozen:info",
        "exporter-missing": (
            f'(max by (node) (kube_node_status_capacity{{resource=~"{ACCELERATORS}"}}) > 0)\n'
            f"  and on (node) {alive}\n"
            f"  unless on (node) group by (node) ({ours})"
        ),
        "gpus-unseen": unseen,
        "kmsg-down": "(max by (node) (gpuheal_kmsg_up) == 0)",
    }
    for problem, expr in problems.items():
        yield Record(
            name=PROBLEM,
            labels={"problem": problem},
            expr=f"group by (node) (\n{expr}\n) unless on (node) {GUARD}",
        )
