"""The store of cases against an API server in memory: two halves, and other versions' objects."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from tests.responder.shell.kube.shelf import Shelf

from gpuheal_responder.core.case import Approval, AttemptState, Case, Result
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.verdict import Escalate
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import Permanent, Transient
from gpuheal_responder.ports import Stored, Unreadable
from gpuheal_responder.shell.kube.api import Api
from gpuheal_responder.shell.kube.remediations import Kept, KubeRemediations
from gpuheal_responder.shell.record import decision

PREVIOUS = Path(__file__).parents[2] / "data" / "previous"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
CASE = Case(name="gpu-1-1", node="gpu-1", opened_at=NOW, policy="hgx", node_uid="u-1", system_uuid="s-1", gpus=("G",))
YES = Approval(step="reboot", evidence="0123456789ab", by="ann", expires_at=NOW + timedelta(hours=1))


def record(case: Case = CASE) -> dict[str, Any]:
    """A decision."""
    world = World(now=NOW, node=Node(name="gpu-1", uid="u-1"))
    return decision(NOW, Escalate(reason="drain-deadline", message="m"), world, case, None)


def previous() -> dict[str, Any]:
    """The object of a case in flight, as the version before this one wrote it."""
    found: dict[str, Any] = json.loads((PREVIOUS / "remediation.json").read_text(encoding="utf-8"))
    return found


def store_of(shelf: Shelf) -> KubeRemediations:
    """The store on this shelf."""
    return KubeRemediations(cast("Api", shelf))


def hear(store: KubeRemediations, raw: dict[str, Any]) -> Kept | Unreadable:
    """What the store keeps of an object that its watch brings."""
    item = store._read(raw, None)
    store.mirror.put(raw["metadata"]["name"], raw["metadata"]["resourceVersion"], item)
    return item


def heard(store: KubeRemediations, raw: dict[str, Any]) -> Stored:
    """The case in such an object."""
    item = hear(store, raw)
    assert isinstance(item, Kept)
    return item.stored


async def test_a_new_case_is_its_spec_and_then_its_status() -> None:
    """Two writes; approvals are in neither, for those are people's."""
    shelf = Shelf()
    stored = await store_of(shelf).create(replace(CASE, approvals=(YES,)), record())
    assert [(method, path.rpartition("/")[2]) for method, path, _ in shelf.asked] == [
        ("POST", "remediations"),
        ("PATCH", "status"),
    ]
    raw = shelf.objects["gpu-1-1"]
    assert set(raw["spec"]) == {"node", "nodeUID", "systemUUID", "policy", "openedAt"}
    assert raw["status"]["gpus"] == ["G"]
    assert (stored.case, stored.version) == (CASE, raw["metadata"]["resourceVersion"])


async def test_s16_dying_between_the_two_leaves_a_case_that_was_just_opened() -> None:
    """Any replica reads it as opened under its policy with nothing done, and goes on with the next write."""
    shelf = Shelf()
    shelf.die_before = ("PATCH", "/status")
    with pytest.raises(Transient):
        await store_of(shelf).create(CASE, record())
    shelf.die_before = ("", "")
    store = store_of(shelf)
    stored = heard(store, shelf.objects["gpu-1-1"])
    assert stored == Stored(
        case=replace(CASE, gpus=()), version=shelf.objects["gpu-1-1"]["metadata"]["resourceVersion"]
    )
    again = await store.save(replace(stored, case=CASE), record())
    assert heard(store_of(shelf), shelf.objects["gpu-1-1"]).case == again.case == CASE


async def test_s17_a_save_writes_the_status_alone() -> None:
    """What a case was opened on and its approvals are as they were; the policy in force moves."""
    shelf = Shelf()
    store = store_of(shelf)
    await store.create(CASE, record())
    raw = copy.deepcopy(shelf.objects["gpu-1-1"])
    raw["spec"]["approvals"] = [
        {"step": "reboot", "evidence": "0" * 12, "by": "ann", "expiresAt": "2026-02-01T00:00:00Z"}
    ]
    stored = heard(store, shelf.put(raw))
    forged = replace(stored.case, approvals=(YES,), node_uid="other", policy="other", escalated="x")
    saved = await store.save(replace(stored, case=forged), None)
    assert shelf.asked[-1][1].endswith("/status")
    assert shelf.objects["gpu-1-1"]["spec"] == raw["spec"]
    assert saved.case == heard(store_of(shelf), shelf.objects["gpu-1-1"]).case
    assert (saved.case.policy, saved.case.escalated, saved.case.node_uid) == ("other", "x", "u-1")
    assert [a.evidence for a in saved.case.approvals] == ["0" * 12]


