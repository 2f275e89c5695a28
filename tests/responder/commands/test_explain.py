"""`gpuheal explain` and `gpuheal check` on files: what they print, to the letter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_responder import __version__, cli
from gpuheal_responder.core.decide import decide
from gpuheal_responder.core.life import stamp
from gpuheal_responder.core.world import Need
from gpuheal_responder.shell.policies import read_policies
from gpuheal_responder.shell.record import decision, load_case, load_world

DATA = Path(__file__).parent / "data" / "explain"
ALERT, WORLD, POLICIES = DATA / "alert.json", DATA / "world.yaml", DATA / "policies.yaml"
UNDO = {
    "case": "gpu-17-1",
    "owner": "gpuheal",
    "at": "2026-03-01T11:58:10Z",
    "policy": "training",
    "faults": ["gpu-fell-off-bus"],
    "changes": [
        {"kind": "taint", "name": "gpu.health/unhealthy", "after": {"value": "true", "effect": "NoSchedule"}},
        {"kind": "cordon"},
    ],
    "gpus": ["GPU-7d1e"],
}
CASE = {
    "name": "gpu-17-1",
    "node": "gpu-17",
    "openedAt": "2026-03-01T11:58:10Z",
    "policy": "training",
    "nodeUID": "0d9c1c7e-1111-4b5f-9f7e-000000000017",
    "gpus": ["GPU-7d1e"],
    "attempts": [
        {
            "step": step,
            "action": step,
            "phase": "contain",
            "operation": f"gpu-17-1-{step}-1",
            "state": "succeeded",
            "startedAt": "2026-03-01T11:58:10Z",
            "endedAt": "2026-03-01T11:58:11Z",
        }
        for step in ("taint", "condition")
    ],
}


def out(capsys: pytest.CaptureFixture[str], *args: object, status: int = 0) -> str:
    """Run gpuheal, check its exit status, return what it printed on the right stream."""
    found = cli.main([str(arg) for arg in args])
    printed = capsys.readouterr()
    assert (found, printed.err if status == 0 else printed.out) == (status, "")
    return printed.out if status == 0 else printed.err


def changed(folder: Path, source: Path, change: Mapping[str, Any]) -> Path:
    """Write a copy of a YAML file with top-level keys replaced."""
    made = folder / source.name
    made.write_text(yaml.safe_dump({**yaml.safe_load(source.read_text()), **change}))
    return made


def silenced(folder: Path) -> Path:
    """Write a copy of the alert as a silence changes it."""
    (alert,) = json.loads(ALERT.read_text())
    made = folder / "alert.json"
    made.write_text(json.dumps({**alert, "status": {"state": "suppressed", "silencedBy": ["s-1"]}}))
    return made


def contained(folder: Path) -> tuple[Path, Path]:
    """Write the world and the case a moment after containment."""
    node = {**yaml.safe_load(WORLD.read_text())["node"], "unschedulable": True, "undo": UNDO}
    node["taints"] = [{"key": "gpu.health/unhealthy", "value": "true"}]
    (folder / "case.yaml").write_text(yaml.safe_dump(CASE))
    pod = {"namespace": "ml", "name": "train-0", "uid": "u-1", "ownerKind": "Job", "ownerName": "train", "gpus": 8}
    return changed(folder, WORLD, {"node": node, "pods": [pod]}), folder / "case.yaml"


def test_a_proven_fault_is_contained(capsys: pytest.CaptureFixture[str]) -> None:
    """The verdict, then a line per guard that is asked at this moment."""
    assert out(capsys, "explain", ALERT, WORLD, "--policies", POLICIES, "--cluster", "prod") == (
        "fault    gpu-fell-off-bus on GPU-7d1e since 2026-03-01T11:58:00+00:00\n"
        f"case     gpu-17-{stamp(datetime(2026, 3, 1, 12, tzinfo=UTC))} under policy training (propose)\n"
        "verdict  act: taint (not-marked)\n"
        "guard    signal: answered: pass\n"
        "guard    signal: active: pass\n"
        "guard    signal: unsuppressed: pass\n"
        "guard    signal: unsilenced: pass\n"
        "guard    signal: confident: pass\n"
        "guard    signal: unsettled: pass\n"
        "guard    budget: marks: pass\n"
        "guard    permission: mode_allows: pass\n"
        "guard    permission: unpaused: pass\n"
        "guard    permission: unheld: pass\n"
        "guard    permission: left_to_us: pass\n"
    )


def test_a_silence_holds_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The refusing guard says which silence; the others still answer."""
    printed = out(capsys, "explain", silenced(tmp_path), WORLD, "--policies", POLICIES)
    assert "verdict  hold: taint (alert-silenced)" in printed
    assert "guard    signal: unsilenced: alert-silenced: silenced by silence s-1\n" in printed
    assert printed.count(": pass") == 10


