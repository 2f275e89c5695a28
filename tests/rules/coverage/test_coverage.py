"""`gpuheal rules coverage`: what a site's telemetry can never tell, judged by what is there."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from tests.integration.webhook import Target
from tests.rules.coverage.pages import page, vector

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_lab.servers.process import free_ports
from gpuheal_lab.servers.stack import Prometheus, prometheus_config, wait_for
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.coverage import ask
from gpuheal_rules.coverage.command import main
from gpuheal_rules.coverage.judge import Covered, covered, looked_for, raw_names, source_of
from gpuheal_rules.coverage.seen import Seen, from_file
from gpuheal_rules.lint.metrics import DEFAULT_COUNTERS
from gpuheal_rules.options import PROFILES, Options
from gpuheal_rules.promql.rule import Group
from gpuheal_rules.render import build_groups

SITES = sorted((Path(__file__).parents[1] / "sites").glob("*.yaml"))
JOBS = {
    "exporter": "gpuheal-exporter",
    "dcgm": "nvidia-dcgm-exporter",
    "ksm": "kube-state-metrics",
    "responder": "gpuheal-responder",
    "prometheus": "prometheus",
}


def series_of(groups: Sequence[Group], leave: Callable[[str], bool] = lambda _name: False) -> list[str]:
    """Every series that the rules read, as a complete site has it, but those that are left out."""
    labels = 'node="n1", UUID="GPU-1", gpu_uuid="GPU-1", Hostname="n1"'
    found = [f'{n}{{job="{JOBS[source_of(n)]}", {labels}}}' for n in sorted(raw_names(groups)) if n != "up"]
    found += [f'up{{job="{job}", node="n1"}}' for job in JOBS.values()]
    return [one for one in found if not leave(one)]


def judged(
    catalogue: Catalogue, groups: Sequence[Group], lines: Sequence[str], folder: Path, options: Options | None = None
) -> dict[str, Covered]:
    """What becomes of each alert with these series."""
    options, file = options or Options(), folder / "series.txt"
    file.write_text("\n".join(lines))
    return {one.alert: one for one in covered(catalogue, options, groups, from_file(file, looked_for(options)))}


def test_at_a_complete_site_every_alert_can_fire(
    catalogue: Catalogue, groups: tuple[Group, ...], tmp_path: Path
) -> None:
    """With every series that the rules read nothing is missing, of any alert."""
    found = judged(catalogue, groups, series_of(groups), tmp_path)
    assert len(found) > 60
    assert [one for one in found.values() if one.missing or one.verdict != "fires"] == []


@pytest.mark.parametrize(
    ("left_out", "never", "said"),
    [
        (r"gpuheal_(?!leader|case|cordon|fault|last|unread|incident|step).*", "GPUDriverHung", "gpuheal-exporter"),
        (r"kube_.*", "GPUNodeNotReady", "kube-state-metrics"),
        (r"gpuheal_(leader|case|cordon|fault|last|unread|incident|step).*", "GPUHealNoLeader", "the responder"),
        (r"prometheus_.*", "GPUHealRuleFailures", "Prometheus' own metrics"),
        (r'up\{job="gpuheal-exporter".*', "GPUHealExporterDown", "gpuheal-exporter"),
    ],
)
def test_a_source_that_is_not_there_is_named_once(
    left_out: str, never: str, said: str, catalogue: Catalogue, groups: tuple[Group, ...], tmp_path: Path
) -> None:
    """Without a source its alerts never fire, for one reason; what has other evidence fires still."""
    lines = series_of(groups, lambda one: re.fullmatch(left_out, one) is not None)
    found = judged(catalogue, groups, lines, tmp_path)
    assert found[never].verdict == "never"
    assert [said in need.what for need in found[never].missing] == [True]
    assert found["GPUFellOffBus"].verdict in {"fires", "weaker"}


def test_a_stock_counters_csv_misses_what_only_dcgm_could_tell(
    catalogue: Catalogue, groups: tuple[Group, ...], tmp_path: Path
) -> None:
    """With dcgm-exporter's own counters and nothing of ours, the fields that are missing are named by alert."""

    def leave(one: str) -> bool:
        name = one.partition("{")[0]
        return name.startswith("gpuheal_") or (name.startswith("DCGM_") and name not in DEFAULT_COUNTERS)

    found = judged(catalogue, groups, series_of(groups, leave), tmp_path)
    assert found["GPUFellOffBus"].verdict == "weaker"
    required = found["GPURecoveryRequired"]
    assert required.verdict == "never"
    assert {need.what for need in required.missing if need.source == "dcgm"} == {
        "DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION or DCGM_FI_DEV_GPU_RECOVERY_ACTION"
    }
    # A counter's growth is judged by that counter, not by any other that grows.
    assert {n.what for n in found["NVLinkDegraded"].missing if n.source == "dcgm"} >= {
        "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL"
    }
    assert not any("NVLINK" in need.what for need in found["GPUPCIeDegraded"].missing)


