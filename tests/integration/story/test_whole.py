"""The whole story in enforce mode, from a broken GPU to a restored node, on real servers of both generations."""

from __future__ import annotations

import pytest
from tests.integration.story import work
from tests.integration.story.conftest import Playing
from tests.integration.story.play import assert_as_before, steps_of

from gpuheal_lab.servers.find import Generation
from gpuheal_lab.servers.stack import wait_for

STEPS = ("taint", "cordon", "condition", "drain", "reboot", "verify", "probation", "restore")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.mark.parametrize("generation", list(Generation), ids=str)
def test_a_broken_gpu_ends_in_a_proven_node_that_is_exactly_as_before(playing: Playing, generation: Generation) -> None:
    """Taint and cordon, condition, drain by eviction, one reboot Job, verify, probation, restore; nothing is left."""
    play = playing(generation=generation)
    name = play.node()
    namespace = work.put(play)
    before = play.settled(name)
    uids = {p["metadata"]["uid"] for p in work.pods(play, namespace, name)}

    play.break_gpu()

    marked = wait_for(lambda: _marked(play.raw(name)), f"{name} to be marked")
    assert marked["spec"]["unschedulable"] is True
    assert "gpu.health/undo" in marked["metadata"]["annotations"]
    play.wait_step(name, "reboot")
    down = {c["type"]: c["status"] for c in play.raw(name)["status"]["conditions"]}
    assert down["GPUHealthy"] == "False"
    closed = play.wait_closed(name)

    assert steps_of(closed) == [f"{step} succeeded" for step in STEPS]
    assert_as_before(play, name, before)
    assert len(play.jobs(name)) == len(play.fleet.reboots) == 1
    alive = work.running(play, namespace)
    assert not uids & {p["metadata"]["uid"] for p in alive}, "every pod of the node was moved"
    assert len([p for p in alive if p["metadata"]["labels"]["app"] == work.APP]) == 2
    gang = play.plane.admin.get(f"/apis/batch/v1/namespaces/{namespace}/jobs/{work.GANG}")
    assert not gang["status"].get("failed"), "an eviction is no failure of the gang"
    assert play.fleet.problems == []


def _marked(node: dict[str, object]) -> dict[str, object] | None:
    spec = node["spec"]
    assert isinstance(spec, dict)
    mine = {"key": "gpu.health/unhealthy", "value": "true", "effect": "NoSchedule"}
    return node if mine in [{k: v for k, v in t.items() if k != "timeAdded"} for t in spec.get("taints", ())] else None
