"""Real servers as fixtures. Nothing is built here: `python -m gpuheal_lab.servers ensure …` (make) does that before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gpuheal_lab.controlplane import ControlPlane
from gpuheal_lab.servers import Generation, Server, find
from gpuheal_lab.stack import Stack

_NUMBERS = itertools.count()


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


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane for the session; user `nobody` has no rights. Leave it as found: own namespaces, own nodes."""
    with ControlPlane(tmp_path_factory.mktemp("plane"), identities={"nobody": ["lab:people"]}) as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace in the control plane, being deleted afterwards."""
    name = control_plane.create_namespace(f"lab-{next(_NUMBERS)}")
    yield name
    control_plane.admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def make_nodes(control_plane: ControlPlane) -> Iterator[Callable[..., list[str]]]:
    """`make_nodes(count, **like create_nodes)` gives Ready nodes with names of their own, deleted afterwards."""
    made: list[str] = []

    def make(count: int, **settings: object) -> list[str]:
        names = control_plane.create_nodes(count, prefix=f"n{next(_NUMBERS)}", **settings)  # type: ignore[arg-type]
        made.extend(names)
        return names

    yield make
    control_plane.delete_nodes(made)