async def test_an_approval_is_written_into_the_spec_as_the_person() -> None:
    """The token of whoever asked is shown, and the status stays as it is."""
    shelf = Shelf()
    store = store_of(shelf)
    stored = await store.create(CASE, record())
    status = copy.deepcopy(shelf.objects["gpu-1-1"]["status"])
    approved = await store.approve(stored, (YES,), "anns-token")
    method, path, token = shelf.asked[-1]
    assert (method, path.rpartition("/")[2], token) == ("PATCH", "gpu-1-1", "anns-token")
    assert approved.case.approvals == (YES,)
    assert shelf.objects["gpu-1-1"]["status"] == status
    with pytest.raises(Transient, match="Conflict"):
        await store.approve(stored, (), "bobs-token")


async def test_the_object_of_the_previous_version_is_read_and_goes_on() -> None:
    """All of it is understood; our first write keeps its spec, and moves nothing but what changed."""
    shelf = Shelf()
    store = store_of(shelf)
    stored = heard(store, shelf.put(previous()))
    assert stored.unread == ()
    case = stored.case
    assert (case.policy, case.node_uid, case.gpus) == ("hgx", "u-1", ("GPU-7", "GPU-8"))
    assert [a.state for a in case.attempts] == [AttemptState.SUCCEEDED] * 2 + [AttemptState.RUNNING]
    assert [a.by for a in case.approvals] == ["ann"]
    await store.save(replace(stored, case=replace(case, escalated="x")), None)
    raw = shelf.objects["gpu-1-1"]
    assert raw["spec"] == previous()["spec"]
    attempts = raw["status"].pop("attempts")
    assert [a.pop("phase") for a in attempts] == ["contain", "empty", "cure"]
    expected = {**previous()["status"], "escalated": None, "policy": "hgx"}
    assert attempts == expected.pop("attempts")
    assert {**raw["status"], "escalated": None} == expected


def of_the_future() -> dict[str, Any]:
    """The previous object with keys, words and elements that this version does not know, at every depth."""
    raw = previous()
    raw["spec"]["region"] = "north"
    raw["spec"]["approvals"][0]["quorum"] = 2
    status = raw["status"]
    status["incident"] = {"id": 7, "nodes": ["a"]}
    status["faults"][0] |= {"confidence": 0.9}
    status["faults"][0]["target"] |= {"slot": "3"}
    status["faults"][0]["suppressions"].append({"kind": "mood", "by": "x", "peer": "y"})
    status["attempts"][0] |= {"budget": {"zone": "a"}}
    status["attempts"].insert(1, {**status["attempts"][1], "state": "paused", "operation": "op-9"})
    status["attempts"].append("seventh")
    status["result"] = "half-restored"
    return raw


async def test_what_a_newer_version_wrote_is_read_as_far_as_possible_and_kept_whole() -> None:
    """The case stays; parts that were not understood are named; a write of ours loses nothing."""
    shelf = Shelf()
    store = store_of(shelf)
    before = shelf.put(of_the_future())
    stored = heard(store, before)
    assert {text.partition(":")[0] for text in stored.unread} == {
        "attempts[1].state",
        "attempts[4]",
        "faults[0].suppressions[1].kind",
        "result",
    }
    assert [a.step for a in stored.case.attempts] == ["taint", "drain", "reboot"]
    attempts = (*stored.case.attempts[:2], replace(stored.case.attempts[2], state=AttemptState.FAILED, reason="late"))
    saved = await store.save(replace(stored, case=replace(stored.case, attempts=attempts)), record(stored.case))
    after = shelf.objects["gpu-1-1"]
    expected = copy.deepcopy(before["status"])
    expected["attempts"][3] |= {"state": "failed", "reason": "late"}
    for attempt in expected["attempts"]:
        if isinstance(attempt, dict):
            attempt["phase"] = {"taint": "contain", "drain": "empty", "reboot": "cure"}[attempt["action"]]
    kept = set(expected) - {"decisions", "since", "state", "step", "next", "blockedBy"}
    assert {key: after["status"][key] for key in kept} == {key: expected[key] for key in kept}
    assert after["spec"] == before["spec"]
    assert saved.unread == stored.unread
    await store.save(replace(saved, case=replace(saved.case, escalated="y")), None)
    assert {k: shelf.objects["gpu-1-1"]["status"][k] for k in kept} == {k: expected[k] for k in kept}


