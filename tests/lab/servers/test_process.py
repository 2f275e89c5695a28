"""Child processes: started, watched, ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gpuheal_lab.servers.process import Child, CommandFailed, LabError, free_ports, run

BUSY = (
    "import threading\n"
    "def spin():\n while True: sum(range(1000))\n"
    "for _ in range(4): threading.Thread(target=spin, daemon=True).start()\n"
    "print('up', flush=True)\n"
    "spin()\n"
)
ONE_PORT = (
    "import sys\nfrom gpuheal_lab.servers import process\n"
    "process._PORTS.FIRST, process._PORTS.LAST = int(sys.argv[1]), int(sys.argv[1]) + 1\n"
    "print(process.free_ports(1))\n"
)
SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def child(argv: list[str], folder: Path, stop_deadline_s: float = 10.0) -> Child:
    """A child that is ready once it has said `up`."""
    log = folder / "log"
    ready = lambda: None if log.exists() and "up" in log.read_text() else "silent"  # noqa: E731
    return Child("sleeper", argv, log_path=log, ready=ready, stop_deadline_s=stop_deadline_s)


def test_a_child_stops_by_sigterm(tmp_path: Path) -> None:
    """After stop the process is gone; stopping and killing again do nothing."""
    made = child(SLEEPER, tmp_path)
    made.start()
    pid = made.pid
    made.stop()
    assert not psutil.pid_exists(pid)
    made.stop()
    made.kill()
    assert not made.running


def test_a_child_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    """A process that ignores SIGTERM is gone all the same after its stop deadline."""
    made = child(DEAF, tmp_path, stop_deadline_s=0.2)
    made.start()
    pid = made.pid
    made.stop()
    assert not psutil.pid_exists(pid)


def test_the_whole_group_ends(tmp_path: Path) -> None:
    """A grandchild does not survive the child, though the child has ended before it."""
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, 'up', flush=True)"
    made = Child("parent", [sys.executable, "-c", script], log_path=tmp_path / "log", ready=lambda: "never")
    with pytest.raises(LabError, match="ended with status 0"):
        made.start()
    grandchild = int((tmp_path / "log").read_text().split()[0])
    _wait_until_gone(grandchild)


def test_a_child_that_ends_early_says_why(tmp_path: Path) -> None:
    """The error carries the exit status and the end of the log."""
    made = child([sys.executable, "-c", "import sys; sys.exit('no such data folder')"], tmp_path)
    with pytest.raises(LabError, match=r"(?s)status 1.*no such data folder"):
        made.start()


def test_a_child_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    """At the deadline the process is gone and the error says what was last heard."""
    made = Child("slow", SLEEPER, log_path=tmp_path / "log", ready=lambda: "still loading")
    with pytest.raises(LabError, match=r"not ready in 0\.5 s \(still loading\)"):
        made.start(0.5)
    assert not made.running


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """The trampoline's failure to exec is told with the program's name."""
    with pytest.raises(LabError, match=r"(?s)ended with status 1.*no-such-program"):
        child(["no-such-program"], tmp_path).start()


def test_a_running_child_is_not_started_twice(tmp_path: Path) -> None:
    """A second start is refused and the first process goes on."""
    made = child(SLEEPER, tmp_path)
    made.start()
    try:
        pid = made.pid
        with pytest.raises(LabError, match="already runs"):
            made.start()
        assert made.pid == pid
    finally:
        made.kill()


def test_a_restart_keeps_the_log(tmp_path: Path) -> None:
    """The log of the process before is still there after restart."""
    made = child(SLEEPER, tmp_path)
    made.start()
    made.restart()
    made.wait_ready()
    _wait_for_text(tmp_path / "log", "up\nup\n")
    made.kill()


def test_what_follows_a_kill_runs_only_after_a_kill(tmp_path: Path) -> None:
    """`after_kill` (a container to remove) runs when the process was killed, not when it ended by itself."""
    mark = tmp_path / "mark"
    made = Child("c", SLEEPER, log_path=tmp_path / "log", after_kill=["touch", str(mark)])
    made.start()
    made.stop()
    assert not mark.exists()
    made.start()
    made.kill()
    assert mark.exists()


def test_run_gives_both_streams(tmp_path: Path) -> None:
    """stdout and stderr come back as one text."""
    assert run(["sh", "-c", "echo out; echo err >&2"], deadline_s=10, cwd=tmp_path) == "out\nerr\n"


def test_run_ends_the_command_at_its_deadline(tmp_path: Path) -> None:
    """A command that takes too long is gone with all it started, and the error carries what it said."""
    pid_file = tmp_path / "pid"
    with pytest.raises(CommandFailed, match=r"not done in 0\.5 s: begun"):
        run(["sh", "-c", f"echo begun; sleep 60 & echo $! > {pid_file}; wait"], deadline_s=0.5)
    _wait_until_gone(int(pid_file.read_text()))


def test_run_raises_for_a_failure() -> None:
    """A status other than 0 raises with the status and the output."""
    with pytest.raises(CommandFailed, match="ended with status 3: sorry"):
        run(["sh", "-c", "echo sorry; exit 3"], deadline_s=10)


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """When the parent is killed by SIGKILL and can clean up nothing, the kernel ends the child."""
    lab = Path(run.__code__.co_filename).parents[2]
    script = (
        "import sys, time; from pathlib import Path; from gpuheal_lab.servers.process import Child\n"
        f"c = Child('c', {SLEEPER!r}, log_path=Path(sys.argv[1]) / 'inner'); c.start()\n"
        "print(c.pid, 'up', flush=True); time.sleep(60)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(lab)}
    log = tmp_path / "log"
    ready = lambda: None if "up" in log.read_text() else "silent"  # noqa: E731
    parent = Child("parent", [sys.executable, "-c", script, str(tmp_path)], log_path=log, ready=ready, env=env)
    parent.start()
    inner = int(log.read_text().split()[0])
    _wait_for_text(tmp_path / "inner", "up\n")  # past the trampoline, which would notice a dead parent by itself
    os.kill(parent.pid, signal.SIGKILL)
    _wait_until_gone(inner)
    parent.kill()


def test_a_frozen_child_stands_still_when_freeze_returns(tmp_path: Path) -> None:
    """Not one of a busy child's threads runs any more, however many were at work; after thaw they do."""
    made = child([sys.executable, "-c", BUSY], tmp_path)
    made.start()
    process = psutil.Process(made.pid)
    for _ in range(5):
        made.freeze()
        stats = [path.read_text().rpartition(")")[2].split() for path in Path(f"/proc/{made.pid}/task").glob("*/stat")]
        assert [state for state, *_ in stats] == ["T"] * 5
        made.thaw()
        _wait_until(lambda: process.status() != psutil.STATUS_STOPPED)
    made.kill()


def test_a_port_is_given_to_one_process_at_a_time() -> None:
    """Nobody else is given a port of ours that nothing listens on yet; what a process had is free when it has ended."""
    (ours,) = free_ports(1)
    with pytest.raises(CommandFailed, match="no 1 free loopback ports"):
        run([sys.executable, "-c", ONE_PORT, str(ours)], deadline_s=30)
    lower = 17000 + os.getpid() % 1000  # where `free_ports` gives none of its own accord
    for _ in range(2):
        assert run([sys.executable, "-c", ONE_PORT, str(lower)], deadline_s=30) == f"[{lower}]\n"


def test_free_ports_are_distinct_and_not_ephemeral() -> None:
    """The ports differ from each other and lie below those Linux gives to outgoing connections."""
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(1024 < port < 32768 for port in ports)


def _wait_until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


def _wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, f"{pid} still runs"
        time.sleep(0.02)


def _wait_for_text(path: Path, text: str) -> None:
    end = time.monotonic() + 10
    while path.read_text() != text:
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.02)
