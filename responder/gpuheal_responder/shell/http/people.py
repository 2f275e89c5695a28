"""The routes that people use: see cases, approve a step, hold a node. Each request shows a Kubernetes token."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aiohttp import web

from gpuheal_responder.core.alert import named
from gpuheal_responder.core.duration import parse_duration
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.errors import ActionError, ObserveError, Permanent
from gpuheal_responder.ports import Clock, Remediations
from gpuheal_responder.shell.http import approval as desk
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.credentials import bearer, refused
from gpuheal_responder.shell.kube.review import APPROVE, SEE, Denial, Permission, Person
from gpuheal_responder.shell.record import dump_case, dump_verdict
from gpuheal_responder.shell.telemetry import Telemetry

LONGEST_TEXT = 500
MOST_IGNORED = 2000
"""So many nodes are listed in one answer; how many more there are is said."""
BODY_DEADLINE_S = 10.0
Act = Callable[[str, str, Mapping[str, str], str], Awaitable[Mapping[str, Any]]]
_STATUS: Mapping[str, int] = {
    Reason.FORBIDDEN: 403,
    Reason.NOT_FOUND: 404,
    Reason.TOO_SLOW: 408,
    Reason.CLOSED: 409,
    Reason.CONFLICT: 409,
    Reason.INVALID: 422,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseApi:
    """What the routes need of the rest of the application."""

    admission: Admission
    remediations: Remediations
    holds: desk.Holds
    telemetry: Telemetry
    clock: Clock
    leader: Callable[[], str | None] = lambda: None
    """None while this replica leads, else who does as far as is known: only who leads looks for faults."""

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application."""
        app.router.add_get("/v1/cases", self._cases)
        app.router.add_get("/v1/ignored", self._passed_over)
        app.router.add_post("/v1/cases/{name}/approve", self._approve)
        app.router.add_post("/v1/cases/{name}/hold", self._hold)

    async def _cases(self, request: web.Request) -> web.Response:
        try:
            person = await self._person(request, SEE)
            if isinstance(person, Denial):
                return refused(person)
            stored = await self.remediations.list()
        except ObserveError as problem:
            return _problem(503, Reason.UNREADABLE, str(problem))
        listed = []
        for case in sorted((s.case for s in stored), key=lambda case: (case.opened_at, case.name)):
            verdict = self.telemetry.verdict_of(case.name)
            listed.append({**dump_case(case), **({"verdict": dump_verdict(verdict)} if verdict is not None else {})})
        return web.json_response({"cases": listed})

    async def _passed_over(self, request: web.Request) -> web.Response:
        """Return the faults that open no case, as the newest round of the replica that leads saw them."""
        try:
            person = await self._person(request, SEE)
        except ObserveError as problem:
            return _problem(503, Reason.UNREADABLE, str(problem))
        if isinstance(person, Denial):
            return refused(person)
        leader = self.leader()
        if leader is not None:
            return _problem(
                503, Reason.NOT_LEADER, f"{leader or 'another replica'} is the leader; only the leader evaluates faults"
            )
        known = self.telemetry.ignored_faults()
        if known is None:
            return _problem(
                503, Reason.NOT_LOOKED, "this replica has just become the leader and has not completed a round yet"
            )
        found = sorted(known, key=lambda one: one.node)
        listed = [
            {"node": one.node, "faults": named(one.faults), "reason": str(one.reason), "message": one.message}
            for one in found[:MOST_IGNORED]
        ]
        return web.json_response({"ignored": listed, "more": len(found) - len(listed)})

    async def _approve(self, request: web.Request) -> web.Response:
        return await self._act(request, self._do_approve)

    async def _hold(self, request: web.Request) -> web.Response:
        return await self._act(request, self._do_hold)

    async def _act(self, request: web.Request, do: Act) -> web.Response:
        name = request.match_info["name"]
        try:
            person = await self._person(request, APPROVE, name)
            if isinstance(person, Denial):
                if person.status == 403:  # somebody known tried; strangers would only fill the log
                    self.telemetry.audit("refused", {"case": name, "message": person.message})
                return refused(person)
            return web.json_response(await do(name, person.name, await _fields(request), bearer(request)))
        except ActionError as problem:
            return _problem(_STATUS.get(problem.reason, 503), problem.reason, str(problem))
        except ObserveError as problem:
            return _problem(503, Reason.UNREADABLE, str(problem))

    async def _do_approve(self, name: str, by: str, fields: Mapping[str, str], token: str) -> Mapping[str, Any]:
        span = _span(fields["for"]) if "for" in fields else desk.USUAL_APPROVAL
        step, evidence = fields.get("step", ""), fields.get("evidence", "")
        case = await desk.approve(
            self.remediations, self.clock, name=name, step=step, evidence=evidence, by=by, span=span, token=token
        )
        asked = {"step": step, "evidence": evidence}
        self.telemetry.audit("approval", {"case": case.name, "node": case.node, "by": by, **asked})
        return {"case": case.name, "approved": step, "by": by}

    async def _do_hold(self, name: str, by: str, fields: Mapping[str, str], _token: str) -> Mapping[str, Any]:
        case = (await desk.find(self.remediations, name)).case
        reason = fields.get("reason", "")
        await self.holds.put(case.node, f"{by}: {reason}" if reason else by)
        self.telemetry.audit("hold", {"case": case.name, "node": case.node, "by": by, "reason": reason})
        return {"case": case.name, "held": case.node, "by": by}

    async def _person(self, request: web.Request, permission: Permission, name: str = "") -> Person | Denial:
        return await self.admission.admit(request, permission, name)


async def _fields(request: web.Request) -> Mapping[str, str]:
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Permanent(Reason.INVALID, "compressed request bodies are not accepted")
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            body = await request.read()
    except TimeoutError:
        raise Permanent(Reason.TOO_SLOW, f"the request body took longer than {BODY_DEADLINE_S:g}s") from None
    return fields_of(body)


def fields_of(body: bytes) -> Mapping[str, str]:
    """Return what a person asks for: a JSON object of texts, nothing else. Permanent `invalid` for any other body."""
    try:
        raw = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Permanent(Reason.INVALID, "the request body is not JSON") from None
    known = {"step", "evidence", "for", "reason"}
    if not isinstance(raw, dict) or not raw.keys() <= known:
        raise Permanent(
            Reason.INVALID, f"the request body is not a JSON object with the keys {', '.join(sorted(known))}"
        )
    if not all(isinstance(v, str) and len(v) <= LONGEST_TEXT and v.isprintable() for v in raw.values()):
        raise Permanent(Reason.INVALID, f"values must be single-line strings of at most {LONGEST_TEXT} characters")
    return raw


def _span(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except (ValueError, OverflowError) as problem:
        raise Permanent(Reason.INVALID, str(problem)) from None


def _problem(status: int, reason: str, message: str) -> web.Response:
    headers = {"Retry-After": "1"} if status == 503 else {}
    return web.json_response({"reason": reason, "message": message}, status=status, headers=headers)