def test_a_proposal_says_what_to_approve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In mode propose the drain waits for the command that the refusal spells out."""
    world, case = contained(tmp_path)
    printed = out(capsys, "explain", ALERT, world, "--policies", POLICIES, "--case", case)
    assert "verdict  hold: drain (approval-needed)" in printed
    assert "needs approval; approve with: gpuheal approve gpu-17-1 --step drain --evidence " in printed


def test_a_foreign_cluster_is_a_dead_letter(capsys: pytest.CaptureFixture[str]) -> None:
    """An alert of another cluster opens nothing, and says why."""
    assert out(capsys, "explain", ALERT, WORLD, "--policies", POLICIES, "--cluster", "lab") == (
        "rejected GPUFellOffBus: cluster-mismatch: cluster is 'prod', expected 'lab'\n"
        "verdict  none: no-policy: no policy matches these faults on this node\n"
    )


def test_why_a_policy_does_not_match_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each policy says what it lacks: the fault, or labels of the node."""
    policy = yaml.safe_load(POLICIES.read_text())["policies"][0]
    other = {**policy, "name": "other", "match": {"faults": ["gpu-thermal"]}}
    labelled = {**policy, "match": {**policy["match"], "nodes": {"matchLabels": {"pool": "h100"}}}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"policies": [other, labelled]}))
    printed = out(capsys, "explain", ALERT, WORLD, "--policies", tmp_path / "p.yaml")
    assert "policy   other: does not list gpu-fell-off-bus under match.faults\n" in printed
    assert f"policy   {policy['name']}: the node's labels do not match pool In h100\n" in printed


def test_a_webhook_message_does_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What Alertmanager posts can be used as it is; resolved alerts in it say nothing."""
    (alert,) = json.loads(ALERT.read_text())
    message = {"version": "4", "alerts": [{**alert, "status": "firing"}, {**alert, "status": "resolved"}]}
    (tmp_path / "message.json").write_text(json.dumps(message))
    printed = out(capsys, "explain", tmp_path / "message.json", WORLD, "--policies", POLICIES)
    assert printed.count("fault    ") == 1
    assert "verdict  act: taint" in printed


def recorded(folder: Path, policy: str = "training") -> dict[str, Any]:
    """Return the record of a decision about a contained node, under the policy of that name if there is one."""
    world_file, case_file = contained(folder)
    world, case = load_world(yaml.safe_load(world_file.read_text())), load_case(yaml.safe_load(case_file.read_text()))
    by = next((p for p in read_policies([POLICIES]) if p.name == policy), None)
    world, case = replace(world, seen=frozenset(Need)), replace(case, policy=policy)
    return decision(world.now, decide(case, by, world), world, case, by)


def test_s24_a_recorded_decision_replays_to_the_same_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record holds all that was looked at; under a changed policy the difference is told."""
    (tmp_path / "record.json").write_text(json.dumps(recorded(tmp_path)))
    printed = out(capsys, "explain", "--record", tmp_path / "record.json", "--policies", POLICIES)
    then, replayed, verdict = printed.splitlines()
    assert then.removeprefix("recorded") == replayed.removeprefix("replayed")
    assert verdict == "same verdict"
    policies = yaml.safe_load(POLICIES.read_text())["policies"]
    observing = changed(tmp_path, POLICIES, {"policies": [{**policies[0], "mode": "observe"}]})
    printed = out(capsys, "explain", "--record", tmp_path / "record.json", "--policies", observing)
    assert "note     policy training has changed since this decision\n" in printed
    assert "DIFFERENT" in printed


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, ["same verdict"]),
        ({"version": "0.0.9"}, [f"note     decided by gpuheal 0.0.9; this is {__version__}", "same verdict"]),
        ({"version": None, "policyDigest": None}, ["same verdict"]),
        ({"policyDigest": "123"}, ["note     policy training has changed since this decision", "same verdict"]),
        ({"policyDigest": ""}, ["note     policy training did not exist when this was decided", "same verdict"]),
        (
            {"verdict": {"verdict": "hold", "reason": "paused"}},
            ["DIFFERENT VERDICT, although neither the policy nor gpuheal's version has changed"],
        ),
        (
            {"verdict": {"verdict": "hold", "reason": "paused"}, "version": "0.0.9"},
            [
                f"note     decided by gpuheal 0.0.9; this is {__version__}",
                "DIFFERENT VERDICT: the policy or gpuheal's version has changed",
            ],
        ),
    ],
)
def test_s24_a_replay_says_by_which_rules_it_was_decided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], lines: list[str]
) -> None:
    """Another policy, or another version of ours, is told whether or not the verdict differs; the same ones are too."""
    (tmp_path / "record.json").write_text(json.dumps(recorded(tmp_path) | change))
    printed = out(capsys, "explain", "--record", tmp_path / "record.json", "--policies", POLICIES)
    assert [line for line in printed.splitlines() if not line.startswith(("recorded", "replayed"))] == lines


