"""Every form of the configuration on the real amtool of both generations: accepted, and every alert goes its way."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.rules.routes.forms import FORMS, PREFIX, final_config

from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.spec import Generation
from gpuheal_rules.routes.alertmanager import AlertmanagerParams, render_config
from gpuheal_rules.routes.operatorconfig import DEFAULT_PARAMS

pytestmark = pytest.mark.servers

GENERATIONS = list(Generation)
OURS = {"namespace": "gpuheal", "cluster": "c1", "node": "n1", "scope": "gpu"}
PARAMS = replace(DEFAULT_PARAMS, people_receiver="oncall", deadman_url="https://deadman.example/ping")

# labels → receivers per form, in the order of the routes; P stands for the operator's prefix
CASES: dict[str, tuple[dict[str, str], dict[str, list[str]]]] = {
    "critical": (
        {**OURS, "alertname": "GPUFellOffBus", "fault": "gpu-fell-off-bus", "severity": "critical"},
        {"*": ["P:gpuheal-responder", "oncall"]},
    ),
    "warning": (
        {**OURS, "alertname": "GPURowRemapPending", "fault": "gpu-row-remap-pending", "severity": "warning"},
        {"*": ["P:gpuheal-responder", "oncall"]},
    ),
    "info": (
        {**OURS, "alertname": "GPUECCTrend", "fault": "gpu-ecc-trend", "severity": "info"},
        # an AlertmanagerConfig object adds a route; whom the site's own root sends everything to, it cannot change
        {"*": ["P:gpuheal-responder"], "object": ["P:gpuheal-responder", "oncall"]},
    ),
    "without a node": (
        {
            "namespace": "gpuheal",
            "alertname": "GPUHealTelemetryAnomaly",
            "fault": "telemetry-anomaly",
            "severity": "critical",
        },
        {"*": ["P:gpuheal-responder", "oncall"]},
    ),
    "heartbeat": (
        {"namespace": "gpuheal", "alertname": "GPUHealWatchdog", "fault": "watchdog", "severity": "info"},
        {"*": ["P:gpuheal-deadman", "P:gpuheal-watchdog"]},
    ),
    "about the responder": (
        {**OURS, "alertname": "GPUHealHeld", "fault": "held", "severity": "warning"},
        {"*": ["oncall"], "object": ["P:gpuheal-nothing", "oncall"]},
    ),
    "someone else's": (
        {"namespace": "shop", "alertname": "HighLatency", "severity": "critical"},
        {"own": ["oncall"], "values": ["null"], "object": ["null"]},
    ),
    "someone else's in our namespace": (
        {"namespace": "gpuheal", "alertname": "KubePodCrashLooping", "severity": "warning"},
        {"own": ["oncall"], "values": ["null"], "object": ["P:gpuheal-nothing"]},
    ),
    "a fault label in another namespace": (
        {"namespace": "shop", "alertname": "ShopFault", "fault": "till-jammed", "severity": "warning"},
        {"own": ["oncall"], "values": ["null"], "object": ["oncall"]},
    ),
    "the stack's watchdog": (
        {"namespace": "monitoring", "alertname": "Watchdog", "severity": "none"},
        {"own": ["oncall"], "values": ["null"], "object": ["null"]},
    ),
    "the stack's info inhibitor": (
        {"namespace": "gpuheal", "alertname": "InfoInhibitor", "severity": "none"},
        {"own": ["oncall"], "values": ["null"], "object": ["P:gpuheal-nothing"]},
    ),
}


def amtool(generation: Generation, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """One run of that generation's amtool."""
    command = find("amtool", generation).command(*args, folder=folder)
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The file with the responder's token."""
    path = tmp_path / "token"
    path.write_text("secret-token\n")
    return path


def written(folder: Path, form: str, token: Path, params: AlertmanagerParams = PARAMS) -> str:
    """The path of that form's final configuration."""
    path = folder / f"{form}.yml"
    path.write_text(yaml.safe_dump(final_config(form, params, token), sort_keys=False))
    return str(path)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_accepted(generation: Generation, form: str, tmp_path: Path, token: Path) -> None:
    """amtool check-config takes the final configuration of each form, old and new."""
    run = amtool(generation, tmp_path, "check-config", written(tmp_path, form, token))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "SUCCESS" in run.stdout


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_rendered_text_is_accepted_as_it_is(generation: Generation, tmp_path: Path) -> None:
    """The text of render_config, comments included, passes amtool check-config with every parameter in use."""
    path = tmp_path / "alertmanager.yml"
    params = replace(
        PARAMS, ca_file="/ca", cert_file="/c", key_file="/k", people_config={"webhook_configs": [{"url": "http://p/"}]}
    )
    path.write_text(render_config(params))
    run = amtool(generation, tmp_path, "check-config", str(path))
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", FORMS)
def test_an_alert_goes_where_it_should(
    generation: Generation, form: str, case: str, tmp_path: Path, token: Path
) -> None:
    """amtool's own router sends the alert to exactly the expected receivers, in order."""
    labels, expected = CASES[case]
    receivers = ",".join(name.replace("P:", PREFIX[form]) for name in expected.get(form, expected.get("*", [])))
    path = written(tmp_path, form, token)
    pairs = [f"{name}={value}" for name, value in labels.items()]
    verify = f"--verify.receivers={receivers}"
    run = amtool(generation, tmp_path, "config", "routes", "test", f"--config.file={path}", verify, *pairs)
    assert run.returncode == 0, f"{run.stdout}{run.stderr} expected {receivers}"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_wrong_expectation_fails(generation: Generation, tmp_path: Path, token: Path) -> None:
    """The check above can fail: amtool refuses a receiver that does not get the alert."""
    labels, _ = CASES["heartbeat"]
    pairs = [f"{name}={value}" for name, value in labels.items()]
    path = written(tmp_path, "own", token)
    run = amtool(
        generation, tmp_path, "config", "routes", "test", f"--config.file={path}", "--verify.receivers=oncall", *pairs
    )
    assert run.returncode == 1
