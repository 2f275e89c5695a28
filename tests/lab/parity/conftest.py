"""The bench as a fixture: every test runs on the simulated cluster, and with marker `cluster` on a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.lab.parity.bench import NODES, Bench, on, simulated

from gpuheal_lab.demo.kubescene import KubeScene
from gpuheal_lab.fleet.machine import Timings
from gpuheal_lab.fleet.spec import fleet


@pytest.fixture(scope="session")
def kube_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeScene]:
    """A control plane with the fleet's nodes and the demo's work, for the session."""
    scene = KubeScene(fleet(NODES, 8), folder=tmp_path_factory.mktemp("parity"), timings=Timings())
    try:
        scene.prepare()
        yield scene
    finally:
        scene.plane.close()


@pytest.fixture(params=["sim", pytest.param("kube", marks=pytest.mark.cluster)])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The simulated cluster, then the real one."""
    if request.param == "sim":
        yield simulated()
        return
    async with on(request.getfixturevalue("kube_scene")) as made:
        yield made
