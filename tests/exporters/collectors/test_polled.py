"""Collectors in threads of their own: a scrape never waits for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from tests.stubs.nvml.fixtures import until
from tests.stubs.samples import only, samples

from gpuheal_exporters.collectors.polled import Polled
from gpuheal_exporters.collectors.presence import SourceCollector
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot


class Gate(Collector):
    """Counts its rounds, blocks while closed, fails when told to."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.rounds = 0
        self.failure: Exception | None = None

    def collect(self) -> Iterable[Metric]:
        assert self.open.wait(30)
        self.rounds += 1
        if self.failure is not None:
            raise self.failure
        return [GaugeMetricFamily("rounds", "Rounds so far.", value=self.rounds)]


def test_blocked_source_is_told_and_not_waited_for() -> None:
    """While a round hangs the last values are served, the group is stuck; afterwards it is not."""
    gate = Gate()
    polled = Polled("rdma", gate, interval_seconds=0.01, deadline_seconds=0.05)
    source = SourceCollector(NvmlSnapshot, lambda: (polled,))
    polled.start()
    assert polled.wait_first(20)
    assert not polled.stuck
    gate.open.clear()
    until(lambda: polled.stuck)
    before = only(samples(polled), "rounds")
    assert before == {(): float(gate.rounds)}
    assert only(samples(source), "gpuheal_probe_stuck")[("rdma",)] == 1
    assert not polled.stop(0.05), "a blocked thread is left behind"
    gate.open.set()
    assert polled.stop(20)
    assert not polled.stuck


def test_failing_round_keeps_the_last_values(caplog: pytest.LogCaptureFixture) -> None:
    """An unreadable source is logged with its name, its values stay, and it is asked again."""
    gate = Gate()
    polled = Polled("rdma", gate, interval_seconds=0.01)
    polled.start()
    assert polled.wait_first(20)
    with caplog.at_level(logging.ERROR):
        gate.failure = OSError(5, "Input/output error")
        until(lambda: "collector rdma failed" in caplog.text)
    assert only(samples(polled), "rounds")
    gate.failure = None
    rounds = gate.rounds
    until(lambda: only(samples(polled), "rounds")[()] > rounds + 1)
    assert polled.stop(20)