def test_s24_a_decision_without_its_policy_replays_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hold for a policy that was renamed or deleted is replayed as long as it is not there again."""
    record = recorded(tmp_path, policy="gone")
    assert record["policyDigest"] == ""
    (tmp_path / "record.json").write_text(json.dumps(record))
    printed = out(capsys, "explain", "--record", tmp_path / "record.json", "--policies", POLICIES)
    assert printed.splitlines()[-1] == "same verdict"
    assert "policy-missing" in printed
    (tmp_path / "record.json").write_text(json.dumps(record | {"policyDigest": "123"}))
    printed = out(capsys, "explain", "--record", tmp_path / "record.json", "--policies", POLICIES, status=2)
    assert "record.json: policy: no policy named 'gone' in --policies" in printed


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"verdict": "act"}, "record.json: not a decision record"),
        ({"verdict": None}, "record.json: not a decision record"),
        ({"policy": ["training"]}, "record.json: policy: expected a string"),
        ({"policyDigest": {}}, "record.json: policyDigest: expected a string"),
        ({"version": [1]}, "record.json: version: expected a string"),
        ({"case": None}, "record.json: case: expected a mapping"),
    ],
)
def test_a_record_that_is_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], problem: str
) -> None:
    """Exit status 2, one line with file and path."""
    (tmp_path / "record.json").write_text(json.dumps(recorded(tmp_path) | change))
    printed = out(capsys, "explain", "--record", tmp_path / "record.json", "--policies", POLICIES, status=2)
    assert problem in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("alert.json", "{", "alert.json: not JSON"),
        ("alert.json", '[{"labels": {"a": 1}}]', "alert.json: [0]: expected an alert with labels"),
        ("alert.json", '{"labels": {}, "startsAt": "soon"}', "alert.json: [0].startsAt: expected a time such as"),
        ("world.yaml", "nodes: {}", "world.yaml: "),
        ("world.yaml", "a: [", "world.yaml: line 1, column 5: not YAML"),
        ("policies.yaml", "policies: []", "policies.yaml: policies: expected a list"),
    ],
)
def test_an_unusable_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, problem: str
) -> None:
    """Exit status 2, one line with file and path."""
    files = {source.name: source for source in (ALERT, WORLD, POLICIES)}
    files[file] = tmp_path / file
    files[file].write_text(text)
    args = ("explain", files["alert.json"], files["world.yaml"], "--policies", files["policies.yaml"])
    printed = out(capsys, *args, status=2)
    assert problem in printed
    assert printed.count("\n") == 1


def test_check_shows_what_the_policies_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Each policy in one line: name, mode, faults, ladder."""
    assert out(capsys, "check", POLICIES) == (
        f"{POLICIES}: ok, 1 policy\n"
        "  training (propose): gpu-fell-off-bus: taint -> condition -> drain -> reboot -> verify -> restore\n"
    )


IMAGE = f"providers: {{job: {{image: 'debian@sha256:{'0' * 64}'}}}}\n"


def settings(folder: Path) -> Path:
    """Write settings with one secret."""
    (folder / "token").write_text("secret\n")
    text = (
        f"cluster: prod\npolicies: ['{POLICIES}']\nlisten: {{webhook_token_files: [token]}}\n"
        "alertmanagers: [{url: 'http://am:9093'}]\nprometheus: {url: 'http://prometheus:9090'}\n"
        f"engine: {{mode: propose}}\n{IMAGE}"
    )
    (folder / "settings.yaml").write_text(text)
    return folder / "settings.yaml"


def test_check_reads_all_that_settings_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings, their policies and their secrets are checked together; no secret is printed."""
    file = settings(tmp_path)
    assert out(capsys, "check", "--config", file) == (
        f"{file}: ok\n"
        "  cluster prod; mode at most propose\n  Alertmanager http://am:9093\n  Prometheus http://prometheus:9090\n"
        f"{POLICIES}: ok, 1 policy\n"
        "  training (propose): gpu-fell-off-bus: taint -> condition -> drain -> reboot -> verify -> restore\n"
    )


def test_check_misses_a_provider_that_nobody_configured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reboot that nobody could do is found before the night it is needed."""
    file = settings(tmp_path)
    file.write_text(file.read_text().replace(IMAGE, ""))
    assert cli.main(["check", "--config", str(file)]) == 2
    assert "training: reboot.provider: provider 'job' is not configured" in capsys.readouterr().err


def test_check_misses_a_missing_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token file that isn't there stops the responder, so it stops the check."""
    file = settings(tmp_path)
    (tmp_path / "token").unlink()
    assert cli.main(["check", "--config", str(file)]) == 2
    assert f"{tmp_path / 'token'}: cannot be read" in capsys.readouterr().err


def test_check_can_leave_secrets_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings can be checked where the cluster's secrets are not, as before a rollout."""
    file = settings(tmp_path)
    (tmp_path / "token").unlink()
    assert cli.main(["check", "--skip-secrets", "--config", str(file)]) == 0
    assert f"{file}: ok\n" in capsys.readouterr().out


def test_check_wants_something_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    """Without files it is wrong use."""
    assert cli.main(["check"]) == 2
    assert "give a settings file" in capsys.readouterr().err
