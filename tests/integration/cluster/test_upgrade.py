"""From the previous version's CRD to this one's and back, with cases in flight, on a real API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.plane import SYNC, Eventually

from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import run
from gpuheal_responder.errors import Permanent
from gpuheal_responder.shell.kube.api import Api
from gpuheal_responder.shell.kube.remediations import PATH, KubeRemediations

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[3]
PREVIOUS = ROOT / "tests" / "responder" / "data" / "previous"
CRD = ROOT / "deploy" / "kustomize" / "base" / "crd.yaml"
DISCOVERY = "/apis/gpu.health/v1alpha1"

Json = dict[str, Any]


def previous() -> Json:
    """The object of a case in flight, as the previous version wrote it; who approves is who asks."""
    raw: Json = json.loads((PREVIOUS / "remediation.json").read_text(encoding="utf-8"))
    for key in ("uid", "resourceVersion", "generation", "creationTimestamp"):
        del raw["metadata"][key]
    raw["spec"]["approvals"][0]["by"] = "admin"
    return raw


async def apply(plane: ControlPlane, file: Path, eventually: Eventually, *, status: bool) -> None:
    """The CRD is the file's, and the API server serves it so."""
    argv = find("kubectl").command(f"--kubeconfig={plane.kubeconfig()}", "apply", "-f", str(file), folder=ROOT)
    await asyncio.to_thread(run, argv, deadline_s=60)

    async def served() -> bool:
        names = {r["name"] for r in (await asyncio.to_thread(plane.admin.get, DISCOVERY))["resources"]}
        return ("remediations/status" in names) is status

    await eventually(served, f"{file.name} to be served")


@pytest.fixture
async def old_world(plane: ControlPlane, eventually: Eventually) -> AsyncIterator[Json]:
    """The previous CRD with a case in flight; afterwards this version's is in force again."""
    await apply(plane, PREVIOUS / "crd.yaml", eventually, status=False)
    made = await asyncio.to_thread(plane.admin.create, PATH, previous())
    yield made
    await apply(plane, CRD, eventually, status=True)
    await asyncio.to_thread(plane.admin.delete, f"{PATH}/{made['metadata']['name']}")


async def fresh(api: Api) -> KubeRemediations:
    """A store that has just started, as a new replica's."""
    store = KubeRemediations(api)
    store.start()
    await store.mirror.wait_synced(SYNC)
    return store


async def test_cases_in_flight_survive_the_next_crd_and_the_way_back(
    plane: ControlPlane, api: Api, old_world: Json, eventually: Eventually
) -> None:
    """Nothing is lost on the way up, we go on where the old version was, and going back loses nothing either."""
    name = old_world["metadata"]["name"]
    store = await fresh(api)
    (early,) = await store.list()
    with pytest.raises(Permanent) as caught:  # our image before our CRD: no write, so no step
        await store.save(replace(early, case=replace(early.case, escalated="x")), None)
    assert caught.value.reason == "crd-outdated"
    await store.stop()

    await apply(plane, CRD, eventually, status=True)
    raw = await asyncio.to_thread(plane.admin.get, f"{PATH}/{name}")
    assert (raw["spec"], raw["status"]) == (previous()["spec"], previous()["status"])
    store = await fresh(api)
    (stored,) = await store.list()
    assert (stored.case, stored.unread) == (early.case, ())
    saved = await store.save(replace(stored, case=replace(stored.case, escalated="reboot-deadline")), None)
    await store.stop()

    await apply(plane, PREVIOUS / "crd.yaml", eventually, status=False)
    raw = await asyncio.to_thread(plane.admin.get, f"{PATH}/{name}")
    assert raw["spec"] == previous()["spec"]
    assert {**raw["status"], "escalated": None} == {**previous()["status"], "escalated": None}
    assert raw["status"]["escalated"] == "reboot-deadline"
    store = await fresh(api)
    assert [s.case for s in await store.list()] == [saved.case]
    await store.stop()


async def test_what_a_newer_version_keeps_in_the_status_survives_ours(
    plane: ControlPlane, api: Api, eventually: Eventually
) -> None:
    """After a rollback to us the API server drops nothing that we do not know, at any depth."""
    engine = plane.as_service_account("gpuheal", "gpuheal-responder")
    raw = previous()
    del raw["spec"]["approvals"]
    status = raw["status"]
    status["incident"] = {"id": 7}
    status["attempts"][0]["budget"] = {"zone": "a"}
    status["faults"][0]["target"]["slot"] = "3"
    status["result"] = "half-restored"
    path = f"{PATH}/{raw['metadata']['name']}"
    await asyncio.to_thread(engine.create, PATH, {key: value for key, value in raw.items() if key != "status"})
    await asyncio.to_thread(engine.patch, f"{path}/status", {"status": status})
    store = await fresh(api)
    (stored,) = await store.list()
    assert [text.partition(":")[0] for text in stored.unread] == ["result"]
    await store.save(replace(stored, case=replace(stored.case, escalated="x")), None)
    found = (await asyncio.to_thread(plane.admin.get, path))["status"]
    for attempt in found["attempts"]:
        attempt.pop("phase", None)  # what this version knows and the previous one did not
    assert {**found, "escalated": None, "policy": None} == {**status, "escalated": None, "policy": None}
    await store.stop()
    await asyncio.to_thread(engine.delete, path)
