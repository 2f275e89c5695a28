"""What an alert says of its own evidence, as Prometheus expands it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from gpuheal_rules.cases.document import expand
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.alerts import static_labels
from gpuheal_rules.groups.telling import MILDER, tail
from gpuheal_rules.options import Options
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.render import build_groups, rule_file

STEPS = 40


def braces(labels: Mapping[str, object]) -> str:
    """Labels as a selector writes them."""
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


class Site:
    """Input series of a few nodes, and what fires on them."""

    def __init__(self) -> None:
        self.series: dict[str, str] = {}

    def show(self, metric: str, labels: Mapping[str, object], values: str) -> None:
        """Add a series."""
        self.series[metric + braces(labels)] = values

    def node(self, node: str) -> dict[str, object]:
        """Add a healthy exporter with two GPUs; return its target labels."""
        target: dict[str, object] = {"job": "gpuheal-exporter", "instance": f"{node}:9845", "node": node}
        self.show("up", target, f"1x{STEPS}")
        self.show("gpuheal_exporter_heartbeat_timestamp_seconds", target, f"0+15x{STEPS}")
        for metric in ("gpuheal_kmsg_up", "gpuheal_nvml_up"):
            self.show(metric, target, f"1x{STEPS}")
        for index in range(2):
            for metric in ("gpuheal_gpu_info", "gpuheal_gpu_present"):
                self.show(metric, {**target, "gpu_uuid": f"GPU-{node}-{index}"}, f"1x{STEPS}")
        return target

    def xid(self, target: Mapping[str, object], gpu: int, code: int) -> None:
        """Latch an Xid."""
        labels = {**target, "gpu_uuid": f"GPU-{target['node']}-{gpu}", "xid": code}
        self.show("gpuheal_xid_latched", labels, f"_x7 1x{STEPS - 8}")
        self.show("gpuheal_xid_last_timestamp_seconds", labels, f"_x7 120x{STEPS - 8}")


def _faulty() -> Site:
    """A site whose three nodes have a fault of every kind of evidence."""
    site = Site()
    first, second, third = (site.node(name) for name in ("n1", "n2", "n3"))
    site.xid(first, 0, 79)
    site.show("gpuheal_gpu_present", {**first, "gpu_uuid": "GPU-n1-0"}, f"1x10 0x{STEPS - 11}")
    dcgm = {"job": "dcgm-exporter", "instance": "n1:9400", "node": "n1", "UUID": "GPU-n1-0", "err_code": 79}
    site.show("up", {name: dcgm[name] for name in ("job", "instance", "node")}, f"1x{STEPS}")
    site.show("DCGM_FI_DEV_GPU_TEMP", dcgm, f"40x{STEPS}")
    site.show("DCGM_FI_DEV_XID_ERRORS", dcgm, f"_x7 79x{STEPS - 8}")
    site.xid(first, 1, 94)
    site.xid(first, 1, 95)
    milder = {"gpu_uuid": "GPU-n1-1", "xid": 95, "action": "none", "basis": "message", "blames": ""}
    site.show("gpuheal_xid_resolution_info", {**first, **milder}, f"_x7 1x{STEPS - 8}")
    site.xid(second, 0, 321)
    site.xid(second, 0, 59)
    site.show("gpuheal_gpu_recovery_action", {**third, "gpu_uuid": "GPU-n3-0"}, f"_x7 2x{STEPS - 8}")
    switch = {"switch": 3, "pci_bus_id": "0000:c1:00", "sxid": 20034, "link": 30, "severity": "fatal"}
    site.show("gpuheal_sxid_latched", {**third, **switch}, f"_x7 1x{STEPS - 8}")
    site.show("gpuheal_sxid_last_timestamp_seconds", {**third, **switch}, f"_x7 120x{STEPS - 8}")
    site.show("gpuheal_sxid_resolution_info", {**third, **switch, "action": "reboot"}, f"_x7 1x{STEPS - 8}")
    kubernetes = {"job": "kube-state-metrics", "node": "n3", "condition": "XidCriticalError", "status": "true"}
    site.show("kube_node_status_condition", kubernetes, f"1x{STEPS}")
    return site


def test_every_alert_of_a_fault_says_what_was_reported_and_by_whom(
    catalogue: Catalogue, promtool: str, tmp_path: Path
) -> None:
    """The description ends with codes and their meaning, switch events, conditions or the recovery action, and with
    the witness classes; a code that its line moved here does not carry the text of its number."""
    site = _faulty()
    text = catalogue.xid_texts
    expected = {
        ("GPUFellOffBus", "n1", "GPU-n1-0", 3): f"Reported: Xid 79 ({text[79]}). "
        "Seen by: dcgm (xid), kernel (xid), nvml (lost-nvml).",
        ("GPUMemoryContained", "n1", "GPU-n1-1", 1): f"Reported: Xid 94 ({text[94]}), Xid 95 ({MILDER}). "
        "Seen by: kernel (xid).",
        ("GPUOtherXid", "n2", "GPU-n2-0", 1): f"Reported: Xid 321 (not in the catalogue), Xid 59 ({text[59]}). "
        "Seen by: kernel (other-xid).",
        (
            "GPURecoveryRequired",
            "n3",
            "GPU-n3-0",
            1,
        ): "Asked for: recovery action 2. Seen by: driver (recovery_action).",
        ("GPUNVSwitchFatal", "n3", "", 1): "Reported: SXid 20034 of switch 3, link 30. Seen by: kernel (sxid).",
        ("GPUNodeCondition", "n3", "", 1): "Reported: XidCriticalError. Seen by: kubernetes (condition).",
    }
    options = Options()
    tests = []
    alerts = {alert.name: (fault, alert) for fault, alert in catalogue.alerts()}
    for (name, node, gpu, witnesses), ends in expected.items():
        fault, alert = alerts[name]
        labels = {**static_labels(fault, alert, options), "node": node, **({"gpu_uuid": gpu} if gpu else {})}
        annotations = {
            "summary": expand(alert.summary, labels, witnesses),
            "description": f"{expand(alert.description, labels, witnesses)} {ends}",
            "runbook_url": f"{options.runbook_base}/{name}",
        }
        fires = [{"exp_labels": labels, "exp_annotations": annotations}]
        tests.append({"eval_time": "9m", "alertname": name, "exp_alerts": fires})
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in site.series.items()],
                "alert_rule_test": tests,
            }
        ],
    }
    (tmp_path / "rules.yaml").write_text(rule_file(build_groups(catalogue, options)))
    (tmp_path / "texts.test.yaml").write_text(yaml.safe_dump(document, width=100_000))
    assert run_tests(promtool, [tmp_path / "texts.test.yaml"]) == ""


def test_a_text_asks_within_its_cluster(catalogue: Catalogue) -> None:
    """Where one ruler serves several clusters, what another cluster's node of the same name reported is not told."""
    for fault, alert in catalogue.alerts():
        if not alert.expr:
            said = tail(catalogue, Options(cluster_label="cluster"), fault)
            assert "cluster=%q" in said
            assert said.count("$labels.cluster") == said.count("{{ with query")
