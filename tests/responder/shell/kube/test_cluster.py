"""What the adapter asks of the API server, to the byte, and what it makes of the answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.responder.shell.kube.conftest import Told

from gpuheal_responder.core.node import Condition, Node, Pod, Taint, UndoRecord
from gpuheal_responder.core.undo import UNDO_ANNOTATION, Marks, cordoned, dump, mark, release, tainted
from gpuheal_responder.errors import Transient
from gpuheal_responder.ports import EvictionResult
from gpuheal_responder.shell.kube.api import MERGE_PATCH, STRATEGIC_MERGE_PATCH, Api
from gpuheal_responder.shell.kube.cluster import KubeCluster

Json = dict[str, Any]
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
OURS = Taint(key="gpu.health/unhealthy", value="true")
THEIRS = Taint(key="team", effect="NoExecute", time_added="2026-01-01T00:00:00Z")
RECORD = UndoRecord(case="c", owner="gpuheal", at=NOW, policy="p", faults=("f",), changes=(tainted(OURS), cordoned()))
NODE = Node(name="n1", uid="u1", resource_version="7", taints=(THEIRS,))
POD = Pod(namespace="ml", name="p", uid="pod-uid")


class Noon:
    """The port Clock."""

    def now(self) -> datetime:
        """Always noon."""
        return NOW


@pytest.fixture
def adapter(told_api: Api) -> KubeCluster:
    """The adapter on the scripted server; it follows nothing."""
    return KubeCluster(told_api, Noon())


async def test_s16_a_mark_is_one_patch_at_the_version_that_was_looked_at(told: Told, adapter: KubeCluster) -> None:
    """Version, whole taint list, cordon and record go in one merge PATCH; the node comes back with the new version."""
    told.replies = [(200, {"metadata": {"resourceVersion": "8"}})]
    marked = await adapter.mark(NODE, mark(NODE, RECORD))
    (asked,) = told.asked
    assert (asked.method, asked.path, asked.content_type) == ("PATCH", "/api/v1/nodes/n1", MERGE_PATCH)
    assert asked.body == {
        "metadata": {"resourceVersion": "7", "annotations": {UNDO_ANNOTATION: dump(RECORD)}},
        "spec": {
            "taints": [
                {"key": "team", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
                {"key": "gpu.health/unhealthy", "value": "true", "effect": "NoSchedule"},
            ],
            "unschedulable": True,
        },
    }
    assert (marked.resource_version, marked.unschedulable, marked.undo) == ("8", True, RECORD)
    assert marked.taints == (THEIRS, OURS)


async def test_s18_a_release_removes_instead_of_writing_false(told: Told, adapter: KubeCluster) -> None:
    """Empty taints, a lifted cordon and the record go as null, so that they are absent as before."""
    told.replies = [(200, {"metadata": {"resourceVersion": "9"}})]
    node = Node(name="n1", uid="u1", resource_version="8", taints=(OURS,), unschedulable=True, undo=RECORD)
    await adapter.mark(node, release(node))
    assert told.asked[0].body == {
        "metadata": {"resourceVersion": "8", "annotations": {UNDO_ANNOTATION: None}},
        "spec": {"taints": None, "unschedulable": None},
    }


async def test_a_cordon_that_is_not_ours_to_change_is_not_named(told: Told, adapter: KubeCluster) -> None:
    """None for `unschedulable` leaves the field out of the PATCH."""
    told.replies = [(200, {"metadata": {"resourceVersion": "8"}})]
    await adapter.mark(NODE, Marks(taints=(OURS,), unschedulable=None, undo=RECORD))
    assert "unschedulable" not in told.asked[0].body["spec"]


async def test_s21_conditions_name_the_machine_and_only_our_types(told: Told, adapter: KubeCluster) -> None:
    """A strategic-merge PATCH of nodes/status with the node's UID; the transition time goes only with a new status."""
    node = Node(name="n1", uid="u1", conditions=(Condition(type="GPUHealthy", status="False"),))
    same = Condition(type="GPUHealthy", status="False", reason="R", message="m")
    new = Condition(type="NVLinkHealthy", status="False", reason="R", message="m")
    await adapter.set_conditions(node, [same, new], ["GPUMemoryHealthy"])
    (asked,) = told.asked
    assert (asked.path, asked.content_type) == ("/api/v1/nodes/n1/status", STRATEGIC_MERGE_PATCH)
    assert asked.body["metadata"] == {"uid": "u1"}
    at = "2026-01-31T12:00:00Z"
    written = {"status": "False", "reason": "R", "message": "m", "lastHeartbeatTime": at}
    assert asked.body["status"]["conditions"] == [
        {"type": "GPUHealthy", **written},
        {"type": "NVLinkHealthy", **written, "lastTransitionTime": at},
        {"type": "GPUMemoryHealthy", "$patch": "delete"},
    ]


