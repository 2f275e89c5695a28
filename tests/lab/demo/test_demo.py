"""`gpuheal demo` end to end: exit status, JSON, what is left behind; and its errors before anything is started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpuheal_lab.demo import main as demo
from gpuheal_lab.demo.tour import Result, summary
from gpuheal_lab.demo.webhook_proxy import WebhookProxy
from gpuheal_lab.servers.find import Generation
from gpuheal_lab.servers.process import LabError, free_ports

STEPS = ["kernel line", "alert", "webhook", "taint", "cordon", "condition", "drain", "reboot", "verify", "probation"]


def run(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    code = "import sys; from gpuheal_responder.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "demo", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False, env=env)


def is_server(process: psutil.Process) -> bool:
    try:
        return any("listen-address" in word for word in process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.servers
@pytest.mark.timeout(150)
@pytest.mark.parametrize("generation", list(Generation), ids=str)
def test_fault_is_healed_and_the_json_tells_it(tmp_path: Path, generation: Generation) -> None:
    """Status 0 within 90 s; every step in order with its reason; four latencies; the node exactly as before."""
    file = tmp_path / "demo.json"
    began = time.monotonic()
    done = run("--once", "--json", str(file), "--nodes", "4", "--generation", generation.value)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began <= 90
    told: dict[str, Any] = json.loads(file.read_text())
    assert (told["ok"], told["restored_exactly"], told["differences"], told["ending"]) == (True, True, [], "restored")
    assert told["target"]["node"] == "gpu-node-003"
    assert told["target"]["fault"] == "gpu-fell-off-bus"
    assert [s["name"] for s in told["steps"]] == [*STEPS, "restore"]
    assert all(s["reason"] for s in told["steps"])
    for step in told["steps"]:
        assert datetime.fromisoformat(step["started_at"]) <= datetime.fromisoformat(step["ended_at"])
    stages = told["stage_seconds"]
    assert list(stages) == ["kernel_line_to_alert", "alert_to_webhook", "webhook_to_taint", "taint_to_restored"]
    assert all(seconds >= 0 for seconds in stages.values())
    assert "exactly as it was before" in done.stdout
    assert done.stderr == ""


@pytest.mark.servers
@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_fault_is_healed_on_a_real_control_plane(tmp_path: Path) -> None:
    """With --cluster kube the same story ends the same way: status 0 and the real Node exactly as before."""
    file = tmp_path / "demo.json"
    done = run("--once", "--json", str(file), "--nodes", "4", "--cluster", "kube")
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(file.read_text())
    assert (told["cluster"], told["restored_exactly"], told["ending"]) == ("kube", True, "restored")
    assert [s["name"] for s in told["steps"]] == [*STEPS, "restore"]


@pytest.mark.servers
@pytest.mark.parametrize("generation", [Generation.DEBIAN], ids=str)
def test_interrupt_while_starting_leaves_no_process_and_no_folder(tmp_path: Path, generation: Generation) -> None:
    """SIGTERM after the servers have started ends them all, and the temporary folder is gone."""
    code = "import sys; from gpuheal_responder.cli import main; sys.exit(main())"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    args = ["demo", "--nodes", "2", "--generation", generation.value]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    )
    try:
        found: list[psutil.Process] = []
        deadline = time.monotonic() + 30
        while len(found) < 2 and time.monotonic() < deadline:
            found = [p for p in psutil.Process(process.pid).children(recursive=True) if is_server(p)]
            time.sleep(0.1)
        assert len(found) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        gone, alive = psutil.wait_procs(found, timeout=5)
        assert (len(gone), alive) == (2, [])
        assert list(tmp_path.iterdir()) == []
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.servers
@pytest.mark.parametrize("generation", [Generation.DEBIAN], ids=str)
def test_taken_port_is_a_clear_message(generation: Generation) -> None:
    """A port that somebody else uses is named, with status 1 and without a traceback."""
    import socket

    (port,) = free_ports(1)
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
        held.listen()
        done = run("--once", "--port", str(port), "--generation", generation.value)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--fault", "gremlins"], "known: gpu-fell-off-bus"),
        (["--nodes", "1"], "2 to 200 nodes"),
        (["--speed", "0"], "speed greater than 0"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and a message that says what would have been right."""
    assert demo.main(args) == 2
    assert named in capsys.readouterr().err


def test_summary_says_what_is_different() -> None:
    """A node that is not as before is told with each difference, and latencies nobody saw as not seen."""
    result = Result(
        ok=False,
        restored_exactly=False,
        ending="drain-deadline",
        node="n",
        gpu_uuid="GPU-1",
        fault="gpu-fell-off-bus",
        cluster="sim",
        steps=(),
        stage_seconds=dict.fromkeys(
            ("kernel_line_to_alert", "alert_to_webhook", "webhook_to_taint", "taint_to_restored")
        ),
        differences=("spec.unschedulable: null -> true",),
        urls={"fleet": "http://127.0.0.1:1/fleet"},
    )
    text = "\n".join(summary(result))
    assert "NOT as it was before; the case ended as: drain-deadline" in text
    assert "spec.unschedulable: null -> true" in text
    assert text.count("not seen") == 4
    assert json.dumps(result.as_json())


@pytest.mark.servers
@pytest.mark.parametrize("generation", [Generation.DEBIAN], ids=str)
def test_missing_server_is_one_message_that_names_every_way(tmp_path: Path, generation: Generation) -> None:
    """A variable that names no program is an error at once: status 1, the variable's name, no traceback."""
    env = {**os.environ, "GPUHEAL_ALERTMANAGER": str(tmp_path / "nothing")}
    done = run("--once", "--generation", generation.value, env=env)
    assert done.returncode == 1
    assert "GPUHEAL_ALERTMANAGER" in done.stderr
    assert "Traceback" not in done.stderr


async def test_tap_answers_503_while_the_responder_is_away() -> None:
    """What Alertmanager sends meanwhile is refused with 503, so that it comes again, and noted with its nodes."""
    from aiohttp import ClientSession

    away, port = free_ports(2)
    proxy = WebhookProxy(f"127.0.0.1:{away}")
    await proxy.start(port)
    try:
        body = {"alerts": [{"labels": {"node": "n"}}]}
        async with ClientSession() as session, session.post(f"http://127.0.0.1:{port}/webhook", json=body) as answer:
            assert answer.status == 503
        with pytest.raises(LabError, match=str(port)):
            await WebhookProxy("127.0.0.1:1").start(port)
    finally:
        await proxy.stop()
        await asyncio.sleep(0)
    assert [(d.nodes, d.status) for d in proxy.deliveries] == [(frozenset({"n"}), 503)]
    assert proxy.first("n", since=proxy.deliveries[0].at) is None
