"""What happens in the story, node by node, and what the responder and the servers say of it."""

from __future__ import annotations

from tests.dashboards.story import A100, MINUTES, At, Film, Node, always, between, ended, since, uuid

TAINT = {"key": "gpu.health/unhealthy", "value": "true", "effect": "NoSchedule"}
BUCKETS = ("0.1", "0.5", "1", "10", "60", "300", "900", "+Inf")
GROUPS = ("/etc/prometheus/rules/gpuheal.yml;gpuheal", "/etc/prometheus/rules/gpuheal.yml;gpuheal-slow")


def films(gpus: int | None = None) -> list[Film]:
    """Return cluster a, whose story it is, and cluster b, which must not show in it; `gpus` on each node of a."""
    a, b = Film(cluster="a"), Film(cluster="b")
    Node(film=a, name="a-1", rack="r1", gpus=gpus or 4).healthy()
    _lost(Node(film=a, name="a-2", rack="r1", gpus=gpus or 4))
    _worn(Node(film=a, name="a-3", rack="r2", gpus=gpus or 2))
    Node(film=a, name="a-4", rack="r2", gpus=gpus or 2, ends=100).healthy()
    _hung(Node(film=a, name="a-5", rack="r3", gpus=gpus or 2, product=A100, driver="570.86.15"))
    Node(film=b, name="a-2", rack="r1", gpus=1).healthy()
    for film in (a, b):
        film.add("up", {"job": "kube-state-metrics", "instance": "ksm:8080"}, always(1))
        for pod in ("r-0", "r-1"):
            film.add("up", {"job": "gpuheal-responder", "instance": f"{pod}:9940", "node": "cpu-1"}, always(1))
        _replicas(film)
    _cases(a)
    _work(a)
    _servers(a)
    held = {"target_node": "a-2", "fault": "nvlink-fault", "step": "reboot", "phase": "cure", "reason": "held"}
    b.responder("gpuheal_case_state", since(30, 1), state="held", **held)
    b.responder("gpuheal_case_opened_timestamp_seconds", since(30, 1800.0), target_node="a-2", case="b-case")
    return [a, b]


def _lost(node: Node) -> None:
    """GPU 1 falls off the bus at 80."""
    node.healthy()
    gpu = 1
    bus = {"pci_bus_id": "0000:11:00"}
    node.of_gpu("gpuheal_gpu_present", gpu, since(80, 0, before=1), **bus)
    for key in node.readings(gpu):
        node.film.series[key] = ended(node.film.series[key], 80)
    node.xid(gpu, 79, 80, "reboot")
    for first, last in ((22, 50), (82, MINUTES + 1)):
        taint = {**TAINT, "value": f"case-{first}"}
        node.ksm("kube_node_spec_taint", between(first, last, 1), **taint)
    node.ksm("kube_node_spec_unschedulable", lambda minute: float(22 <= minute < 50 or minute >= 82))
    pod = {"namespace": "train", "pod": "llm-7", "container": "worker"}
    node.of_gpu("gpuheal_gpu_pod_info", 1, always(1), **pod)