async def test_nothing_to_write_asks_nothing(told: Told, adapter: KubeCluster) -> None:
    """Without conditions to put or remove there is no request."""
    await adapter.set_conditions(NODE, (), ())
    assert told.asked == []


def status(code: int, message: str, *causes: tuple[str, str]) -> tuple[int, Json]:
    """The API server's answer to a refused eviction."""
    details = {"causes": [{"reason": reason, "message": words} for reason, words in causes]}
    return code, {"kind": "Status", "code": code, "message": message, "details": details}


BUDGET = "The disruption budget web needs 2 healthy pods and has 2 currently"


@pytest.mark.parametrize(
    ("reply", "result", "blocker"),
    [
        ((201, {}), EvictionResult.ACCEPTED, ""),
        (status(429, "Cannot evict", ("DisruptionBudget", BUDGET)), EvictionResult.BLOCKED, BUDGET),
        (
            status(500, "This pod has more than one PodDisruptionBudget, which is not supported"),
            EvictionResult.BLOCKED,
            "This pod has more than one PodDisruptionBudget, which is not supported",
        ),
        (status(404, "pods p not found"), EvictionResult.GONE, ""),
        (status(409, "the UID in the precondition (a) does not match the UID in record (b)"), EvictionResult.GONE, ""),
        (status(409, "Precondition failed: UID in precondition: a, UID in object meta: b"), EvictionResult.GONE, ""),
        (status(403, "being terminated", ("NamespaceTerminating", "x")), EvictionResult.GONE, ""),
    ],
)
async def test_s19_an_eviction_is_of_exactly_this_pod_and_its_refusal_is_understood(
    told: Told, adapter: KubeCluster, reply: tuple[int, Json], result: EvictionResult, blocker: str
) -> None:
    """The pod's UID is the precondition; budgets block by name; what is gone or going is gone."""
    told.replies = [reply]
    answer = await adapter.evict(POD)
    assert (answer.result, answer.blocker) == (result, blocker)
    (asked,) = told.asked
    assert (asked.method, asked.path) == ("POST", "/api/v1/namespaces/ml/pods/p/eviction")
    assert asked.body["kind"] == "Eviction"
    assert asked.body["deleteOptions"] == {"preconditions": {"uid": "pod-uid"}}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (status(429, "too many requests"), "throttled"),
        (status(429, "couldn't update PodDisruptionBudget due to conflicts"), "throttled"),
        (status(409, "the object has been modified"), "conflict"),
        (status(500, "internal error"), "api-unavailable"),
    ],
)
async def test_s19_throttling_is_no_budget(
    told: Told, adapter: KubeCluster, reply: tuple[int, Json], reason: str
) -> None:
    """A 429 without the cause of a budget, a plain conflict and a plain 500 are to be tried again."""
    told.replies = [reply]
    with pytest.raises(Transient) as caught:
        await adapter.evict(POD)
    assert caught.value.reason == reason
