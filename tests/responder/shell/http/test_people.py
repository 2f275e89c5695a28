"""The routes that people use: who may, what is stored, and how a wrong request is answered."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from tests.responder.shell.scripted import NOW, StillClock
from tests.responder.shell.standins import Crowd, Holds, Store
from tests.responder.shell.steps import TAINT

from gpuheal_responder.commands import cases, remote
from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Approval, Case, Result
from gpuheal_responder.core.opening import Ignore
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import Due
from gpuheal_responder.core.verdict import Hold, Refusal
from gpuheal_responder.errors import Permanent
from gpuheal_responder.shell.http import approval as desk
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.people import MOST_IGNORED, CaseApi
from gpuheal_responder.shell.kube.review import APPROVE, SEE
from gpuheal_responder.shell.telemetry import Telemetry

CASE = Case(name="n1-1", node="n1", opened_at=NOW, policy="hgx")
EVIDENCE = "0123456789ab"
ADA = {"Authorization": "Bearer ada"}


@dataclass
class World:
    """The routes, and everything behind them."""

    store: Store = field(default_factory=Store)
    people: Crowd = field(default_factory=Crowd)
    holds: Holds = field(default_factory=lambda: Holds({"n1": None}))
    audit: io.StringIO = field(default_factory=io.StringIO)
    leader: str | None = None
    client: TestClient[Any, Any] = field(init=False)
    telemetry: Telemetry = field(init=False)

    async def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Post JSON (bytes go out as they are); return status and decoded answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.client.post(path, data=data, headers=ADA if headers is None else headers)
        text = await answer.text()
        return answer.status, json.loads(text) if text.startswith("{") else text

    def approvals(self) -> tuple[Approval, ...]:
        """Return the stored approvals."""
        return self.store.cases["n1-1"].case.approvals


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Routes with one open case; ada may approve, bob may only look. Nobody waits between tries."""
    monkeypatch.setattr(desk, "PAUSE_S", 0)
    made = World()
    made.telemetry = Telemetry(cluster="prod", clock=StillClock(), audit=made.audit)
    made.store.put(CASE)
    made.people.known = {"ada": ("ada", frozenset({SEE, APPROVE})), "bob": ("bob", frozenset({SEE}))}
    app = web.Application()
    CaseApi(
        admission=Admission(made.people),
        remediations=made.store,
        holds=made.holds,
        telemetry=made.telemetry,
        clock=StillClock(),
        leader=lambda: made.leader,
    ).add_to(app)
    async with TestClient(TestServer(app)) as client:
        made.client = client
        yield made


async def test_an_approval_is_stored_with_name_and_end(world: World) -> None:
    """An approval binds step and evidence, says who gave it and when it ends; an audit line tells."""
    status, answer = await world.post(
        "/v1/cases/n1-1/approve", {"step": "reboot-2", "evidence": EVIDENCE, "for": "30m"}
    )
    assert (status, answer) == (200, {"case": "n1-1", "approved": "reboot-2", "by": "ada"})
    (given,) = world.approvals()
    assert given == Approval(
        step="reboot-2", evidence=EVIDENCE, by="ada", expires_at=NOW + timedelta(minutes=30), given_at=NOW
    )
    line = json.loads(world.audit.getvalue())
    assert (line["event"], line["by"], line["step"], line["evidence"]) == ("approval", "ada", "reboot-2", EVIDENCE)


async def test_a_step_on_one_gpu_can_be_approved(world: World) -> None:
    """Its key names the GPU, as the proposal does."""
    key = "gpu_reset/GPU-1b2c3d4e-0000-1111-2222-333344445555"
    status, _ = await world.post("/v1/cases/n1-1/approve", {"step": key, "evidence": EVIDENCE})
    assert (status, [a.step for a in world.approvals()]) == (200, [key])


async def test_the_node_names_its_open_case(world: World) -> None:
    """People think in nodes: the node's name does for its open case."""
    status, answer = await world.post("/v1/cases/n1/approve", {"step": "drain", "evidence": EVIDENCE})
    assert (status, answer["case"]) == (200, "n1-1")


async def test_an_approval_survives_a_race_with_the_engine(world: World) -> None:
    """When the engine writes in between, the case is read again and the approval added to what is there now."""
    world.store.races = 2
    status, _ = await world.post("/v1/cases/n1-1/approve", {"step": "drain", "evidence": EVIDENCE})
    assert status == 200
    assert len(world.approvals()) == 1


async def test_an_endless_race_is_told(world: World) -> None:
    """Tries are bounded; the person is told to try again."""
    world.store.races = 100
    status, answer = await world.post("/v1/cases/n1-1/approve", {"step": "drain", "evidence": EVIDENCE})
    assert (status, answer["reason"]) == (409, "conflict")