def test_jobs_and_labels_that_do_not_fit_are_named(
    catalogue: Catalogue, groups: tuple[Group, ...], tmp_path: Path
) -> None:
    """Series under another job are as good as none, and so are those that name no node; either says what to do."""
    lines = [one.replace("nvidia-dcgm-exporter", "gpu-metrics") for one in series_of(groups)]
    found = judged(catalogue, groups, [one for one in lines if not one.startswith("gpuheal_")], tmp_path)
    (need,) = (one for one in found["GPUFellOffBus"].missing if one.source == "dcgm")
    assert (need.kind, need.what) == ("job", "dcgm-exporter")
    assert "gpu-metrics" in need.hint
    assert "--job dcgm=" in need.hint
    lines = [re.sub(r'node="n1", ', "", one) if one.startswith("DCGM_") else one for one in series_of(groups)]
    found = judged(catalogue, groups, [one for one in lines if not one.startswith("gpuheal_")], tmp_path)
    (need,) = (one for one in found["GPUFellOffBus"].missing if one.source == "dcgm")
    assert (need.kind, need.what) == ("label", "label node")
    assert found["GPUHealNodeLabelMissing"].verdict == "fires"
    profile = Options(labels=PROFILES["Hostname"])
    found = judged(catalogue, build_groups(catalogue, profile), lines, tmp_path, profile)
    assert found["GPUFellOffBus"].missing == ()


def test_readers_that_read_nothing_are_named(catalogue: Catalogue, groups: tuple[Group, ...], tmp_path: Path) -> None:
    """An exporter without NVML or without the kernel log shows nothing of what these would tell."""
    file = tmp_path / "series.txt"
    file.write_text("\n".join(series_of(groups, lambda one: one.startswith("DCGM_"))))
    whole = from_file(file, looked_for(Options()))
    blind = Seen(
        jobs=whole.jobs, labelled=True, having=whole.having, lacking=whole.lacking, zero=frozenset({"gpuheal_nvml_up"})
    )
    found = {one.alert: one for one in covered(catalogue, Options(), groups, blind)}
    assert {need.what for need in found["GPUSRAMThreshold"].missing if need.source == "exporter"} == {
        "gpuheal_nvml_up == 0"
    }
    assert found["GPUSRAMThreshold"].verdict == "never"
    assert found["GPUEngineFault"].verdict != "never"


def test_no_alert_that_fires_at_a_site_is_said_to_be_impossible_there(
    catalogue: Catalogue, groups: tuple[Group, ...], tmp_path: Path
) -> None:
    """Whatever promtool proves to fire on a site's series can fire by our judgement of these series."""
    asked = 0
    for site in [one for one in SITES if not one.stem.startswith("hostname-")][::4]:
        (test,) = yaml.safe_load(site.read_text())["tests"]
        found = judged(catalogue, groups, [one["series"] for one in test["input_series"]], tmp_path)
        fired = {
            name
            for query in test["promql_expr_test"]
            for sample in query["exp_samples"]
            for name in re.findall(r'alertname="(\w+)"', sample["labels"])
        }
        asked += len(fired)
        assert {name for name in fired if found[name].verdict == "never"} == set(), site.stem
    assert asked > 3


