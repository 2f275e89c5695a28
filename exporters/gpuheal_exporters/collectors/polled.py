"""Collectors that read from a kernel or socket that may block: asked by a thread of their own, so that a scrape never
waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)


class Polled(Collector):
    """Serves what `inner` collected last. `name` is its value of the label `group` beside the NVML probe groups."""

    def __init__(
        self,
        name: str,
        inner: Collector,
        *,
        interval_seconds: float = 15.0,
        deadline_seconds: float = 10.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._inner = inner
        self._interval = interval_seconds
        self._deadline = deadline_seconds
        self._now = now
        self._stop = threading.Event()
        self._first = threading.Event()
        self._families: Sequence[Metric] = ()
        self._began: float | None = None
        self.observed_at = 0.0
        """Unix time of the last full round, 0 before the first."""
        self.duration_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name=f"poll-{name}", daemon=True)

    def start(self) -> None:
        """Put the thread to work."""
        self._thread.start()

    def wait_first(self, timeout_seconds: float) -> bool:
        """Return once the first round is over, or the time; whether it was the round."""
        return self._first.wait(timeout_seconds)

    def stop(self, timeout_seconds: float = 2.0) -> bool:
        """End the thread, unless its round is stuck; return whether it has ended."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def stuck(self) -> bool:
        """Return whether the running round has overrun its deadline."""
        began = self._began
        return began is not None and time.monotonic() - began > self._deadline

    def collect(self) -> Iterable[Metric]:
        """Return the families of the last full round."""
        return self._families

    def _run(self) -> None:
        while not self._stop.is_set():
            began = self._began = time.monotonic()
            try:
                self._families = tuple(self._inner.collect())
            except (OSError, ValueError):
                log.exception("collector %s failed; keeping its last values", self.name)
            self._began = None
            self.duration_seconds = time.monotonic() - began
            self.observed_at = self._now()
            self._first.set()
            self._stop.wait(self._interval)