def _worn(node: Node) -> None:
    """GPU 0 has trouble with its memory, heat and PCIe from 60 on, GPU 1 loses an NVLink at 70."""
    node.healthy()
    node.xid(0, 63, 60, "gpu_reset")
    node.of_gpu("gpuheal_gpu_row_remap_pending", 0, since(60, 1, before=0))
    node.of_gpu("gpuheal_gpu_remapped_rows_total", 0, since(60, 3, before=0), cause="correctable")
    corrected = {"severity": "corrected", "counter": "volatile", "location": "dram"}
    node.of_gpu("gpuheal_gpu_ecc_errors_total", 0, lambda minute: 10.0 * max(minute - 60, 0), **corrected)
    # What the rules see only after a day: the growth of these errors.
    grown = {"node": node.name, "gpu_uuid": uuid(node.name, 0), "signal": "ecc_corrected"}
    at = between(61, MINUTES + 1, 1)
    node.film.add("gpuheal:gpu_counter:growth24h", grown, lambda minute: at(minute) and 10.0 * (minute - 60))
    node.of_gpu("gpuheal_gpu_row_remap_banks", 0, since(60, 2, before=0), spare="partial")
    node.of_gpu("gpuheal_gpu_temperature_celsius", 0, since(60, 80, before=50))
    node.of_gpu("gpuheal_gpu_clocks_event", 0, since(60, 1), reason="sw_thermal_slowdown")
    node.of_gpu("gpuheal_gpu_pcie_replays_total", 0, lambda minute: float(max(minute - 60, 0)))
    node.of_gpu("gpuheal_gpu_nvlinks_active", 1, since(70, 17, before=18))
    node.of_gpu("gpuheal_gpu_nvlink_down", 1, since(70, 1), link="5")
    node.of_gpu("gpuheal_gpu_nvlink_errors_total", 1, lambda minute: float(max(minute - 60, 0)), link="5", kind="crc")
    fault = {"pci_bus_id": "0000:10:00", "kind": "aer", "severity": "corrected"}
    node.of_gpu("gpuheal_kernel_fault_last_timestamp_seconds", 0, since(61, 3630.0), **fault)
    node.ksm("kube_node_spec_taint", since(65, 1), **TAINT)
    node.ksm("kube_node_spec_unschedulable", since(65, 1, before=0))
    node.own("gpuheal_kmsg_lost_records_total", since(110, 12, before=0))


def _hung(node: Node) -> None:
    """GPU 0 has Xid 119 at 110; dcgm-exporter alone shows Xid 43 of GPU 1 from 112 on."""
    node.healthy()
    node.xid(0, 119, 110, "gpu_reset")
    node.dcgm("DCGM_FI_DEV_XID_ERRORS", 1, since(112, 43, before=0))


def _replicas(film: Film) -> None:
    for pod, leads in (("r-0", 1), ("r-1", 0)):
        film.responder("gpuheal_leader", always(leads), pod=pod)
        film.responder("gpuheal_frozen", always(0), pod=pod)
        film.responder("gpuheal_responder_info", always(1), pod=pod, version="0.1.0")
        film.responder("gpuheal_config_errors_total", always(0), pod=pod)
        film.responder("gpuheal_unreadable_cases", always(0), pod=pod)
        for time, stall in (("wall", 0.02 + 0.01 * leads), ("cpu", 0.01)):
            film.responder("gpuheal_event_loop_longest_stall_seconds", always(stall), pod=pod, time=time)
    film.responder("gpuheal_last_good_round_timestamp_seconds", lambda minute: minute * 60.0 - 10)
    film.responder("gpuheal_last_good_round_timestamp_seconds", always(0), pod="r-1")
    film.responder("gpuheal_cordon_budget_exhausted", always(0))


def _cases(film: Film) -> None:
    """The responder's cases of cluster a."""

    def state(node: str, fault: str, first: int, last: int, **labels: str) -> None:
        film.responder("gpuheal_case_state", between(first, last, 1), target_node=node, fault=fault, **labels)

    def opened(node: str, case: str, first: int, last: int) -> None:
        at = between(first, last, first * 60.0 - 15)
        film.responder("gpuheal_case_opened_timestamp_seconds", at, target_node=node, case=case)

    end = MINUTES + 1
    opened("a-2", "a-2-first", 20, 50)
    state("a-2", "gpu-gsp-timeout", 20, 22, state="acting", step="taint", phase="contain", reason="begun")
    state("a-2", "gpu-gsp-timeout", 22, 50, state="acting", step="reboot", phase="cure", reason="rebooting")
    opened("a-2", "a-2-second", 81, end)
    lost = {"step": "reboot", "phase": "cure"}
    state("a-2", "gpu-fell-off-bus", 81, 90, state="acting", reason="draining", **lost)
    state("a-2", "gpu-fell-off-bus", 90, end, state="pending", reason="approval-needed", **lost)
    opened("a-3", "a-3-first", 62, end)
    drain = {"step": "drain", "phase": "cure", "reason": "eviction-blocked"}
    state("a-3", "gpu-row-remap-pending", 62, end, state="waiting", **drain)
    opened("a-5", "a-5-first", 111, end)
    budget = {"step": "taint", "phase": "contain", "reason": "pool-budget"}
    state("a-5", "gpu-gsp-timeout", 111, end, state="waiting", **budget)
    film.responder("gpuheal_ignored_faults", since(100, 2), reason="no-policy")
    incident = {"kind": "correlated", "where": "rack:r2", "fault": "gpu-missing"}
    film.responder("gpuheal_incident_nodes", since(115, 3), **incident)


