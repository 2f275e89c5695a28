"""The catalogue is complete, and a mistake in it is reported with file and path."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuheal_responder.core.duration import format_duration as written
from gpuheal_responder.core.duration import parse_duration as read
from gpuheal_rules.catalogue.load import CATALOG, load_catalogue
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.catalogue.reader import format_duration, parse_duration
from gpuheal_rules.errors import ConfigError

CONTRACT_FAULTS = (
    "gpu-memory-uncontained", "gpu-memory-contained", "gpu-row-remap-pending", "gpu-row-remap-failed",
    "gpu-sram-threshold", "gpu-ecc-trend", "gpu-fell-off-bus", "gpu-pcie-degraded",
    "gpu-missing", "nvlink-fault", "nvlink-degraded", "nvswitch-fatal",
    "fabric-unhealthy", "fabric-manager-down", "gpu-gsp-timeout", "gpu-engine-fault",
    "gpu-cold-reset-needed", "gpu-driver-hung", "gpu-driver-missing", "device-plugin-down",
    "gpu-recovery-required", "gpu-thermal", "gpu-power", "gpu-slow",
    "app-gpu-error", "gpu-suspect-repeat", "node-gpu-condition", "node-not-ready",
    "nic-down", "rack-correlated", "fabric-domain-correlated", "rollout-correlated",
    "telemetry-missing", "telemetry-anomaly", "pipeline-broken",
)  # fmt: skip


def test_every_fault_kind_of_the_contract_is_in_the_catalogue(catalogue: Catalogue) -> None:
    """The fault kinds of the alert contract each have an entry; the catalogue may have more."""
    assert set(CONTRACT_FAULTS) <= set(catalogue.faults)


def test_every_alert_has_one_severity_and_belongs_to_one_fault(catalogue: Catalogue) -> None:
    """Alert names are unique, so that stock inhibition by alertname and severity cannot cross faults."""
    names = [alert.name for _fault, alert in catalogue.alerts()]
    assert len(set(names)) == len(names)


def test_every_number_names_where_it_comes_from(catalogue: Catalogue) -> None:
    """Thresholds carry a reason and a source; faults carry sources."""
    assert all(t.reason and t.source and t.unit for t in catalogue.thresholds.values())
    assert all(n.reason and n.source and n.changes for n in catalogue.numbers.values())
    assert all(fault.sources for fault in catalogue.faults.values())


def test_every_threshold_and_signal_with_counters_is_used_or_shown(catalogue: Catalogue) -> None:
    """A threshold that no rule reads would be a knob without effect."""
    rules = (CATALOG.parents[2] / "generated" / "gpuheal.rules.yaml").read_text()
    unread = [name for name in catalogue.thresholds if f'gpuheal:threshold{{job="", name="{name}"}}' not in rules]
    assert unread == []


def test_application_xids_are_no_fault_of_hardware_or_node(catalogue: Catalogue) -> None:
    """13, 31, 43 and 45 belong to app-gpu-error, which changes no state and has no ladder."""
    fault = catalogue.faults["app-gpu-error"]
    assert {13, 31, 43, 45} <= set(fault.xids)
    assert (fault.state, fault.hardware, fault.ladder) == ("none", False, ("none",))


def test_trends_never_act(catalogue: Catalogue) -> None:
    """Growing corrected errors and remaps are weak, severity info, and change no state."""
    fault = catalogue.faults["gpu-ecc-trend"]
    assert all(evidence.strength == "weak" for evidence in fault.evidence)
    assert fault.state == "none"
    assert {alert.severity for alert in fault.alerts} == {"info"}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("faults.yaml", "gpu-thermal.colour=red", r"faults.yaml: gpu-thermal.colour: unknown key \(known: title"),
        ("faults.yaml", "gpu-thermal.scope=rack", "faults.yaml: gpu-thermal.scope: expected one of gpu, node"),
        ("faults.yaml", "gpu-thermal.title=", "faults.yaml: gpu-thermal.title: expected a string"),
        ("faults.yaml", "gpu-thermal.alerts=[]", "faults.yaml: gpu-thermal.alerts: a fault needs at least one alert"),
        ("faults.yaml", "nvlink-fault.downgrade=x", "faults.yaml: nvlink-fault.downgrade: unknown fault 'x'"),
        ("faults.yaml", "gpu-thermal.ladder=[]", "faults.yaml: gpu-thermal.ladder: at least one rung"),
        ("faults.yaml", "gpu-thermal.ladder=[alert, dance]", r"gpu-thermal.ladder\[1\]: expected one of none, alert"),
        ("faults.yaml", "gpu-thermal.ladder=[reboot, drain]", r"gpu-thermal.ladder\[1\]: drain after reboot"),
        ("faults.yaml", "gpu-thermal.ladder=[taint, drain]", "gpu-thermal.ladder: a ladder that begins with taint"),
        ("thresholds.yaml", "hold_seconds.value=true", "thresholds.yaml: hold_seconds.value: expected a number"),
        ("signals.yaml", "fabric_health.metrics=[]", "signals.yaml: fabric_health.metrics: at least one metric"),
        ("signals.yaml", "fabric_health.metrics=['a b']", r"signals.yaml: fabric_health.metrics\[0\]: 'a b' is not"),
        ("conditions.yaml", "conditions=[{type: GPUHealthy}]", r"conditions.yaml: conditions\[0\].type: 'GPUHealthy'"),
        ("labels.yaml", "alert=x", "labels.yaml: alert: expected a list, got str"),
    ],
)
def test_a_mistake_is_reported_with_file_and_path(tmp_path: Path, file: str, change: str, message: str) -> None:
    """Unknown keys, wrong types, missing texts and dangling references name the file and the path inside it."""
    folder = tmp_path / "catalog"
    shutil.copytree(CATALOG, folder)
    path, _, value = change.partition("=")
    tree = yaml.safe_load((folder / file).read_text())
    place = tree
    *parents, last = path.split(".")
    for part in parents:
        place = place[part]
    place[last] = yaml.safe_load(value) if value else ""
    (folder / file).write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=message):
        load_catalogue(folder)


def test_a_file_that_is_missing_or_no_yaml_is_reported_by_name(tmp_path: Path) -> None:
    """An absent file and a broken one are told apart, with the line of the mistake."""
    with pytest.raises(ConfigError, match=re.escape("labels.yaml: cannot be read")):
        load_catalogue(tmp_path)
    (tmp_path / "labels.yaml").write_text("a: [1\nb: 2\n")
    with pytest.raises(ConfigError, match=r"labels.yaml: line 2: not YAML"):
        load_catalogue(tmp_path)


@pytest.mark.parametrize("text", ["0s", "15s", "1m30s", "1h", "1d2h", "500ms"])
def test_durations_are_written_as_they_are_read(text: str) -> None:
    """Prometheus durations survive reading and writing."""
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize("text", ["", "5", "5 m", "m5", "-5m", "1.5h"])
def test_other_texts_are_no_durations(text: str) -> None:
    """Numbers without a unit, blanks, signs and fractions are refused."""
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=4000)))
def test_the_responder_writes_spans_as_the_rules_do(span: timedelta) -> None:
    """Each part has its own few lines, for neither may load the other's room; what one writes the other reads alike."""
    text = format_duration(span)
    assert text == written(span)
    assert parse_duration(text) == read(text)
