"""Real servers as fixtures. Nothing is built here: `python -m gpuheal_lab.servers ensure …` (make) does that before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gpuheal_lab.servers.find import Generation, Server, find
from gpuheal_lab.servers.stack import Stack


@pytest.fixture(scope="session")
def prometheus_binaries() -> Mapping[Generation, Server]:
    """Prometheus of both generations; fails, naming every way tried, when one is missing."""
    return {generation: find("prometheus", generation) for generation in Generation}


@pytest.fixture(scope="session")
def promtool_binaries() -> Mapping[Generation, Server]:
    """promtool of both generations."""
    return {generation: find("promtool", generation) for generation in Generation}


@pytest.fixture(scope="session")
def alertmanager_binaries() -> Mapping[Generation, Server]:
    """Alertmanager of both generations."""
    return {generation: find("alertmanager", generation) for generation in Generation}


@pytest.fixture(scope="session")
def amtool_binaries() -> Mapping[Generation, Server]:
    """amtool of both generations."""
    return {generation: find("amtool", generation) for generation in Generation}


@pytest.fixture(params=list(Generation), ids=str)
def generation(request: pytest.FixtureRequest) -> Generation:
    """Each supported generation in turn."""
    chosen: Generation = request.param
    return chosen


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of the current generation; all it starts ends with the test."""
    with Stack(tmp_path / "stack", Generation.CURRENT) as made:
        yield made


@pytest.fixture
def stack_of_generation(tmp_path: Path, generation: Generation) -> Iterator[Stack]:
    """A stack of each generation in turn: the test runs once per generation."""
    with Stack(tmp_path / "stack", generation) as made:
        yield made
