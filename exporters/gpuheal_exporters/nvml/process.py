"""One child process and its pipe: a request is sent, an answer awaited up to a deadline, the end is clean unless the
child is stuck.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 1 << 20
PACKAGE_ROOT = str(Path(__file__).resolve().parent.parent)


class ChildGone(Exception):
    """The child closed its pipe or sent something that is not an answer."""


def kill(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL; a process blocked in the driver stays until its call returns."""
    process.send_signal(signal.SIGKILL)


class Child:
    """A running nvml_child. Not shared between threads."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        environment = dict(os.environ if env is None else env)
        paths = [PACKAGE_ROOT, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        environment["MALLOC_ARENA_MAX"] = "1"  # one thread in there: more arenas only cost memory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpuheal_exporters.nvml.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin = self.process.stdin
        self._stdout = self.process.stdout
        self._rest = b""
        self._number = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, request: Mapping[str, object]) -> None:
        """Send a request; the answer to it must be awaited before the next one."""
        self._number += 1
        line = json.dumps({"id": self._number, **request}).encode() + b"\n"
        try:
            self._stdin.write(line)
        except OSError as error:
            raise ChildGone(str(error)) from error

    def receive(self, timeout_seconds: float, wake: int) -> dict[str, Any] | None:
        """Return the answer, or None when the time has passed or `wake` became readable; raises ChildGone."""
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN | select.POLLHUP)
        poll.register(wake, select.POLLIN)
        until = time.monotonic() + timeout_seconds
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            ready = dict(poll.poll(max(left, 0) * 1000))
            if self._stdout.fileno() in ready:
                piece = os.read(self._stdout.fileno(), 65536)
                self._rest += piece
                if not piece or len(self._rest) > MAX_LINE_BYTES:
                    raise ChildGone("pipe closed" if not piece else "response too long")
            elif wake in ready or left <= 0:
                return None
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise ChildGone("not an answer") from error
        if not isinstance(answer, dict) or answer.get("id") != self._number:
            raise ChildGone("unexpected response")
        return answer

    def close(self, timeout_seconds: float) -> bool:
        """Tell the child to shut NVML down and end; return whether it did so in time."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        return self._wait(timeout_seconds)

    def kill(self, killer: Callable[[subprocess.Popen[bytes]], None], timeout_seconds: float) -> bool:
        """Kill the child; return False when it is still there after the time (blocked in the driver)."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        killer(self.process)
        return self._wait(timeout_seconds)

    def ended(self) -> bool:
        """Return whether the process is gone and its pipe closed."""
        if self.process.poll() is None:
            return False
        self._stdout.close()
        return True

    def _wait(self, timeout_seconds: float) -> bool:
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return self.ended()
