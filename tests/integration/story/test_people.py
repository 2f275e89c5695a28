"""People stay in charge: observe, propose and approve, silences, a lifted cordon, and cordons that are not ours."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.integration.story import work
from tests.integration.story.conftest import Playing
from tests.integration.story.play import GPUHEAL, Play, assert_as_before, pause, steps_of

from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import CommandFailed, run
from gpuheal_lab.servers.stack import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

QUIET_S = 4.0
"""Several looks of the responder: for what must not happen."""


def test_observe_writes_nothing_but_the_remediation(playing: Playing) -> None:
    """In observe mode the case is written down with what would be done, and not one other object changes."""
    play = playing(mode="observe", door=True)
    assert play.door is not None
    name = play.node()
    namespace = work.put(play)
    play.settled(name)

    play.break_gpu()
    shown = play.wait_blocked(name, "observing", "taint", "mode-observe")
    gpus = f"/api/v1/nodes/{name}"
    wait_for(lambda: play.plane.admin.get(gpus)["status"]["allocatable"]["nvidia.com/gpu"] == "7", "the device plugin")
    before = _versions(play, name, namespace)
    pause(QUIET_S)

    assert _versions(play, name, namespace) == before
    assert set(play.door.done) <= {"", "open", "save"}, "only the Remediation, and the Lease of the election"
    assert {path for method, path in play.door.seen if method != "GET" and "/events" in path} == set()
    assert steps_of(shown) == []
    assert play.jobs(name) == []


def test_propose_waits_for_a_person_who_may_approve(playing: Playing) -> None:
    """Nothing disruptive begins before `gpuheal approve`; one without the right is refused; each step needs its own."""
    play = playing(mode="propose")
    name = play.node()
    work.put(play)
    before = play.settled(name)
    _bind(play, "ann", "gpuheal-approver")
    _bind(play, "bob", "gpuheal-viewer")

    play.break_gpu()
    asked = _asked(play, name, "drain")
    assert steps_of(asked) == ["taint succeeded", "cordon succeeded", "condition succeeded"]
    with pytest.raises(CommandFailed, match="approve") as refused:
        _approve(play, "bob", name, "drain", _evidence(asked))
    assert "bob is not allowed to create remediations/approve" in refused.value.output
    pause(QUIET_S)
    assert "drain" not in str(steps_of(play.wait_blocked(name, "approval-needed")))

    for step in ("drain", "reboot"):
        asked = _asked(play, name, step)
        assert f"{step} approved by ann" in _approve(play, "ann", name, step, _evidence(asked))
    closed = play.wait_closed(name)
    assert {a["by"] for a in closed["spec"]["approvals"]} == {"ann"}
    assert len(play.jobs(name)) == 1
    assert_as_before(play, name, before)


def test_a_silence_stops_at_the_next_safe_point_and_says_whose_it_is(playing: Playing) -> None:
    """`amtool silence add 'fault=~".+"'` while the node drains: no reboot, the author is named; expired, it goes on."""
    play = playing()
    name = play.node()
    namespace = work.put(play)
    before = play.settled(name)
    guard = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{work.APP}"
    play.plane.admin.patch(guard, {"spec": {"minAvailable": 2}})  # nobody may leave: the drain goes on and on

    play.break_gpu()
    play.wait_case(name, lambda s: "eviction-blocked" in json.dumps(s.get("attempts", "")), "the drain to be blocked")
    silence = _amtool(play, "silence", "add", 'fault=~".+"', "--author=ann", "--comment=rack work", "--duration=1h")
    play.plane.admin.patch(guard, {"spec": {"minAvailable": 1}})
    held = play.wait_blocked(name, "held", "reboot", "alert-silenced", "ann: rack work")
    pause(QUIET_S)
    assert play.jobs(name) == []
    assert "drain succeeded" in steps_of(held)
    _amtool(play, "silence", "expire", silence.strip())
    play.wait_closed(name)
    assert len(play.jobs(name)) == 1
    assert_as_before(play, name, before)


def test_a_silence_before_the_fault_lets_nothing_begin(playing: Playing) -> None:
    """While the alert is silenced from the start the node is not even marked; the author is named."""
    play = playing()
    name = play.node()
    _amtool(play, "silence", "add", 'fault=~".+"', "--author=ann", "--comment=burn-in", "--duration=1h")
    before = play.settled(name)
    play.break_gpu()
    play.wait_blocked(name, "held", "taint", "alert-silenced", "ann: burn-in")
    pause(QUIET_S)
    assert play.raw(name)["spec"] == before["spec"]


def test_a_person_who_uncordons_has_the_node(playing: Playing) -> None:
    """`kubectl uncordon` while the responder waits for approval: the case ends as taken over, our marks are gone."""
    play = playing(mode="propose")
    name = play.node()
    before = play.settled(name)
    play.break_gpu()
    play.wait_blocked(name, "pending", "reboot", "approval-needed")
    _kubectl(play, "uncordon", name)
    play.wait_closed(name, "taken-over")
    allocatable = {"allocatable": before["status"]["allocatable"] | {"nvidia.com/gpu": "7"}}
    assert_as_before(play, name, before | {"status": before["status"] | allocatable}, rebooted=False)
    pause(QUIET_S)
    assert len(play.remediations()) == 1, "the same evidence opens no second case"
    assert "taints" not in play.raw(name)["spec"]


def test_a_cordon_that_is_not_ours_stays(playing: Playing) -> None:
    """A node that people had cordoned is healed and given back cordoned."""
    play = playing()
    name = play.node()
    play.settled(name)
    _kubectl(play, "cordon", name)
    wait_for(lambda: play.raw(name)["spec"].get("taints"), "the taint of the cordon")
    before = play.raw(name)
    play.break_gpu()
    play.wait_closed(name)
    assert_as_before(play, name, before)
    assert play.raw(name)["spec"]["unschedulable"] is True


def _versions(play: Play, name: str, namespace: str) -> dict[str, str]:
    """resourceVersion of everything that the responder could have changed."""
    api, batch = "/api/v1", "/apis/batch/v1"
    paths = [
        f"{api}/nodes",
        f"{api}/namespaces/{namespace}/pods",
        f"{batch}/namespaces/gpuheal-privileged/jobs",
        "/apis/coordination.k8s.io/v1/namespaces/medik8s-leases/leases",
        f"{api}/namespaces/gpuheal/configmaps",
        f"{api}/namespaces/{namespace}/events",
    ]
    found = {
        o["metadata"]["uid"]: o["metadata"]["resourceVersion"] for path in paths for o in play.plane.admin.list(path)
    }
    events = play.plane.admin.list(f"{api}/namespaces/default/events")
    mine = [e for e in events if e["involvedObject"]["name"] == name]
    return found | {e["metadata"]["uid"]: e["metadata"]["resourceVersion"] for e in mine}


def _bind(play: Play, user: str, role: str) -> None:
    bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    given = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    who = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    name = f"{user}-{play.node()}"
    body = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name}}
    play.plane.admin.create(bindings, body | {"roleRef": given, "subjects": [who]})
    play.ends.callback(lambda: play.plane.admin.delete(f"{bindings}/{name}"))


def _approve(play: Play, user: str, name: str, step: str, evidence: str) -> str:
    """The real command with the person's own Kubernetes token, through the responder, which asks the API server."""
    token = play.folder / f"token-{user}"
    token.write_text(play.plane.tokens[user], encoding="utf-8")
    argv = [str(GPUHEAL), "approve", name, "--step", step, "--evidence", evidence]
    return run([*argv, "--server", f"http://{play.listen}", "--token-file", str(token)], deadline_s=30)


def _asked(play: Play, name: str, step: str) -> dict[str, Any]:
    """The proposal of a step, once no further alert of the same fault changes what an approval binds to."""
    found = play.wait_blocked(name, "pending", step, "approval-needed")
    while True:
        pause(QUIET_S)
        again = play.wait_blocked(name, "pending", step, "approval-needed")
        if _evidence(again) == _evidence(found):
            return again
        found = again


def _evidence(remediation: dict[str, Any]) -> str:
    """What the approval binds to, as people see it under BLOCKED-BY."""
    found = re.search(r"\b[0-9a-f]{12}\b", str(remediation["status"]["blockedBy"]))
    assert found, remediation["status"]["blockedBy"]
    return found[0]


def _amtool(play: Play, *args: str) -> str:
    amtool = find("amtool", play.script.generation)
    return run(
        amtool.command(f"--alertmanager.url={play.path.alertmanager.url}", *args, folder=play.folder), deadline_s=20
    )


def _kubectl(play: Play, *args: str) -> str:
    kubectl = find("kubectl")
    return run(kubectl.command(f"--kubeconfig={play.plane.kubeconfig()}", *args, folder=play.folder), deadline_s=30)
