"""People act with their own Kubernetes token: the API server says who it is, and whether they may."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from gpuheal_responder.errors import ObserveError
from gpuheal_responder.ports import Clock
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube.api import Api, reading

REMEMBERED = timedelta(seconds=10)
MOST_REMEMBERED = 1024
LONGEST_TOKEN = 16 * 1024
RIGHTS = (
    Right(
        group="authentication.k8s.io",
        resources=("tokenreviews",),
        verbs=("create",),
        why="People act with their own Kubernetes token: it is reviewed, never kept.",
    ),
    Right(
        group="authorization.k8s.io",
        resources=("subjectaccessreviews",),
        verbs=("create",),
        why="Whether they may.",
    ),
)
MOST_UNDER_WAY = 16
"""Reviews asked for at once: strangers' tokens must not make us a burden on the API server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What is asked for, in RBAC's words: a verb on a resource, or on a URL path."""

    verb: str
    resource: str = ""
    subresource: str = ""
    group: str = "gpu.health"
    path: str = ""

    def attributes(self, name: str = "") -> Mapping[str, Any]:
        """Return the fields of a SubjectAccessReview that ask for it."""
        if self.path:
            return {"nonResourceAttributes": {"verb": self.verb, "path": self.path}}
        found = {"verb": self.verb, "group": self.group, "resource": self.resource}
        more = {"subresource": self.subresource, "name": name}
        return {"resourceAttributes": {**found, **{key: value for key, value in more.items() if value}}}


SEE = Permission(verb="list", resource="remediations")
APPROVE = Permission(verb="create", resource="remediations", subresource="approve")
SCRAPE = Permission(verb="get", path="/metrics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody the API server knows, and who may."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why not: HTTP 401 for an unknown token, 403 for one without the right."""

    status: int
    message: str


class People(Protocol):
    """Who may do what."""

    async def admit(self, token: str, permission: Permission, name: str = "") -> Person | Denial:
        """Return who the token's owner is if they may, else why not; ObserveError if nobody can tell."""
        ...


class Reviewer(Protocol):
    """The API server's reviews: a POST of an object gives the object with its status."""

    async def review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the reviewed object; ObserveError if the API server does not answer."""
        ...


class KubeReviewer:
    """The protocol Reviewer on a real API server."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the reviewed object; ObserveError if the API server does not answer."""
        with reading(str(body["kind"])):
            answer: Mapping[str, Any] = await self._api.call("POST", path, body=body)
            return answer


@dataclass(slots=True, kw_only=True)
class KubePeople:
    """The protocol People by TokenReview and SubjectAccessReview.

    Answers are remembered for ten seconds under a hash of the token, so a script can't use us to flood the API server.
    """

    reviewer: Reviewer
    clock: Clock
    _answers: OrderedDict[tuple[bytes, Permission, str], tuple[datetime, Person | Denial]] = field(
        default_factory=OrderedDict
    )
    _under_way: int = 0

    async def admit(self, token: str, permission: Permission, name: str = "") -> Person | Denial:
        """Return who the token's owner is if they may, else why not."""
        if not token or len(token) > LONGEST_TOKEN:
            return Denial(status=401, message="a Kubernetes bearer token is required")
        key = (hashlib.sha256(token.encode(errors="surrogateescape")).digest(), permission, name)
        known = self._answers.get(key)
        if known is not None and known[0] > self.clock.now():
            return known[1]
        if self._under_way >= MOST_UNDER_WAY:
            raise ObserveError("kubernetes", "too many token reviews in progress; try again")
        self._under_way += 1
        try:
            answer = await self._ask(token, permission, name)
        finally:
            self._under_way -= 1
        self._answers[key] = (self.clock.now() + REMEMBERED, answer)
        self._answers.move_to_end(key)
        while len(self._answers) > MOST_REMEMBERED:
            self._answers.popitem(last=False)
        return answer

    async def _ask(self, token: str, permission: Permission, name: str) -> Person | Denial:
        user = await self._user(token)
        if user is None:
            return Denial(status=401, message="the API server does not accept this token")
        spec = {
            "user": user["username"],
            "groups": user.get("groups") or [],
            "uid": user.get("uid", ""),
            "extra": user.get("extra") or {},
            **permission.attributes(name),
        }
        status = await self._status("authorization.k8s.io/v1", "SubjectAccessReview", spec)
        if status.get("allowed") is True and status.get("denied") is not True:
            return Person(name=str(user["username"]))
        what = permission.path or "/".join(filter(None, (permission.resource, permission.subresource)))
        return Denial(status=403, message=f"{user['username']} is not allowed to {permission.verb} {what}")

    async def _user(self, token: str) -> Mapping[str, Any] | None:
        status = await self._status("authentication.k8s.io/v1", "TokenReview", {"token": token})
        user = status.get("user")
        if status.get("authenticated") is not True or not isinstance(user, dict) or not user.get("username"):
            return None
        return user

    async def _status(self, version: str, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        body = {"apiVersion": version, "kind": kind, "spec": spec}
        answer = await self.reviewer.review(f"/apis/{version}/{kind.lower()}s", body)
        status = answer.get("status") if isinstance(answer, dict) else None
        if not isinstance(status, dict):
            raise ObserveError("kubernetes", f"{kind} was returned without a status")
        return status