async def test_a_known_word_replaces_an_unknown_one_only_when_we_say_so() -> None:
    """Closing a case whose result we did not understand writes ours; leaving it alone keeps theirs."""
    shelf = Shelf()
    store = store_of(shelf)
    stored = heard(store, shelf.put(of_the_future()))
    await store.save(replace(stored, case=replace(stored.case, closed_at=NOW, result=Result.GONE)), None)
    assert shelf.objects["gpu-1-1"]["status"]["result"] == "gone"


async def test_removing_one_attempt_of_ours_removes_no_other() -> None:
    """Elements are recognised by their operation, not by their place."""
    shelf = Shelf()
    store = store_of(shelf)
    stored = heard(store, shelf.put(of_the_future()))
    await store.save(replace(stored, case=replace(stored.case, attempts=stored.case.attempts[1:])), None)
    left = shelf.objects["gpu-1-1"]["status"]["attempts"]
    assert [a if isinstance(a, str) else a["operation"].removeprefix("gpu-1-1-") for a in left] == [
        "drain-1",
        "op-9",
        "reboot-1",
        "seventh",
    ]


@pytest.mark.parametrize(
    "change",
    [{"node": 7}, {"openedAt": "9999-12-31T23:00:00-05:00"}, {"openedAt": None}, {"policy": ["a"]}],
)
async def test_an_object_that_is_no_case_is_told_with_its_node(change: dict[str, Any]) -> None:
    """It is counted and named, nothing is written to it, and the node that it is about can be held."""
    shelf = Shelf()
    store = store_of(shelf)
    raw = previous()
    raw["spec"] |= change
    item = hear(store, shelf.put(raw))
    assert isinstance(item, Unreadable)
    assert (item.name, item.node) == ("gpu-1-1", "gpu-1")
    assert next(iter(change)) in item.problem
    assert store.strange() == 1
    with pytest.raises(Permanent) as caught:
        await store.save(Stored(case=CASE, version="1"), None)
    assert caught.value.reason == "case-unreadable"


def test_parts_that_are_not_understood_count_as_well() -> None:
    """A case that was read in part is one that somebody has to look at; unknown keys alone are none."""
    shelf = Shelf()
    store = store_of(shelf)
    hear(store, shelf.put(of_the_future()))
    raw = previous()
    raw["metadata"]["name"] = "gpu-2-1"
    raw["status"]["incident"] = 7
    hear(store, shelf.put(raw))
    assert store.strange() == 1


async def test_a_crd_without_status_is_said_and_nothing_is_done() -> None:
    """Our image with the previous CRD: the first write of a transition is refused, so no effect can follow it."""
    shelf = Shelf(status=False)
    store = store_of(shelf)
    stored = heard(store, shelf.put(previous()))
    with pytest.raises(Permanent) as caught:
        await store.save(replace(stored, case=replace(stored.case, escalated="x")), None)
    assert caught.value.reason == "crd-outdated"
    assert "escalated" not in shelf.objects["gpu-1-1"]["status"]


async def test_a_case_that_was_written_meanwhile_is_not_deleted() -> None:
    """Forgetting names the version that was judged; the deleted stays deleted whatever is answered late."""
    shelf = Shelf()
    store = store_of(shelf)
    await store.create(CASE, record())
    shelf.put(shelf.objects["gpu-1-1"])
    with pytest.raises(Transient, match="Conflict"):
        await store.delete("gpu-1-1")
    late = shelf.objects["gpu-1-1"]
    hear(store, late)
    await store.delete("gpu-1-1")
    await store.delete("gpu-1-1")
    hear(store, late)
    assert store.mirror.known() == []
