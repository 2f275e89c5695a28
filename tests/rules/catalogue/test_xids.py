"""The tables of Xid and SXid codes: complete, consistent with the published facts, and no contradiction smoothed away.

`xid-facts.json` and `sxid-facts.json` hold what the sources say (numbers, names, buckets, positions of other
tools) without any text; the catalogue must repeat every one of these facts or say why the project decided otherwise.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_rules.catalogue.model import Catalogue

HERE = Path(__file__).parent
CATALOG = Path(__file__).parents[3] / "rules" / "gpuheal_rules" / "catalogue" / "data"
SEVERITY_OF_CLASS = {"fatal": "critical", "degraded": "warning", "warning": "warning", "info": "info"}
ACTIONS = {"none", "alert", "cordon", "restart_services", "isolate_device", "gpu_reset", "reboot", "replace"}
DISRUPTIVE = ACTIONS - {"none", "alert", "cordon"}

# The alert contract's fault kinds that a code can stand for (docs: the contract's table of fault kinds).
FAULTS = {
    "app-gpu-error",
    "fabric-unhealthy",
    "gpu-cold-reset-needed",
    "gpu-ecc-trend",
    "gpu-engine-fault",
    "gpu-confidential-keys",
    "gpu-connection-lost",
    "gpu-fell-off-bus",
    "gpu-gsp-timeout",
    "gpu-memory-contained",
    "gpu-memory-uncontained",
    "gpu-memory-worn",
    "gpu-pcie-degraded",
    "gpu-power",
    "gpu-recovery-required",
    "gpu-row-remap-failed",
    "gpu-row-remap-pending",
    "none",
    "nvlink-degraded",
    "nvlink-fault",
    "nvswitch-fatal",
}


def load(name: str) -> dict[str, Any]:
    """The table as Python data."""
    data: dict[str, Any] = yaml.safe_load((CATALOG / name).read_text())
    return data


def facts(name: str) -> dict[str, Any]:
    """The published facts as Python data."""
    data: dict[str, Any] = json.loads((HERE / name).read_text())
    return data


XIDS = load("xids.yaml")
SXIDS = load("sxids.yaml")
XID_FACTS = facts("xid-facts.json")
SXID_FACTS = facts("sxid-facts.json")
BY_CODE = {entry["code"]: entry for entry in XIDS["xids"]}
SBY_CODE = {entry["code"]: entry for entry in SXIDS["sxids"]}


def test_every_known_xid_is_in_the_table_once() -> None:
    """All 176 codes of the published facts are entries, in order and without a double."""
    assert [entry["code"] for entry in XIDS["xids"]] == XID_FACTS["codes"] == list(range(1, 177))


def test_every_known_sxid_is_in_the_table_once() -> None:
    """All 421 switch codes of the published facts are entries, in order and without a double."""
    assert [str(entry["code"]) for entry in SXIDS["sxids"]] == list(SXID_FACTS["facts"])
    assert len(SXIDS["sxids"]) == 421


@pytest.mark.parametrize("code", XID_FACTS["codes"])
def test_an_xid_repeats_the_published_facts(code: int) -> None:
    """Name, status, bucket, parts, driver, positions of others and confidence are as published."""
    entry, fact = BY_CODE[code], XID_FACTS["facts"][str(code)]
    assert entry["name"] == fact["name"]
    assert entry["status"] == fact["status"]
    assert entry["class"] == fact["class"]
    assert (entry["bucket"], entry["followup"]) == (fact["bucket"], fact["followup"])
    assert entry["app"] == fact["app"]
    assert entry.get("parts") == fact["parts"]
    assert entry.get("driver", {}).get("first") == fact["first"]
    assert ("xid154" in entry.get("driver", {})) == fact["xid154"]
    assert entry.get("others") == fact["others"]
    assert entry["sources"] == fact["sources"]
    assert entry["confidence"] == fact["confidence"]


@pytest.mark.parametrize("code", XID_FACTS["codes"])
def test_a_disagreement_between_tools_is_kept(code: int) -> None:
    """As many positions are recorded as the sources have, each with who says it."""
    entry, fact = BY_CODE[code], XID_FACTS["facts"][str(code)]
    assert len(entry.get("disputed", [])) == fact["disputed"]
    for claim in entry.get("disputed", []):
        assert set(claim) == {"by", "says"}
        assert claim["by"] in XIDS["sources"]


@pytest.mark.parametrize("code", XID_FACTS["codes"])
def test_a_decision_against_the_tables_says_so(code: int) -> None:
    """The first step is the tables' own, or the entry names that one and the reason for ours."""
    entry, fact = BY_CODE[code], XID_FACTS["facts"][str(code)]
    if "decided" in entry:
        assert entry["decided"]["table_action"] == fact["action"] != entry["action"]
        assert entry["decided"]["table_escalate"] == fact["escalate_to"]
        assert entry["decided"]["because"]
    else:
        assert entry["action"] == fact["action"]
        assert entry.get("escalate", {}).get("to") == fact["escalate_to"]


