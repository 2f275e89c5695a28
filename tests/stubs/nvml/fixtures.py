"""Fixtures around the stub library, for every test that runs the NVML half for real."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.stubs.nvml.library import Script, build

from gpuheal_exporters.nvml.schedule import INTERVALS, NvmlSettings
from gpuheal_exporters.nvml.supervisor import NvmlSupervisor

QUICK = NvmlSettings(
    intervals=dict.fromkeys(INTERVALS, 0.05),
    deadline=1.0,
    start_deadline=2.0,
    patience=0.4,
    kill_wait=10.0,
    retry=0.05,
    retry_max=0.2,
    quarantine=0.1,
    quarantine_max=0.4,
)
"""Times short enough for tests, long enough for a busy machine with two cores (a hanging call is noticed after
`deadline`).
"""

Watch = Callable[..., NvmlSupervisor]


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """`true()` holds; fails the test when it does not within the time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not become true in time"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stub libnvidia-ml.so.1."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def script(tmp_path: Path, nvml_library: Path) -> Script:
    """The machine the stub plays; a healthy 8 x H100 until told otherwise."""
    return Script(tmp_path, nvml_library)


@pytest.fixture
def watch(script: Script) -> Iterator[Watch]:
    """Starts supervisors on the scripted machine and stops them after the test."""
    started: list[NvmlSupervisor] = []

    def start(settings: NvmlSettings = QUICK, **options: object) -> NvmlSupervisor:
        supervisor = NvmlSupervisor(settings, env=script.environment(), **options)  # type: ignore[arg-type]
        started.append(supervisor)
        supervisor.start()
        return supervisor

    yield start
    for supervisor in started:
        assert supervisor.stop(), "the supervisor did not stop"