def _histogram(film: Film, metric: str, per_minute: float, bucket: str, mean: float, **labels: str) -> None:
    """Add a histogram in which each observation falls into one bucket."""
    first = BUCKETS.index(bucket)
    for index, le in enumerate(BUCKETS):
        film.responder(f"{metric}_bucket", _grown(per_minute if index >= first else 0), le=le, **labels)
    film.responder(f"{metric}_count", _grown(per_minute), **labels)
    film.responder(f"{metric}_sum", _grown(per_minute * mean), **labels)


def _grown(per_minute: float) -> At:
    return lambda minute: per_minute * minute


def _work(film: Film) -> None:
    """What the responder counts."""
    _histogram(film, "gpuheal_step_duration_seconds", 1 / 20, "10", 4.0, action="taint", outcome="done")
    _histogram(film, "gpuheal_step_duration_seconds", 1 / 40, "900", 600.0, action="reboot", outcome="reboot-deadline")
    _histogram(film, "gpuheal_tick_duration_seconds", 12, "0.5", 0.3, ok="true")
    _histogram(film, "gpuheal_delivery_duration_seconds", 4, "0.1", 0.05)
    film.responder("gpuheal_verdicts_total", _grown(0.1), verdict="act", reason="begun")
    film.responder("gpuheal_verdicts_total", _grown(0.2), verdict="wait", reason="eviction-blocked")
    film.responder("gpuheal_deliveries_total", _grown(4), answer="200")
    film.responder("gpuheal_deliveries_total", lambda minute: float(max(minute - 116, 0)), answer="503")
    film.responder("gpuheal_observe_errors_total", lambda minute: 2.0 * max(minute - 116, 0), source="prometheus")
    film.responder("gpuheal_evidence_ignored_total", _grown(0.1), reason="node-name")
    film.responder("gpuheal_dead_letters_current", since(90, 3), reason="unknown-fault")
    film.responder("gpuheal_config_errors_total", since(100, 1, before=0))


def _servers(film: Film) -> None:
    """What Prometheus and Alertmanager say of themselves; they belong to no cluster."""
    prometheus = {"job": "prometheus", "instance": "prometheus:9090"}
    for group, took, every in zip(GROUPS, (0.8, 0.2), (60, 120), strict=True):
        labels = {**prometheus, "rule_group": group}
        film.add("prometheus_rule_group_last_duration_seconds", labels, always(took))
        film.add("prometheus_rule_group_interval_seconds", labels, always(every))
        film.add("prometheus_rule_evaluation_failures_total", labels, always(0))
        film.add("prometheus_rule_group_iterations_missed_total", labels, lambda minute: float(max(minute - 116, 0)))
    film.add("prometheus_notifications_errors_total", prometheus, always(0))
    film.add("prometheus_notifications_dropped_total", prometheus, lambda minute: 3.0 * max(minute - 116, 0))
    alertmanager = {"job": "alertmanager", "instance": "alertmanager:9093", "integration": "webhook"}
    film.add("alertmanager_notifications_failed_total", alertmanager, lambda minute: float(max(minute - 116, 0)))
    for index, le in enumerate(BUCKETS):
        labels = {**alertmanager, "le": le}
        metric = "alertmanager_notification_latency_seconds_bucket"
        film.add(metric, labels, _grown(4 if index >= BUCKETS.index("0.5") else 0))
