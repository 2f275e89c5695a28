"""Prometheus and Alertmanager of both generations as the lab starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from tests.integration.webhook import Target, Webhook

from gpuheal_lab.servers.find import Generation, Server, find, search_for
from gpuheal_lab.servers.process import LabError
from gpuheal_lab.servers.sources import from_docker
from gpuheal_lab.servers.stack import Alertmanager, Prometheus, Stack, prometheus_config, wait_for, webhook_config

pytestmark = pytest.mark.servers

RULES = """
groups:
  - name: lab
    rules:
      - alert: LabFault
        expr: lab_fault == 1
        labels: {severity: critical}
"""
NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens there


def scrape(target: Target) -> list[dict[str, object]]:
    return [{"job_name": "lab", "static_configs": [{"targets": [target.address], "labels": {"node": "n1"}}]}]


def test_fixtures_name_the_generation_asked_for(
    prometheus_binaries: Mapping[Generation, Server],
    promtool_binaries: Mapping[Generation, Server],
    alertmanager_binaries: Mapping[Generation, Server],
    amtool_binaries: Mapping[Generation, Server],
) -> None:
    """Each fixture gives Debian's generation under `debian` and a newer one under `current`, tools alike."""
    for binaries in (prometheus_binaries, promtool_binaries, alertmanager_binaries, amtool_binaries):
        assert binaries[Generation.DEBIAN].version < binaries[Generation.CURRENT].version
    for generation in Generation:
        assert prometheus_binaries[generation].version == promtool_binaries[generation].version
        assert alertmanager_binaries[generation].version == amtool_binaries[generation].version


def test_a_scraped_fault_reaches_the_webhook_and_resolves(stack_of_generation: Stack) -> None:
    """Target → scrape → rule → alert → webhook works in each generation, and so does the way back."""
    with Target("lab_fault 1\n") as target, Webhook() as webhook:
        alertmanager = stack_of_generation.alertmanager(config=webhook_config(webhook.url))
        prometheus = stack_of_generation.prometheus(
            config=prometheus_config(
                scrape=scrape(target), alertmanagers=[alertmanager.address], external_labels={"cluster": "lab"}
            ),
            rules={"lab.yml": RULES},
            flags=["--rules.alert.resend-delay=1s"],
        )
        first = wait_for(lambda: webhook.with_status("firing"), "a firing message")[0]
        target.text = "lab_fault 0\n"
        wait_for(lambda: webhook.with_status("resolved"), "a resolved message")
        assert [job["health"] for job in prometheus.targets()] == ["up"]
    labels = first["alerts"][0]["labels"]
    assert {labels[key] for key in ("alertname", "node", "cluster")} == {"LabFault", "n1", "lab"}


def test_samples_survive_a_kill_of_prometheus(stack_of_generation: Stack) -> None:
    """After SIGKILL and start on the same data, a series that is scraped no more can still be read."""
    with Target("lab_memory 7\n") as target:
        prometheus = stack_of_generation.prometheus(config=prometheus_config(scrape=scrape(target)))
        wait_for(lambda: prometheus.query("lab_memory"), "the first sample")
        prometheus.kill()
        target.text = ""
        prometheus.start()
        found = wait_for(lambda: prometheus.query("last_over_time(lab_memory[5m])"), "the sample from before")
    assert [value for _, value in found] == [7.0]


def test_a_bad_reload_is_refused_and_a_good_one_is_in_force(stack: Stack) -> None:
    """`reload` raises with Prometheus' reason for a broken rule file, and loads a right one."""
    prometheus = stack.prometheus(config=prometheus_config(), rules={"a.yml": RULES})
    with pytest.raises(LabError, match="500"):
        prometheus.reload(rules={"a.yml": "groups: [{name: broken, rules: [{alert: X, expr: 'up ==='}]}]"})
    prometheus.reload(rules={"b.yml": "groups: [{name: b, rules: [{record: lab_two, expr: vector(2)}]}]"})
    assert wait_for(lambda: prometheus.query("lab_two"), "the recorded series")[0][1] == 2.0


def test_a_bad_alertmanager_reload_is_refused(stack_of_generation: Stack) -> None:
    """`reload` raises for a configuration without a receiver."""
    alertmanager = stack_of_generation.alertmanager(config=webhook_config(NOWHERE))
    with pytest.raises(LabError, match="500"):
        alertmanager.reload(config="route: {receiver: missing}\nreceivers: [{name: other}]\n")


def test_a_pair_shares_silences(stack_of_generation: Stack) -> None:
    """The two Alertmanagers of a pair are one cluster: a silence set at one suppresses the alert at the other."""
    first, second = stack_of_generation.alertmanager_pair(config=webhook_config(NOWHERE))
    for peer in (first, second):
        peer.post_alerts([{"labels": {"alertname": "A", "node": "n1"}}])
    matcher = {"name": "node", "value": "n1", "isRegex": False, "isEqual": True}
    now = time.time()
    times = {"startsAt": _stamp(now - 1), "endsAt": _stamp(now + 600)}
    silence_id = first.silence({"matchers": [matcher], "createdBy": "test", "comment": "test", **times})

    def suppressed(peer: Alertmanager) -> bool:
        return any(silence_id in alert["status"]["silencedBy"] for alert in peer.alerts())

    wait_for(lambda: suppressed(second), "the silence at the second peer")
    first.expire(silence_id)
    wait_for(lambda: not suppressed(second), "its end at the second peer")