@pytest.mark.parametrize("entry", XIDS["xids"], ids=lambda entry: str(entry["code"]))
def test_an_xid_is_well_formed(entry: dict[str, Any]) -> None:
    """Fault, severity and steps come from the closed sets, sources are declared, the summary is one short line."""
    assert entry["fault"] in FAULTS
    assert entry["severity"] == SEVERITY_OF_CLASS[entry["class"]]
    assert entry["action"] in ACTIONS
    if "escalate" in entry:
        assert entry["escalate"]["to"] in ACTIONS
        assert entry["escalate"]["when"]
    assert set(entry["sources"]) <= set(XIDS["sources"])
    assert 10 <= len(entry["summary"]) <= 110
    assert not entry["summary"].endswith(".")
    assert entry["bucket"] is None or entry["bucket"] in XIDS["buckets"]


def test_the_decided_defaults_of_the_contract_hold() -> None:
    """79 reboots then replaces, 119 and 120 reboot, 64 replaces, 48 and 95 reset then replace, 110 reboots."""
    steps = {code: (BY_CODE[code]["action"], BY_CODE[code].get("escalate", {}).get("to")) for code in BY_CODE}
    assert steps[79] == ("reboot", "replace")
    assert steps[119] == steps[120] == ("reboot", "replace")
    assert steps[64] == ("replace", None)
    assert steps[48] == steps[95] == ("gpu_reset", "replace")
    assert steps[110] == ("reboot", "replace")
    assert steps[63][0] == steps[94][0] == "alert"


def test_the_fault_kinds_are_those_of_the_contract() -> None:
    """Each code the contract names carries the fault the contract names for it."""
    expected = {
        "gpu-memory-uncontained": {48, 95},
        "gpu-memory-contained": {94},
        "gpu-ecc-trend": {92},
        "gpu-row-remap-pending": {63},
        "gpu-row-remap-failed": {64},
        "gpu-fell-off-bus": {79},
        "nvlink-fault": {74, *range(144, 151)},
        "gpu-gsp-timeout": {119, 120},
        "gpu-engine-fault": {46, 62, 109},
        "gpu-cold-reset-needed": {110},
        "gpu-recovery-required": {154},
        "app-gpu-error": {13, 31, 43, 45},
    }
    for fault, codes in expected.items():
        assert {BY_CODE[code]["fault"] for code in codes} == {fault}


def test_an_application_error_never_acts_on_hardware() -> None:
    """No code of app-gpu-error has a first step above telling people."""
    steps = {entry["action"] for entry in XIDS["xids"] if entry["fault"] == "app-gpu-error"}
    assert steps <= {"none", "alert"}


def test_a_code_without_fault_never_disrupts() -> None:
    """A code that is no fault by itself has no step that ends work, in either table."""
    for entry in [*XIDS["xids"], *SXIDS["sxids"]]:
        if entry["fault"] == "none":
            assert entry["action"] not in DISRUPTIVE, entry["code"]


def test_a_step_that_disrupts_has_a_source_beyond_one_header() -> None:
    """No code known from a driver header only reboots or replaces on its first event."""
    for entry in XIDS["xids"]:
        if entry["status"] == "header_only":
            assert entry["action"] not in {"reboot", "replace"}, entry["code"]


def test_recovery_actions_are_complete() -> None:
    """The driver's verdict has a step for each of the values 0 to 7, and 0 asks for none."""
    values = {row["value"]: row["action"] for row in XIDS["recovery_actions"]}
    expected = ["none", "gpu_reset", "reboot", "isolate_device", "gpu_reset", "restart_services", "gpu_reset", "reboot"]
    assert [values[value] for value in range(8)] == expected
    assert all(isinstance(name, str) for row in XIDS["recovery_actions"] for name in row["names"])


@pytest.mark.parametrize("code", [int(code) for code in SXID_FACTS["facts"]])
def test_an_sxid_repeats_the_published_facts(code: int) -> None:
    """Name, driver's word, switch, guide, bucket, step and confidence are as published; a contradiction has a note."""
    entry, fact = SBY_CODE[code], SXID_FACTS["facts"][str(code)]
    for ours, theirs in {"name": "mnemonic", "class": "severity"}.items():
        assert entry[ours] == fact[theirs]
    for key in ("driver_severity", "switch", "fm_guide", "bucket", "action", "confidence", "sources"):
        assert entry[key] == fact[key]
    assert ("note" in entry) == fact["noted"]


