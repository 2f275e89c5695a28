"""Who a token's owner is and what they may: what is asked of the API server, and how its answers are read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from tests.responder.shell.scripted import NOW, StillClock

from gpuheal_responder.errors import ObserveError
from gpuheal_responder.shell.kube.review import (
    APPROVE,
    MOST_REMEMBERED,
    MOST_UNDER_WAY,
    SCRAPE,
    Denial,
    KubePeople,
    Person,
)

TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
KNOWN = {"authenticated": True, "user": {"username": "ada", "groups": ["sre"], "uid": "7", "extra": {"k": ["v"]}}}


@dataclass
class ApiServer:
    """The protocol Reviewer: a status by path; what was asked is kept."""

    statuses: dict[str, Any]
    asked: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    async def review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a review."""
        self.asked.append((path, body))
        return {**body, "status": self.statuses[path]}


def people(tokens: Any = KNOWN, access: Any = None) -> tuple[KubePeople, ApiServer, StillClock]:
    """People judged by an API server that answers so."""
    server, clock = ApiServer({TOKENS: tokens, ACCESS: access or {"allowed": True}}), StillClock()
    return KubePeople(reviewer=server, clock=clock), server, clock


async def test_the_right_is_asked_for_the_tokens_owner() -> None:
    """The SubjectAccessReview names the owner with groups, uid and extra, and exactly the right that is needed."""
    asked_people, server, _ = people()
    assert await asked_people.admit("secret", APPROVE, "n1-1") == Person(name="ada")
    (path, tokens), (other, access) = server.asked
    assert (path, tokens["spec"]) == (TOKENS, {"token": "secret"})
    assert other == ACCESS
    assert access["spec"] == {
        "user": "ada",
        "groups": ["sre"],
        "uid": "7",
        "extra": {"k": ["v"]},
        "resourceAttributes": {
            "verb": "create",
            "group": "gpu.health",
            "resource": "remediations",
            "subresource": "approve",
            "name": "n1-1",
        },
    }


async def test_a_path_is_asked_for_as_a_path() -> None:
    """Scraping is a right on the URL /metrics, as Prometheus' usual ClusterRole has it."""
    asked_people, server, _ = people()
    await asked_people.admit("secret", SCRAPE)
    assert server.asked[1][1]["spec"]["nonResourceAttributes"] == {"verb": "get", "path": "/metrics"}


@pytest.mark.parametrize(
    ("tokens", "access", "status"),
    [
        ({"authenticated": False}, None, 401),
        ({"authenticated": "true", "user": {"username": "x"}}, None, 401),
        ({"authenticated": True, "user": {"username": ""}}, None, 401),
        ({"authenticated": True}, None, 401),
        (KNOWN, {"allowed": False}, 403),
        (KNOWN, {"allowed": True, "denied": True}, 403),
        (KNOWN, {"allowed": "true"}, 403),
    ],
)
async def test_only_a_clear_yes_lets_in(tokens: Any, access: Any, status: int) -> None:
    """Anything but `authenticated: true` with a user, and `allowed: true` without `denied`, is a no."""
    asked_people, _, _ = people(tokens, access)
    found = await asked_people.admit("secret", APPROVE)
    assert isinstance(found, Denial)
    assert found.status == status
    assert "secret" not in found.message


@pytest.mark.parametrize("token", ["", "x" * 20_000])
async def test_what_is_no_token_is_not_even_asked(token: str) -> None:
    """An empty or absurdly long token costs the API server nothing."""
    asked_people, server, _ = people()
    assert isinstance(await asked_people.admit(token, APPROVE), Denial)
    assert server.asked == []


async def test_answers_are_remembered_for_ten_seconds() -> None:
    """Asking again within ten seconds costs nothing; after that a withdrawn right counts."""
    asked_people, server, clock = people()
    for _ in range(5):
        await asked_people.admit("secret", APPROVE)
    assert len(server.asked) == 2
    server.statuses[ACCESS] = {"allowed": False}
    clock.at = NOW + timedelta(seconds=10)
    assert isinstance(await asked_people.admit("secret", APPROVE), Denial)


async def test_an_answer_is_remembered_for_its_own_question_only() -> None:
    """A yes to one right, name or token says nothing about another."""
    asked_people, server, _ = people()
    for token, permission, name in (("a", APPROVE, ""), ("b", APPROVE, ""), ("a", SCRAPE, ""), ("a", APPROVE, "n1")):
        await asked_people.admit(token, permission, name)
    assert len(server.asked) == 8


async def test_memory_is_bounded() -> None:
    """A flood of wrong tokens does not grow without end."""
    asked_people, _, _ = people({"authenticated": False})
    for index in range(MOST_REMEMBERED + 10):
        await asked_people.admit(f"t{index}", APPROVE)
    assert len(asked_people._answers) == MOST_REMEMBERED


async def test_a_review_without_a_status_is_no_answer() -> None:
    """If the API server's answer makes no sense, nobody can tell."""
    asked_people, _, _ = people(tokens=["?"])
    with pytest.raises(ObserveError, match="TokenReview was returned without a status"):
        await asked_people.admit("secret", APPROVE)


async def test_a_flood_of_tokens_is_not_passed_on() -> None:
    """Only so many reviews are under way at once; beyond that nobody can tell, and the API server is spared."""
    never = asyncio.Event()

    class Stuck(ApiServer):
        async def review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
            self.asked.append((path, body))
            await never.wait()
            return {"status": {"authenticated": False}}

    server = Stuck({})
    asked_people = KubePeople(reviewer=server, clock=StillClock())
    waiting = [asyncio.ensure_future(asked_people.admit(f"t{i}", APPROVE)) for i in range(MOST_UNDER_WAY)]
    await asyncio.sleep(0)
    with pytest.raises(ObserveError, match="too many token reviews"):
        await asked_people.admit("one more", APPROVE)
    assert len(server.asked) == MOST_UNDER_WAY
    never.set()
    await asyncio.gather(*waiting)
    assert isinstance(await asked_people.admit("one more", APPROVE), Denial)