async def test_approving_again_replaces_and_forgets_the_expired(world: World) -> None:
    """A case never gathers approvals: one per person and step, expired ones go."""
    old = Approval(step="drain", evidence=EVIDENCE, by="eve", expires_at=NOW)
    other = Approval(step="drain", evidence=EVIDENCE, by="bob", expires_at=NOW + timedelta(hours=1))
    mine = replace(other, by="ada", evidence="ffffffffffff")
    world.store.put(replace(CASE, approvals=(old, other, mine)))
    await world.post("/v1/cases/n1-1/approve", {"step": "drain", "evidence": EVIDENCE})
    assert [(a.by, a.evidence) for a in world.approvals()] == [("bob", EVIDENCE), ("ada", EVIDENCE)]


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/v1/cases/n9-1/approve", {"step": "drain", "evidence": EVIDENCE}, 404, "not-found"),
        ("/v1/cases/n1-1/approve", {"step": "drain"}, 422, "invalid"),
        ("/v1/cases/n1-1/approve", {"step": "Drain; rm", "evidence": EVIDENCE}, 422, "invalid"),
        ("/v1/cases/n1-1/approve", {"step": "drain", "evidence": "everything"}, 422, "invalid"),
        ("/v1/cases/n1-1/approve", {"step": "drain", "evidence": EVIDENCE, "for": "25h"}, 422, "invalid"),
        ("/v1/cases/n1-1/approve", {"step": "drain", "evidence": EVIDENCE, "for": "0s"}, 422, "invalid"),
        ("/v1/cases/n1-1/approve", {"step": "drain", "evidence": EVIDENCE, "for": "9" * 400 + "d"}, 422, "invalid"),
        ("/v1/cases/n1-1/approve", {"steps": "drain"}, 422, "invalid"),
        ("/v1/cases/n1-1/approve", {"step": 1}, 422, "invalid"),
        ("/v1/cases/n1-1/approve", b"[", 422, "invalid"),
        ("/v1/cases/n1-1/approve", b"[" * 5000, 422, "invalid"),
        ("/v1/cases/n1-1/hold", {"reason": "two\nlines"}, 422, "invalid"),
        ("/v1/cases/n9/hold", {}, 404, "not-found"),
    ],
)
async def test_a_wrong_request_changes_nothing(world: World, path: str, body: object, status: int, reason: str) -> None:
    """Every wrong request is answered with a reason slug and leaves the case as it was."""
    found, answer = await world.post(path, body)
    assert (found, answer["reason"]) == (status, reason)
    assert world.store.cases["n1-1"].case == CASE
    assert world.holds.nodes == {"n1": None}


async def test_a_closed_case_cannot_be_approved(world: World) -> None:
    """What is over can't be approved any more."""
    world.store.put(replace(CASE, closed_at=NOW, result=Result.RESTORED))
    status, answer = await world.post("/v1/cases/n1-1/approve", {"step": "drain", "evidence": EVIDENCE})
    assert (status, answer["reason"]) == (409, "closed")


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"Authorization": "Bearer bob"}, 403)])
@pytest.mark.parametrize("verb", ["approve", "hold"])
async def test_s04_only_who_may_approve_can_act(world: World, verb: str, headers: dict[str, str], status: int) -> None:
    """Without a Kubernetes token, or without the right to create remediations/approve, nothing happens."""
    found, _ = await world.post(f"/v1/cases/n1-1/{verb}", {"step": "drain", "evidence": EVIDENCE}, headers)
    assert found == status
    assert world.approvals() == ()
    assert ('"event":"refused"' in world.audit.getvalue()) is (status == 403)
    assert world.holds.nodes == {"n1": None}


async def test_s04_nobody_gets_in_when_nobody_can_be_asked(world: World) -> None:
    """If the API server can't say who it is, the answer is 503, not yes."""
    world.people.broken = True
    found, _ = await world.post("/v1/cases/n1-1/approve", {"step": "drain", "evidence": EVIDENCE})
    assert found == 503
    assert (await world.client.get("/v1/cases", headers=ADA)).status == 503


async def test_holding_a_case_marks_its_node(world: World) -> None:
    """The node's annotation says who holds it and why."""
    status, answer = await world.post("/v1/cases/n1-1/hold", {"reason": "debugging NVLink"})
    assert (status, answer) == (200, {"case": "n1-1", "held": "n1", "by": "ada"})
    assert world.holds.nodes == {"n1": "ada: debugging NVLink"}
    assert json.loads(world.audit.getvalue())["event"] == "hold"


async def test_cases_are_listed_with_what_blocks_them(world: World) -> None:
    """Who may list Remediations sees each case with the last verdict; others are refused."""
    refusal = Refusal(guard="signal", reason="alert-silenced", message="silenced by ada", blockers=("ada",))
    world.telemetry.standing([(CASE, Hold(due=Due(step=TAINT), refusals=(refusal,)))], [])
    answer = await world.client.get("/v1/cases", headers={"Authorization": "Bearer bob"})
    (listed,) = (await answer.json())["cases"]
    assert (listed["name"], listed["node"], listed["openedAt"]) == ("n1-1", "n1", "2026-03-01T12:00:00Z")
    assert listed["verdict"]["refusals"][0]["blockers"] == ["ada"]
    assert (await world.client.get("/v1/cases")).status == 401


