"""A control plane with gpuheal's own objects, and stories that play on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.cluster.conftest import BASE
from tests.integration.story.play import Play, Script

from gpuheal_lab.controlplane import ControlPlane
from gpuheal_lab.process import run
from gpuheal_lab.servers import find
from gpuheal_lab.stack import wait_for

DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/remediations.gpu.health"
ACCOUNTS = ("gpuheal/serviceaccounts/gpuheal-responder", "gpuheal-privileged/serviceaccounts/gpuheal-reboot")
IDENTITIES = {"ann": ["sre"], "bob": ["sre"]}

Playing = Callable[..., Play]


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own, for the responder looks at every node; deploy/kustomize/base is applied.

    Users ann and bob have no rights but what a test gives them.
    """
    with ControlPlane(tmp_path_factory.mktemp("story"), identities=IDENTITIES) as made:
        kubectl = find("kubectl")
        config = f"--kubeconfig={made.kubeconfig()}"

        def call(*args: str) -> None:
            run(kubectl.command(config, *args, folder=BASE), deadline_s=60)

        call("apply", "-k", str(BASE))
        call("-n", "gpuheal", "scale", "deployment/gpuheal-responder", "--replicas=0")

        def established() -> bool:
            conditions = made.admin.get(DEFINITION).get("status", {}).get("conditions", ())
            return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

        wait_for(established, "the CRD to be established")
        for account in ACCOUNTS:
            wait_for(lambda path=account: made.admin.get(f"/api/v1/namespaces/{path}"), account)  # type: ignore[misc]
        yield made


@pytest.fixture
def playing(plane: ControlPlane, tmp_path: Path) -> Iterator[Playing]:
    """`playing(mode="observe", …)` opens a story with these fields of Script; it is closed with the test."""
    opened: list[Play] = []

    def play(**script: object) -> Play:
        made = Play(plane=plane, folder=tmp_path / f"story-{len(opened)}", script=Script(**script))  # type: ignore[arg-type]
        made.folder.mkdir()
        opened.append(made)
        made.open()
        return made

    yield play
    for made in reversed(opened):
        made.close()