def test_the_rules_of_a_line_are_pairs() -> None:
    """Each rule about an SXid line has what the line says and what to do, nothing lost to punctuation."""
    assert all({"line", "then"} == set(rule) for rule in SXIDS["rules"])


@pytest.mark.parametrize("entry", SXIDS["sxids"], ids=lambda entry: str(entry["code"]))
def test_an_sxid_is_well_formed(entry: dict[str, Any]) -> None:
    """Fault, severity and step come from the closed sets and the step fits the fault."""
    assert entry["fault"] in FAULTS
    assert entry["severity"] == SEVERITY_OF_CLASS[entry["class"]]
    assert entry["action"] in ACTIONS
    assert set(entry["sources"]) <= set(SXIDS["sources"])
    assert entry["bucket"] is None or entry["bucket"] in SXIDS["buckets"]
    assert (entry["action"] in {"reboot", "cordon"}) == (entry["fault"] == "nvswitch-fatal")


def test_codes_that_always_hit_the_fabric_reboot() -> None:
    """The twenty codes the guide calls always fatal are listed and ask for a reboot, not for one GPU's reset."""
    assert SXIDS["always_fatal"] == SXID_FACTS["always_fatal"]
    for code in SXIDS["always_fatal"]:
        assert (SBY_CODE[code]["fault"], SBY_CODE[code]["action"]) == ("nvswitch-fatal", "reboot")


def test_faults_of_the_tables_exist_in_the_catalogue() -> None:
    """Every fault a code stands for is a kind the catalogue defines."""
    text = (CATALOG / "faults.yaml").read_text()
    slugs = set(re.findall(r"[a-z][a-z0-9-]+", text))
    used = {entry["fault"] for entry in [*XIDS["xids"], *SXIDS["sxids"]]} - {"none"}
    assert used <= slugs


def test_a_code_of_the_nvlink5_kind_is_judged_by_its_line() -> None:
    """144 to 150 point to decoding: the bucket is a workflow and the summary says so."""
    for code in range(144, 151):
        assert XIDS["buckets"][BY_CODE[code]["bucket"]] == "decode"
        assert "decoded" in BY_CODE[code]["summary"]


def test_every_workflow_a_bucket_names_is_written_down() -> None:
    """A bucket that is a workflow has its steps in the table, each with a condition."""
    named = {entry["bucket"] for entry in XIDS["xids"]} | {entry["followup"] for entry in XIDS["xids"]}
    flows = {
        name for name in named if name and (name.startswith("WORKFLOW_XID_") or name in {"CHECK_UVM", "XID_137_FLOW"})
    }
    assert flows <= set(XIDS["workflows"])
    assert all({"when", "then"} == set(step) for steps in XIDS["workflows"].values() for step in steps)


def test_the_fault_catalogue_takes_its_codes_from_the_table(catalogue: Catalogue) -> None:
    """Each fault that lists Xids lists exactly those the table gives it."""
    by_fault: dict[str, set[int]] = {}
    for entry in XIDS["xids"]:
        by_fault.setdefault(entry["fault"], set()).add(entry["code"])
    for slug, fault in catalogue.faults.items():
        if fault.xids:
            assert set(fault.xids) == by_fault[slug], slug
    assert not catalogue.faults["gpu-recovery-required"].xids, "154 is read by its value"
    listed = {code for fault in catalogue.faults.values() for code in fault.xids}
    assert {79, 48, 119, 74, 64} <= listed


# Codes whose first step is milder than their fault's ladder: the line or the driver's verdict has to ask for more.
MILDER = {63, 94, 147, 148, 154, 160}


def test_a_code_s_step_is_the_first_cure_of_its_fault_s_ladder(catalogue: Catalogue) -> None:
    """A code never asks for another cure than its fault's ladder begins with; the milder ones are listed above."""
    cures = ("restart_services", "isolate_device", "gpu_reset", "reboot", "replace")
    for entry in XIDS["xids"]:
        fault = catalogue.faults.get(entry["fault"])
        if fault is None:
            continue
        first = next((rung for rung in fault.ladder if rung in cures), "")
        if entry["action"] in cures:
            assert entry["action"] == first, entry["code"]
        else:
            assert (first != "") == (entry["code"] in MILDER), entry["code"]