def test_a_file_is_read_in_each_of_its_forms(tmp_path: Path) -> None:
    """Names, whole series, a page of metrics and the API's answer say the same of names; bad ones are refused."""
    file = tmp_path / "f"
    for text in (
        "up\nDCGM_FI_DEV_GPU_TEMP\n",
        "# HELP up x\n# TYPE up gauge\nup 1\nDCGM_FI_DEV_GPU_TEMP 40 1700000000000\n",
        '{"status":"success","data":["DCGM_FI_DEV_GPU_TEMP","up"]}',
        '["DCGM_FI_DEV_GPU_TEMP","up"]',
    ):
        file.write_text(text)
        seen = from_file(file, frozenset({"node"}))
        assert set(seen.jobs) == {"up", "DCGM_FI_DEV_GPU_TEMP"}
        assert not seen.labelled
        assert seen.shown("up", "anything")
    file.write_text('up{job="a", node="{x}, \\"y\\""} 1\nup{job="b"} 1\n')
    seen = from_file(file, frozenset({"node"}))
    assert seen.jobs == {"up": frozenset({"a", "b"})}
    assert (seen.having, seen.lacking) == ({"node": frozenset({"up"})}, {"node": frozenset({"up"})})
    assert not seen.shown("up", "c")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "contains no series"),
        ("# nothing\n", "contains no series"),
        ("up\n1up\n", "line 2: is not a series name"),
        ("{", "is not JSON"),
        ('{"data": {}}', "data: is not a list of names"),
        ('{"data": [1]}', "data: is not a list of names"),
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_says_nothing_is_an_error_with_its_place(
    text: str | bytes | None, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and one line that names the file and what is wrong, never a list of alerts that cannot fire."""
    file = tmp_path / "series"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    assert main(["--from", str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert problem in said.err
    assert str(file) in said.err


def test_the_exit_status_says_whether_every_alert_can_fire(
    groups: tuple[Group, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 for all, 1 for some that never can, in text and as JSON; only names known is said."""
    file = tmp_path / "series"
    file.write_text("\n".join(series_of(groups)))
    assert main(["--from", str(file)]) == 0
    assert "alerts can fire, from all of their evidence" in capsys.readouterr().out
    file.write_text("\n".join(sorted(raw_names(groups))))
    assert main(["--from", str(file)]) == 0
    assert "Labels are not known" in capsys.readouterr().out
    file.write_text("up\n")
    assert main(["--from", str(file), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert {one["verdict"] for one in answer["alerts"]} == {"fires", "never"}
    assert [one["alert"] for one in answer["alerts"] if one["verdict"] == "fires"][0:1] != []
    assert answer["sources"]["exporter"][0]["what"] == "gpuheal-exporter"


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (503, b'{"status":"error","error":"starting"}', "answered 503: starting"),
        (200, b"<html>login</html>", "not as Prometheus does: '<html>login</html>'"),
        (302, b"", "answered 302"),
        (200, b'{"status":"success","warnings":["a store is away"],"data":{"result":[]}}', "may be partial"),
        (200, b"[]", "not as Prometheus does"),
        (200, b"x" * 4000, "is larger than"),
    ],
)
def test_what_is_no_whole_answer_of_prometheus_is_an_error(
    status: int, body: bytes, problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 2 with the reason; nothing is judged by half of an answer."""
    monkeypatch.setattr(ask, "LARGEST_ANSWER", 3000)
    with page(lambda _query: (status, body)) as url:
        assert main(["--prometheus", url]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert problem in said.err


@pytest.mark.parametrize(
    ("seconds", "said"), [(7500.0, "for 2h5m only"), (20.0, "for 1m only"), (86400.0, ""), (None, "")]
)
def test_a_prometheus_without_history_is_told(
    seconds: float | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that has evaluated the rules for less than a day says so, and for how long; JSON has the seconds."""

    def answer(query: str) -> tuple[int, bytes]:
        asked = "gpuheal:memory_since" in query and seconds is not None
        return 200, vector({}, value=seconds or 0.0) if asked else vector()

    with page(answer) as url:
        assert main(["--prometheus", url]) == 1
        text = capsys.readouterr().out
        assert ("evaluated the rules" in text) == bool(said)
        assert said in text
        assert main(["--prometheus", url, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["remembers_seconds"] == seconds


def test_a_prometheus_that_does_not_answer_is_given_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each query has a deadline, and a port without a server is an error at once."""
    monkeypatch.setattr(ask, "DEADLINE_S", 0.2)
    release = threading.Event()

    def late(_query: str) -> tuple[int, bytes]:
        release.wait(30)
        return 200, vector()

    began = time.monotonic()
    with page(late) as url:
        assert main(["--prometheus", url]) == 2
        release.set()
    assert time.monotonic() - began < 20
    assert "timed out" in capsys.readouterr().err
    (port,) = free_ports(1)
    assert main(["--prometheus", f"http://127.0.0.1:{port}"]) == 2
    assert str(port) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://prometheus:9090", "the token could be intercepted"),
        ("ftp://127.0.0.1", "is not an http:// or https:// address"),
        ("https://user:secret@prometheus", "is not an http:// or https:// address"),
        ("https://prometheus:port", "is not an http:// or https:// address"),
    ],
)
def test_a_token_is_not_sent_where_it_could_be_read(
    url: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong addresses are refused before anything is sent."""
    (tmp_path / "token").write_text("secret\n")
    assert main(["--prometheus", url, "--token-file", str(tmp_path / "token")]) == 2
    assert problem in capsys.readouterr().err


def test_what_a_site_file_says_counts(groups: tuple[Group, ...], tmp_path: Path) -> None:
    """Jobs and the profile come from the site file, and alerts that are off are not asked for."""
    lines = [one.replace("nvidia-dcgm-exporter", "gpu-metrics") for one in series_of(groups)]
    (tmp_path / "series").write_text("\n".join(re.sub(r'node="n1", ', "", s) if "DCGM" in s else s for s in lines))
    assert main(["--from", str(tmp_path / "series")]) == 1
    site = tmp_path / "site.yaml"
    site.write_text("jobs: {dcgm: gpu-metrics}\nlabel_profile: Hostname\n")
    assert main(["--from", str(tmp_path / "series"), "--site", str(site)]) == 0
    site.write_text("jobs: {dcgm: 3}\n")
    assert main(["--from", str(tmp_path / "series"), "--site", str(site)]) == 2


def test_the_token_is_sent_and_a_bad_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every query carries the token; a file without one, or without certificates, is an error with its name."""
    token, seen = tmp_path / "token", list[str]()
    token.write_text("sesame\n")
    with page(lambda _query: (200, vector()), seen) as url:
        assert main(["--prometheus", url, "--token-file", str(token)]) == 1
        assert len(seen) > 3
        assert set(seen) == {"Bearer sesame"}
        token.write_text("")
        assert main(["--prometheus", url, "--token-file", str(token)]) == 2
        assert f"{token}: contains no token" in capsys.readouterr().err
        assert main(["--prometheus", url, "--ca-file", str(token)]) == 2
        assert f"{token}: no usable certificates" in capsys.readouterr().err


@pytest.mark.servers
@pytest.mark.timeout(120)
def test_a_real_prometheus_is_judged_by_what_it_scrapes(
    groups: tuple[Group, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, jobs, labels and zeros are those of the running server: a page without one field loses what needs it."""
    lines = series_of(groups, lambda one: one.startswith(("up{", "DCGM_FI_DEV_SRAM", "prometheus_")))
    jobs: dict[str, list[str]] = {}
    for line in lines:
        job = re.search(r'job="([^"]+)", ', line)
        assert job is not None
        value = 0 if line.startswith("gpuheal_nvml_up") else 1
        jobs.setdefault(job[1], []).append(f"{line.replace(job[0], '')} {value}\n")
    (port,) = free_ports(1)
    with ExitStack() as targets:
        at = {job: targets.enter_context(Target("".join(texts))).address for job, texts in jobs.items()}
        at["prometheus"] = f"127.0.0.1:{port}"
        scrape = [{"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in at.items()]
        made = ensure("prometheus", Generation(os.environ.get("GPUHEAL_GENERATION", "debian")))
        server = Prometheus(made, tmp_path / "prometheus", config=prometheus_config(scrape=scrape), port=port)
        server.start()
        try:
            wait_for(lambda: len(server.query("up == 1")) == len(scrape) or None, "all targets", 60)
            wait_for(lambda: server.query("prometheus_build_info") or None, "its own metrics", 60)
            status = main(["--prometheus", server.url, "--json"])
        finally:
            server.stop()
    found = {one["alert"]: one for one in json.loads(capsys.readouterr().out)["alerts"]}
    assert status == 1
    assert found["GPUSRAMThreshold"]["verdict"] == "never"
    assert {need["what"] for need in found["GPUSRAMThreshold"]["missing"]} == {
        "DCGM_FI_DEV_SRAM_EXCEEDED",
        "gpuheal_nvml_up == 0",
    }
    assert found["GPUEngineFault"]["verdict"] == "fires"
    assert found["GPUFellOffBus"]["verdict"] == "weaker"