def test_a_pair_tells_a_webhook_once(stack: Stack) -> None:
    """An alert that both peers know is delivered by one of them; the other sees it in the notification log."""
    with Webhook() as webhook:
        config = webhook_config(webhook.url, group_interval="1s")
        pair = stack.alertmanager_pair(config=config, flags=["--cluster.settle-timeout=2s"])
        for peer in pair:
            peer.post_alerts([{"labels": {"alertname": "A", "node": "n1"}}])
        wait_for(lambda: webhook.messages, "the message")
        # the peer second in line waits --cluster.peer-timeout (5 s), then either finds it in the log or sends it again
        end = time.monotonic() + 7
        while time.monotonic() < end:
            time.sleep(0.1)
    assert len(webhook.messages) == 1


def test_a_frozen_server_answers_nothing_until_thawed(stack: Stack) -> None:
    """`freeze` leaves the port open and silent, `thaw` ends it; and a stack with a frozen server can be left."""
    alertmanager = stack.alertmanager(config=webhook_config(NOWHERE))
    alertmanager.freeze()
    assert psutil.Process(alertmanager.child.pid).status() == psutil.STATUS_STOPPED
    alertmanager.thaw()
    assert alertmanager.alerts() == []
    alertmanager.freeze()


def test_servers_die_with_a_killed_parent(tmp_path: Path) -> None:
    """When the process that started a server is killed by SIGKILL, Linux ends the server."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from gpuheal_lab.servers.stack import Stack, webhook_config\n"
        "a = Stack(Path(sys.argv[1])).alertmanager(config=webhook_config('http://127.0.0.1:9/'))\n"
        "print(a.child.pid, flush=True); time.sleep(60)\n"
    )
    lab = Path(find.__code__.co_filename).parent.parent
    env = {**os.environ, "PYTHONPATH": str(lab)}
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the server's end", 10)


def test_servers_outlive_the_thread_that_started_them(stack: Stack) -> None:
    """A server started from a worker thread goes on when that thread has ended (the death signal is per thread)."""
    started: list[Alertmanager] = []
    worker = threading.Thread(target=lambda: started.append(stack.alertmanager(config=webhook_config(NOWHERE))))
    worker.start()
    worker.join(30)
    assert not worker.is_alive()
    started[0].restart()
    assert started[0].alerts() == []


def test_a_server_that_cannot_start_says_why(stack: Stack) -> None:
    """A configuration Prometheus rejects ends in an error that carries its log, and nothing runs."""
    with pytest.raises(LabError, match=r"(?s)status 2.*field bogus") as caught:
        stack.prometheus(config="bogus: 1\n")
    assert "prometheus" in str(caught.value)


def test_prometheus_runs_through_docker(
    tmp_path: Path, prometheus_binaries: Mapping[Generation, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Prometheus found as an image is started, queried, reloaded, killed (its container removed) and stopped.

    The stand-in `docker` refuses every call that the real one would not serve so, then runs the local binary.
    """
    binary = prometheus_binaries[Generation.CURRENT].path
    notes = tmp_path / "calls"
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER.replace("BINARY", binary).replace("NOTES", str(notes)), encoding="utf-8")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    search = search_for("prometheus", Generation.CURRENT)
    server = from_docker(search)
    prometheus = Prometheus(server, tmp_path / "data", config=prometheus_config(), rules={"a.yml": RULES})
    try:
        prometheus.start()
        assert prometheus.query("vector(3)")[0][1] == 3.0
        prometheus.reload(rules={"b.yml": "groups: [{name: b, rules: [{record: lab_two, expr: vector(2)}]}]"})
        wait_for(lambda: prometheus.query("lab_two"), "the recorded series")
        prometheus.kill()
        prometheus.start()
    finally:
        prometheus.stop()
    calls = notes.read_text(encoding="utf-8").split()
    assert calls == ["version", "image", "pull", "run", "rm", "run"]


DOCKER = """#!/bin/sh
echo "$1" >> NOTES
refuse() { echo "stand-in docker: $*" >&2; exit 125; }
case "$1" in
  version) echo 28.0.0;;
  image) [ "$2 $3" = "inspect prom/prometheus:v3.13.5" ] || refuse "image $*"; exit 1;;
  pull) [ "$2" = prom/prometheus:v3.13.5 ] || refuse "pull $*";;
  rm) [ "$2" = --force ] && case "$3" in gpuheal-prometheus-*) exit 0;; esac; refuse "rm $*";;
  run)
    shift
    while true; do
      case "$1" in
        --rm|--init) seen="$seen $1"; shift;;
        --name|--network|--user|--volume|--workdir|--entrypoint) seen="$seen $1=$2"; shift 2;;
        -*) refuse "flag $1";;
        *) break;;
      esac
    done
    for wanted in --rm --init --network=host "--user=$(id -u):$(id -g)" --entrypoint=/bin/prometheus \\
        "--volume=$PWD:$PWD" "--workdir=$PWD" --name=gpuheal-prometheus-; do
      case "$seen" in *" $wanted"*) ;; *) refuse "no $wanted in $seen";; esac
    done
    [ "$1" = prom/prometheus:v3.13.5 ] || refuse "image $1"
    shift
    exec BINARY "$@";;
  *) refuse "$*";;
esac
"""


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