IGNORED = Ignore(
    node="n2",
    reason=Reason.TAKEN_BACK,
    message="a person took the node back",
    faults=(
        Fault(slug="gpu-thermal", target=Target(node="n2", gpu_uuid="GPU-7d1e"), severity=Severity.CRITICAL, since=NOW),
    ),
)


async def test_ignored_faults_are_listed_for_those_who_may_see_cases(world: World) -> None:
    """Node, faults, reason and message of each; a stranger sees nothing."""
    world.telemetry.passed_over([IGNORED], [])
    answer = await world.client.get("/v1/ignored", headers={"Authorization": "Bearer bob"})
    assert await answer.json() == {
        "ignored": [
            {
                "node": "n2",
                "faults": ["gpu-thermal on GPU-7d1e"],
                "reason": "taken-back",
                "message": "a person took the node back",
            }
        ],
        "more": 0,
    }
    assert (await world.client.get("/v1/ignored")).status == 401


async def test_a_long_list_of_ignored_faults_is_cut_and_says_so(world: World) -> None:
    """One answer has an end, and no fault goes uncounted."""
    world.telemetry.passed_over([replace(IGNORED, node=f"n{i}") for i in range(MOST_IGNORED + 3)], [])
    answer = await (await world.client.get("/v1/ignored", headers=ADA)).json()
    assert (len(answer["ignored"]), answer["more"]) == (MOST_IGNORED, 3)


@pytest.mark.parametrize(("leader", "named"), [("gpuheal-1-7", "gpuheal-1-7"), ("", "another replica")])
async def test_who_does_not_lead_names_who_does(world: World, leader: str, named: str) -> None:
    """Only the replica that leads looks; another one must not call an empty list the truth."""
    world.leader = leader
    answer = await world.client.get("/v1/ignored", headers=ADA)
    assert answer.status == 503
    said = await answer.json()
    assert said["reason"] == "not-leader"
    assert said["message"].startswith(f"{named} is the leader")


async def test_the_command_lists_ignored_faults(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`gpuheal cases --ignored` asks a running responder and prints a row per node."""
    world.telemetry.passed_over([IGNORED], [])
    token = tmp_path / "token"
    token.write_text("bob")
    args = ["--ignored", "--server", str(world.client.make_url("")), "--token-file", str(token)]
    assert await asyncio.to_thread(cases.main, args) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NODE  FAULTS                   REASON      MESSAGE",
        "n2    gpu-thermal on GPU-7d1e  taken-back  a person took the node back",
    ]
    assert await asyncio.to_thread(cases.main, [*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "taken-back"
    world.telemetry.passed_over([], [])
    assert await asyncio.to_thread(cases.main, args) == 0
    assert capsys.readouterr().out == "no faults are ignored\n"


async def test_before_the_first_look_nothing_is_called_the_truth(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A replica that has just begun to lead says that it has not looked; the command waits for the first look."""
    answer = await world.client.get("/v1/ignored", headers=ADA)
    assert answer.status == 503
    assert (await answer.json())["reason"] == "not-looked"
    token = tmp_path / "token"
    token.write_text("bob")
    args = ["--ignored", "--server", str(world.client.make_url("")), "--token-file", str(token)]
    asked = asyncio.create_task(asyncio.to_thread(cases.main, args))
    deadline = time.monotonic() + 30
    while world.people.asked < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    world.telemetry.passed_over([IGNORED], [])
    assert await asyncio.wait_for(asked, 30) == 0
    assert "taken-back" in capsys.readouterr().out


async def test_the_command_says_when_nobody_has_looked_in_time(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that does not come is no answer: not the words that nothing is ignored."""
    monkeypatch.setattr(remote, "DEADLINE_S", 0.0)
    token = tmp_path / "token"
    token.write_text("bob")
    args = ["--ignored", "--server", str(world.client.make_url("")), "--token-file", str(token)]
    with pytest.raises(Permanent, match=r"answered 503: .* has not completed a round yet"):
        await asyncio.to_thread(cases.main, args)


async def test_the_command_says_at_once_that_another_replica_leads(world: World, tmp_path: Path) -> None:
    """It does not ask the same replica again and again."""
    world.leader = "gpuheal-1-7"
    token = tmp_path / "token"
    token.write_text("bob")
    args = ["--ignored", "--server", str(world.client.make_url("")), "--token-file", str(token)]
    with pytest.raises(Permanent, match="gpuheal-1-7 is the leader"):
        await asyncio.to_thread(cases.main, args)
