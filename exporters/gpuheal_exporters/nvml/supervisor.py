"""Keeps one NVML child at work and publishes what it says; whatever the child does, `snapshot()` returns at once.

    supervisor = NvmlSupervisor(listener=inventory.update)   # called in the thread after each change
    supervisor.start()                       # a thread; nothing blocks
    supervisor.wait_complete(10)             # for --once: all groups asked once, or NVML known to be unusable
    supervisor.snapshot().gpus[0].reading("thermal").number("temperature")
    supervisor.stop()                        # the child has shut NVML down and ended

A probe that overruns its deadline is reported as stuck and given `patience` more; then the child is killed, the GPU
concerned is left alone for a while, and a new child serves the others. A child that survives SIGKILL is blocked in the
driver: after two of those NVML is given up until one goes away, and the node lives on its kernel log. A lost GPU is
not asked again before a new child (`recheck`, `release`, or after an hour).
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from gpuheal_exporters.nvml.process import Child, ChildGone, kill
from gpuheal_exporters.nvml.schedule import GROUPS, IDENTITY, START, Backoff, NvmlSettings
from gpuheal_exporters.nvml.snapshot import STATE_OF_CODE, NvmlSnapshot, NvmlState
from gpuheal_exporters.nvml.state import NvmlLearned

IDLE_SECONDS = 60.0


class _Ended(Exception):
    """The running child is of no more use; `pause` seconds until the next one."""

    def __init__(self, state: NvmlState, pause: float = 0.0) -> None:
        self.state = state
        self.pause = pause
        super().__init__(state)


class NvmlSupervisor:
    """See the module. All public methods may be called from any thread."""

    def __init__(
        self,
        settings: NvmlSettings | None = None,
        *,
        root: str = "/",
        env: Mapping[str, str] | None = None,
        killer: Callable[[subprocess.Popen[bytes]], None] = kill,
        now: Callable[[], float] = time.time,
        listener: Callable[[NvmlSnapshot], None] | None = None,
    ) -> None:
        self._settings = settings or NvmlSettings()
        self._root = root
        self._env = env
        self._killer = killer
        self._now = now
        self._listener = listener
        self._learned = NvmlLearned()
        self._child: Child | None = None
        self._abandoned: list[Child] = []
        self._retry = Backoff(self._settings.retry, self._settings.retry_max)
        self._quarantine: dict[int, tuple[float, Backoff]] = {}
        self._due: dict[str, float] = {}
        self._asked: set[str] = set()
        self._stopping = False
        self._released_until = 0.0
        self._fresh = False
        self._started = 0.0
        self._complete = threading.Event()
        self._idle = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._published = NvmlSnapshot()
        self._thread = threading.Thread(target=self._run, name="nvml-supervisor", daemon=True)

    def start(self) -> None:
        """Put the supervisor to work in its own thread."""
        self._thread.start()

    def snapshot(self) -> NvmlSnapshot:
        """Return the latest picture, immutable."""
        return self._published

    def wait_complete(self, timeout_seconds: float) -> NvmlSnapshot:
        """Return the first picture in which every group was asked or NVML is unusable, or the one after the time."""
        self._complete.wait(timeout_seconds)
        return self.snapshot()

    def recheck(self) -> None:
        """Ask lost GPUs again soon, by a new child: call it when a reset or a new driver is seen (Xid 154 with
        0, latch cleared).
        """
        self._fresh = True
        self._wake()

    def release(self, seconds: float, timeout_seconds: float = 10.0) -> bool:
        """Hold no GPU open for `seconds`, so that it can be reset; return whether NVML was let go of in time."""
        self._idle.clear()
        self._released_until = time.monotonic() + seconds
        self._wake()
        return self._idle.wait(timeout_seconds)

    def resume(self) -> None:
        """End a release now."""
        self._released_until = 0.0
        self._wake()

    def stop(self, timeout_seconds: float = 15.0) -> bool:
        """Let the child shut NVML down and end, or kill it if stuck; return whether that was done in time."""
        self._stopping = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"w")

    def _sleep(self, seconds: float) -> None:
        """Sleep until the time has passed or somebody wants something."""
        with contextlib.suppress(BlockingIOError):
            if select.select([self._wake_read], [], [], max(seconds, 0.0))[0]:
                os.read(self._wake_read, 4096)

    def _publish(self, state: NvmlState) -> None:
        self._learned.state = state
        known = state not in (NvmlState.STARTING, NvmlState.OK) or self._asked >= set(GROUPS)
        complete = known or self._complete.is_set()
        self._published = self._learned.snapshot(complete=complete, abandoned=len(self._abandoned), at=self._now())
        if self._listener is not None:
            self._listener(self._published)
        if complete:
            self._complete.set()

    def _run(self) -> None:
        while not self._stopping:
            try:
                if time.monotonic() < self._released_until:
                    raise _Ended(NvmlState.RELEASED, self._released_until - time.monotonic())
                self._serve()
            except _Ended as ended:
                self._end_child()
                self._publish(ended.state)
                self._idle.set()
                if not self._stopping:
                    self._sleep(ended.pause)
            except ChildGone:
                self._learned.restarts += 1
                self._end_child()
                self._publish(NvmlState.FAILED)
                self._sleep(self._retry.next())
        self._end_child()
        self._abandoned = [child for child in self._abandoned if not child.ended()]
        self._publish(NvmlState.STOPPED)

    def _serve(self) -> None:
        """Ask round after round until something ends the child."""
        self._start_child()
        while True:
            self._check_orders()
            group = min(self._due, key=lambda each: self._due[each])
            pause = self._due[group] - time.monotonic()
            if pause > 0:
                self._sleep(min(pause, IDLE_SECONDS))
                continue
            began = time.monotonic()
            if group == "count":
                self._count()
            else:
                for index in range(self._learned.count or 0):
                    self._probe(group, index)
            if group == IDENTITY:
                self._learned.miss()
            took = time.monotonic() - began
            self._learned.round_done(group, self._now(), took)
            self._due[group] = time.monotonic() + self._settings.intervals[group]
            self._asked.add(group)
            if self._asked >= set(GROUPS):
                self._retry.reset()
            self._publish(NvmlState.OK)

    def _check_orders(self) -> None:
        if self._stopping:
            raise _Ended(NvmlState.STOPPED)
        if time.monotonic() < self._released_until:
            raise _Ended(NvmlState.RELEASED)
        overdue = self._learned.lost and time.monotonic() - self._started >= self._settings.lost_recheck
        if self._fresh or overdue:
            self._fresh = False
            raise _Ended(NvmlState.STARTING)

    def _start_child(self) -> None:
        self._abandoned = [child for child in self._abandoned if not child.ended()]
        if len(self._abandoned) >= self._settings.max_abandoned:
            raise _Ended(NvmlState.STUCK, self._settings.retry_max)
        self._child = Child(self._env)
        proc = self._ask(START, -1, {"op": "proc", "root": self._root})
        self._learned.proc(proc.get("ok", {}))
        answer = self._ask(START, -1, {"op": "start"})
        if "ok" not in answer:
            self._fail(answer)
        before = self._learned.count
        self._learned.started(answer["ok"])
        if before != self._learned.count:
            self._quarantine.clear()
            self._learned.stuck.clear()
        self._learned.unstall(-1)
        began = self._started = time.monotonic()
        self._due = {group: began + order * 1e-6 for order, group in enumerate((*GROUPS, "count"))}
        self._due["count"] += self._settings.intervals["count"]
        self._fresh = False

    def _count(self) -> None:
        """End a child that counts other GPUs than at its start: indexes have moved, a new one begins from scratch."""
        answer = self._ask("count", -1, {"op": "count"})
        if "ok" not in answer:
            self._fail(answer)
        if answer["ok"].get("count") != self._learned.count:
            raise _Ended(NvmlState.STARTING)

    def _probe(self, group: str, index: int) -> None:
        learned = self._learned
        until, _ = self._quarantine.get(index, (0.0, None))
        if index in learned.lost or time.monotonic() < until:
            return
        if group != IDENTITY and index not in learned.identified:
            return
        answer = self._ask(group, index, {"op": "group", "group": group, "index": index})
        if answer.get("driver"):
            self._fail(answer)
        elif answer.get("lost"):
            learned.gone(index)
            learned.unstall(index)
            self._publish(NvmlState.OK)
        elif "ok" in answer:
            learned.answered(group, index, answer["ok"], self._now())
            self._settle(index)
            learned.count_errors(group, answer.get("errors", {}))
        else:
            learned.count_errors(group, {str(answer.get("code", 999)): 1})

    def _settle(self, index: int) -> None:
        """Release a quarantined GPU that has answered the probe it was stuck in."""
        if index in self._quarantine and not any(key[1] == index for key in self._learned.stuck):
            del self._quarantine[index]

    def _fail(self, answer: Mapping[str, Any]) -> None:
        """End the child because NVML as a whole said no."""
        self._learned.count_errors(START, {str(answer.get("code", 999)): 1})
        raise _Ended(STATE_OF_CODE.get(answer.get("code", 999), NvmlState.FAILED), self._retry.next())

    def _ask(self, probe: str, index: int, request: dict[str, object]) -> dict[str, Any]:
        """Return the child's answer; a probe that overruns is told while it is waited for, in the end killed."""
        child = self._child
        assert child is not None
        child.send(request)
        answer = self._receive(child, self._settings.deadline_of(probe))
        if answer is not None:
            return answer
        self._learned.stall(probe, index, self._now())
        self._publish(NvmlState.STUCK)
        answer = self._receive(child, self._settings.patience)
        if answer is not None:
            self._learned.stuck.pop((probe, index), None)
            return answer
        self._kill_child()
        if index < 0:
            raise _Ended(NvmlState.STUCK, self._retry.next())
        _, backoff = self._quarantine.get(
            index, (0.0, Backoff(self._settings.quarantine, self._settings.quarantine_max))
        )
        self._quarantine[index] = (time.monotonic() + backoff.next(), backoff)
        raise _Ended(NvmlState.STUCK)

    def _receive(self, child: Child, seconds: float) -> dict[str, Any] | None:
        """Return the answer, or None after the time. Asked to stop, it waits for one deadline at most."""
        until = time.monotonic() + (min(seconds, self._settings.deadline) if self._stopping else seconds)
        while True:
            answer = child.receive(until - time.monotonic(), self._wake_read)
            if answer is not None or time.monotonic() >= until:
                return answer
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            if self._stopping:
                until = min(until, time.monotonic() + self._settings.deadline)

    def _kill_child(self) -> None:
        child, self._child = self._child, None
        assert child is not None
        self._learned.restarts += 1
        if not child.kill(self._killer, self._settings.kill_wait):
            self._abandoned.append(child)

    def _end_child(self) -> None:
        """End the child: by itself after nvmlShutdown, or killed if it did not within a deadline."""
        child = self._child
        if child is None:
            return
        if child.close(self._settings.deadline):
            self._child = None
        else:
            self._kill_child()
