"""Child processes that never outlive the one who started them.

`Child` is one long-running server (start, wait until ready, stop, kill, restart, its log kept); `run` is one command
with a deadline. A tiny trampoline asks Linux to kill each child when its parent dies (PR_SET_PDEATHSIG). The kernel
ties that signal to the parent's *thread*, so one spawner thread starts them all: a worker thread's would die with it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

STOP_DEADLINE_S = 10.0
READY_DEADLINE_S = 60.0
POLL_S = 0.05

# argv: parent's pid, then the command. The second check closes the race with a parent that died before prctl took hold.
TRAMPOLINE = (
    "import ctypes,os,signal,sys\n"
    "ctypes.CDLL(None).prctl(1,signal.SIGKILL)\n"  # 1 = PR_SET_PDEATHSIG, linux/prctl.h
    "if os.getppid()!=int(sys.argv[1]): sys.exit('parent is gone')\n"
    "try: os.execvp(sys.argv[2],sys.argv[2:])\n"
    "except OSError as e: sys.exit(f'{sys.argv[2]}: {e}')\n"
)


class LabError(Exception):
    """Something of the lab did not come up, or did not answer in time."""


class CommandFailed(LabError):
    """A command ended with a status other than 0 or ran past its deadline; `output` is the end of what it said."""

    def __init__(self, argv: Sequence[str], problem: str, output: str) -> None:
        self.output = output
        super().__init__(f"{' '.join(argv)}: {problem}" + (f": {output[-2000:].strip()}" if output.strip() else ""))


class _Spawner:
    """The one thread all children are started from, made on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self.live: weakref.WeakSet[Child] = weakref.WeakSet()

    def spawn(
        self, argv: Sequence[str], output: IO[bytes], env: Mapping[str, str] | None, cwd: Path | None
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "gpuheal-lab-spawner")
                atexit.register(self._stop_all)
            pool = self._pool
        wrapped = [sys.executable, "-I", "-S", "-c", TRAMPOLINE, str(os.getpid()), *argv]
        return pool.submit(
            lambda: subprocess.Popen(
                wrapped,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        ).result()

    def _stop_all(self) -> None:
        for child in list(self.live):
            child.kill()


_SPAWNER = _Spawner()


class Child:
    """One server process: `ready` is asked until it returns None (ready) or gives up; its words end up in the error."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_path: Path,
        ready: Callable[[], str | None] = lambda: None,
        env: Mapping[str, str] | None = None,
        after_kill: Sequence[str] = (),
        stop_deadline_s: float = STOP_DEADLINE_S,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log_path = log_path
        self._ready = ready
        self._env = env
        self._after_kill = list(after_kill)
        self._stop_deadline_s = stop_deadline_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id; raises LabError when it does not run."""
        if self._process is None:
            raise LabError(f"{self.name} is not running")
        return self._process.pid

    def start(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """The server runs and answers as ready; otherwise it is gone again and LabError carries the end of its log."""
        self.launch()
        self.wait_ready(deadline_s)

    def launch(self) -> None:
        """The process is started; nothing is said about its being ready."""
        if self.running:
            raise LabError(f"{self.name} already runs")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = _SPAWNER.spawn(self.argv, log, self._env, self.log_path.parent)
        _SPAWNER.live.add(self)

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """The server answers as ready; see `start` for what happens otherwise."""
        end = time.monotonic() + deadline_s
        problem = "not asked yet"
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                status = None if self._process is None else self._process.returncode
                self.kill()
                raise LabError(f"{self.name} ended with status {status}; {self.log_path} ends with:\n{self.log_tail()}")
            said = self._ready()
            if said is None:
                return
            problem = said
            time.sleep(POLL_S)
        self.kill()
        raise LabError(f"{self.name} not ready in {deadline_s:g} s ({problem}); log ends with:\n{self.log_tail()}")

    def stop(self) -> None:
        """The process has ended, by SIGTERM if it listens within its deadline, else by SIGKILL. Repeatable."""
        if self._process is not None and self._process.poll() is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._stop_deadline_s)
        self.kill()

    def kill(self) -> None:
        """The process and its group are gone by SIGKILL, as in a power cut. Repeatable."""
        if self._process is None:
            return
        running = self._process.poll() is None
        self._signal(signal.SIGKILL)  # also when the leader ended: the rest of its group may live on
        self._process.wait(STOP_DEADLINE_S)
        self._process = None
        if running and self._after_kill:
            with contextlib.suppress(CommandFailed):  # a container that is gone already is what was wanted
                run(self._after_kill, deadline_s=STOP_DEADLINE_S)

    def restart(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """The server was stopped and answers as ready again, on the same ports and data."""
        self.stop()
        self.start(deadline_s)

    def freeze(self) -> None:
        """The process stands still (SIGSTOP): it accepts connections and answers nothing. `thaw` ends it."""
        self._signal(signal.SIGSTOP)
        wait_frozen(self.pid)

    def thaw(self) -> None:
        """The process runs on after `freeze`."""
        self._signal(signal.SIGCONT)

    def log_tail(self, size: int = 3000) -> str:
        """The last `size` bytes of the log."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - size))
            return log.read().decode(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise LabError(f"{self.name} is not running")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def run(
    argv: Sequence[str],
    *,
    deadline_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> str:
    """The command ended with status 0 within the deadline; returns stdout and stderr as one text.

    `progress` is called about every 15 s with the seconds gone. Raises CommandFailed; nothing of the command runs on.
    """
    began = time.monotonic()
    reader, writer = os.pipe()
    chunks: list[bytes] = []

    def collect() -> None:
        with os.fdopen(reader, "rb") as stream:
            while chunk := stream.read1(65536):
                chunks.append(chunk)

    with os.fdopen(writer, "wb") as output:
        process = _SPAWNER.spawn(argv, output, env, cwd)
    drain = threading.Thread(target=collect, daemon=True)
    drain.start()
    problem = ""
    try:
        while process.poll() is None:
            left = began + deadline_s - time.monotonic()
            if left <= 0:
                problem = f"not done in {deadline_s:g} s"
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(left, 15.0))
            if progress is not None and process.poll() is None:
                progress(time.monotonic() - began)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_DEADLINE_S)
        drain.join(STOP_DEADLINE_S)
    text = b"".join(chunks).decode(errors="replace")
    if problem or process.returncode != 0:
        raise CommandFailed(argv, problem or f"ended with status {process.returncode}", text)
    return text


def wait_frozen(pid: int) -> None:
    """The process, to which SIGSTOP was sent, stands still.

    The signal is not instant: kill(2) returns while a thread on another CPU, or asleep in the kernel, has yet to
    notice, and a server may answer one more request in between. Raises LabError when it does not happen.
    """
    end = time.monotonic() + STOP_DEADLINE_S
    while any(state not in "TZX" for state in _thread_states(pid)):
        if time.monotonic() > end:
            raise LabError(f"process {pid} did not stand still within {STOP_DEADLINE_S:g} s of SIGSTOP")
        time.sleep(0.001)


def _thread_states(pid: int) -> list[str]:
    """The state letter of every thread (proc_pid_stat(5): T stopped, Z and X ended)."""
    found = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread ended meanwhile
            found.append(stat.read_text().rpartition(")")[2].split()[0])
    return found


class _Ports:
    """Ports that this process handed out; nobody else on this machine gets them from `free_ports` while it lives.

    Between "nothing listens there" and the server's own bind somebody else could be told the same port. So each port
    has a socket with an abstract name (unix(7)): whoever holds it has the port, and the kernel takes it from the dead.
    """

    FIRST, LAST = 18000, 32000
    """Below Linux's ephemeral range (32768 up), so that no outgoing connection takes one before the server does."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._names: dict[int, socket.socket] = {}

    def take(self, count: int) -> list[int]:
        """`count` ports that nothing listens on and nobody else was given."""
        found: list[int] = []
        with self._guard, contextlib.ExitStack() as held:
            for _ in range(1000):
                if len(found) == count:
                    return found
                port = random.randrange(self.FIRST, self.LAST)  # noqa: S311  # spreads parallel runs, guards nothing
                if not self._name(port):
                    continue
                probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                with contextlib.suppress(OSError):
                    probe.bind(("127.0.0.1", port))
                    found.append(port)
        raise LabError(f"no {count} free loopback ports")

    def _name(self, port: int) -> bool:
        """Whether the port is ours from now on, and was not before."""
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0gpuheal-port-{port}")
        except OSError:
            name.close()
            return False
        self._names[port] = name
        return True


_PORTS = _Ports()


def free_ports(count: int) -> list[int]:
    """`count` loopback TCP ports that nothing listens on, and that are nobody else's while this process lives."""
    return _PORTS.take(count)
