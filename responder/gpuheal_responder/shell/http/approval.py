"""What people do to cases: approve a step, hold a node, let go. Used by the web layer and by the command line alike."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Protocol
from urllib.parse import quote

from gpuheal_responder.core.case import LONGEST_APPROVAL, Approval, Case
from gpuheal_responder.core.duration import people_duration
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.undo import HOLD_ANNOTATION
from gpuheal_responder.errors import Permanent, Transient
from gpuheal_responder.ports import Clock, Remediations, Stored
from gpuheal_responder.shell.kube.api import MERGE_PATCH, METADATA_ONLY, Api, changing

USUAL_APPROVAL = timedelta(hours=1)
MOST_APPROVALS = 16
TRIES = 5
PAUSE_S = 0.1
_STEP = re.compile(r"[a-z][a-z0-9_-]{0,62}(/[A-Za-z0-9-]{1,128})?")
_EVIDENCE = re.compile(r"[0-9a-f]{12}")


class Holds(Protocol):
    """Where a node is held: its annotation `gpu.health/hold`."""

    async def put(self, node: str, text: str | None) -> None:
        """Hold the node with this text, or let it go with None; Permanent `not-found` if there is no such node."""
        ...


class KubeHolds:
    """The protocol Holds on a real API server."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def put(self, node: str, text: str | None) -> None:
        """Hold the node with this text, or let it go with None."""
        body = {"metadata": {"annotations": {HOLD_ANNOTATION: text}}}
        with changing(f"hold of node {node}"):
            await self._api.call(
                "PATCH", f"/api/v1/nodes/{quote(node)}", body=body, content_type=MERGE_PATCH, accept=METADATA_ONLY
            )


async def find(remediations: Remediations, name: str) -> Stored:
    """Return the open case of this name, or of the node of this name; Permanent `not-found` or `closed` otherwise."""
    stored = await remediations.list()
    found = next((s for s in stored if s.case.name == name), None)
    if found is None:
        found = next((s for s in stored if s.case.node == name and s.case.closed_at is None), None)
    if found is None:
        raise Permanent(Reason.NOT_FOUND, f"no case named {name!r}, and no open case on a node with that name")
    if found.case.closed_at is not None:
        raise Permanent(Reason.CLOSED, f"case {found.case.name} is closed")
    return found


async def approve(
    remediations: Remediations,
    clock: Clock,
    *,
    name: str,
    step: str,
    evidence: str,
    by: str,
    span: timedelta,
    token: str = "",
) -> Case:
    """Store a person's approval of one step on one evidence for `span`, as the owner of `token` if given.

    Return the case. Permanent for a wrong request or a closed case. An earlier approval of the same step by the same
    person is replaced.
    """
    if not _STEP.fullmatch(step) or not _EVIDENCE.fullmatch(evidence):
        raise Permanent(Reason.INVALID, "an approval needs a step and the 12 hexadecimal digits of its evidence")
    if not timedelta(0) < span <= LONGEST_APPROVAL:
        raise Permanent(Reason.INVALID, f"an approval is valid for at most {people_duration(LONGEST_APPROVAL)}")
    for attempt in range(TRIES):
        stored = await find(remediations, name)
        now = clock.now()
        given = Approval(step=step, evidence=evidence, by=by, expires_at=now + span, given_at=now)
        kept = [a for a in stored.case.approvals if a.expires_at > now and (a.step, a.by) != (step, by)]
        if len(kept) >= MOST_APPROVALS:
            raise Permanent(Reason.INVALID, f"case {name} already has {MOST_APPROVALS} approvals (the limit)")
        try:
            return (await remediations.approve(stored, (*kept, given), token)).case
        except Transient as problem:
            if problem.reason != Reason.CONFLICT or attempt == TRIES - 1:
                raise
            await asyncio.sleep(
                PAUSE_S * (attempt + 1)
            )  # the engine wrote in between; its write has to reach our cache
    raise AssertionError("the last try returns or raises")
