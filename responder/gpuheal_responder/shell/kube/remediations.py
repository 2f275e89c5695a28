"""The port Remediations: cases as objects of remediations.gpu.health, one write per transition.

`spec` says what the case is about and holds people's approvals; `status` what we did, what people see in columns, and
the last decisions with all that they looked at (by time, so that a merge PATCH can add one and drop the oldest). Writes
name the version they are based on; somebody else's write in between is Transient `conflict`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from gpuheal_responder.core.case import Case
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.ports import Stored
from gpuheal_responder.shell.kube.api import MERGE_PATCH, METADATA_ONLY, Api, ApiError, changing, reading
from gpuheal_responder.shell.kube.mirror import Mirror, WatchSettings
from gpuheal_responder.shell.record import camel, dump_case, load_case

GROUP, VERSION, PLURAL, KIND = "gpu.health", "v1alpha1", "remediations", "Remediation"
PATH = f"/apis/{GROUP}/{VERSION}/{PLURAL}"
IN_SPEC = ("node", "nodeUID", "systemUUID", "policy", "openedAt", "approvals")
STATUS_KEYS = tuple(k for f in fields(Case) if (k := camel(f.name)) not in ("name", *IN_SPEC))
SHOWN = ("target", "fault", "state", "step", "next", "blockedBy", "since")
DECISIONS = 10
MAX_DECISION_BYTES = 64 * 1024
"""Ten of these stay far below etcd's limit of 1.5 MiB per object."""
MAX_TEXT = 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A Remediation in the cache: the case, and what the next write has to know of the rest."""

    stored: Stored
    decisions: tuple[str, ...]
    shown: Mapping[str, str]


class KubeRemediations:
    """Follows all Remediations from `start` to `stop`; `list` raises ObserveError until the first list is complete."""

    def __init__(
        self, api: Api, settings: WatchSettings | None = None, changed: Callable[[str], None] = lambda _: None
    ) -> None:
        self._api = api
        self.mirror: Mirror[Kept] = Mirror(api, PATH, self._read, settings=settings, changed=changed)
        self.unreadable: dict[str, str] = {}
        """Objects that are no cases of ours, and why; they are left alone."""

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to follow; return the task that does."""
        return self.mirror.start()

    async def stop(self) -> None:
        """End following; repeatable."""
        await self.mirror.stop()

    async def list(self) -> Sequence[Stored]:
        """Return all cases as last heard of, our own writes included; ObserveError when that is too long ago."""
        return [kept.stored for kept in self.mirror.items().values()]

    async def create(self, case: Case, decision: Mapping[str, object]) -> Stored:
        """Store a new case with its first decision; Transient `conflict` if the name exists."""
        shown = show(case, decision, {})
        at, entry = _entry(decision, ())
        spec, status = _split(case)
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "metadata": {"name": case.name, "labels": {f"{GROUP}/node": case.node[:63].rstrip("-_.")}},
            "spec": spec,
            "status": {**status, **shown, "decisions": {at: entry}},
        }
        with changing(f"remediation {case.name}"):
            meta = await self._api.call("POST", PATH, body=body, accept=METADATA_ONLY)
        return self._put(case, meta, (at,), shown)

    async def save(self, stored: Stored, decision: Mapping[str, object] | None) -> Stored:
        """Replace the case if its version is still that one, and add the decision; Transient `conflict` otherwise."""
        case = stored.case
        with changing(f"remediation {case.name}"):
            kept = self.mirror.peek(case.name) or self._read(await self._api.get(f"{PATH}/{quote(case.name)}"), None)
        decisions = kept.decisions if kept is not None else ()
        shown = show(case, decision, kept.shown if kept is not None else {})
        spec, status = _split(case)
        changes: dict[str, Any] = {**dict.fromkeys((*STATUS_KEYS, *SHOWN)), **status, **shown}
        if decision is not None:
            at, entry = _entry(decision, decisions)
            decisions = (*decisions, at)
            changes["decisions"] = {**dict.fromkeys(decisions[:-DECISIONS]), at: entry}
            decisions = decisions[-DECISIONS:]
        body = {
            "metadata": {"resourceVersion": stored.version},
            "spec": {**dict.fromkeys(IN_SPEC), **spec},
            "status": changes,
        }
        with changing(f"remediation {case.name}"):
            meta = await self._api.call(
                "PATCH", f"{PATH}/{quote(case.name)}", body=body, content_type=MERGE_PATCH, accept=METADATA_ONLY
            )
        return self._put(case, meta, decisions, shown)

    async def delete(self, name: str) -> None:
        """Remove the Remediation; no error if it is gone."""
        with changing(f"remediation {name}"):
            try:
                await self._api.call("DELETE", f"{PATH}/{quote(name)}", accept=METADATA_ONLY)
            except ApiError as problem:
                if problem.status != 404:
                    raise
        self.mirror.drop(name)

    async def decisions(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return the stored decision records of a case, oldest first; ObserveError if they cannot be read."""
        with reading(f"remediation {name}"):
            raw = await self._api.get(f"{PATH}/{quote(name)}")
        return [record for _, record in sorted((raw.get("status", {}).get("decisions") or {}).items())]

    def _put(self, case: Case, meta: Mapping[str, Any], decisions: tuple[str, ...], shown: Mapping[str, str]) -> Stored:
        stored = Stored(case=case, version=meta["metadata"]["resourceVersion"])
        self.mirror.put(case.name, stored.version, Kept(stored=stored, decisions=decisions, shown=shown))
        return stored

    def _read(self, raw: Mapping[str, Any], _known: Kept | None) -> Kept | None:
        name, status = raw["metadata"]["name"], raw.get("status") or {}
        try:
            case = load_case(_joined(raw), f"remediation {name}")
        except ConfigError as problem:
            if self.unreadable.get(name) != str(problem):
                log.warning("left alone: %s", problem)
                self.unreadable[name] = str(problem)
            return None
        self.unreadable.pop(name, None)
        shown = {key: str(status[key]) for key in SHOWN if status.get(key)}
        decisions = tuple(sorted(status.get("decisions") or {}))
        return Kept(
            stored=Stored(case=case, version=raw["metadata"]["resourceVersion"]), decisions=decisions, shown=shown
        )


def show(case: Case, decision: Mapping[str, Any] | None, before: Mapping[str, str]) -> dict[str, str]:
    """Return what `kubectl get remediations` shows; `since` is when anything of it last changed."""
    verdict: Mapping[str, Any] = decision["verdict"] if decision is not None else {}
    found = {
        "target": _target(case),
        "fault": ",".join(dict.fromkeys(f.slug for f in case.faults)),
        "state": _state(case, verdict) or before.get("state", "open"),
    }
    if decision is None and case.closed_at is None:
        found |= {key: before[key] for key in ("step", "next", "blockedBy") if key in before}
    elif case.closed_at is None:
        found |= {"step": str(verdict.get("step", "")), "next": _next(verdict), "blockedBy": _blockers(verdict)}
    found = {key: value[:MAX_TEXT] for key, value in found.items() if value}
    same = found == {key: value for key, value in before.items() if key != "since"}
    at = str(decision["at"]) if decision is not None else before.get("since", "")
    since = before.get("since", at) if same else at
    return {**found, "since": since} if since else found


def _target(case: Case) -> str:
    gpus = sorted({f.target.gpu_uuid for f in case.faults if f.target.gpu_uuid})
    return f"{case.node}/{','.join(gpus)}" if gpus else case.node


def _state(case: Case, verdict: Mapping[str, Any]) -> str:
    if case.closed_at is not None:
        return case.result.value if case.result is not None else "closed"
    words = {"act": "acting", "wait": "waiting", "hold": "held", "escalate": "escalated", "done": "closing"}
    return words.get(str(verdict.get("verdict", "")), "escalated" if case.escalated else "")


def _next(verdict: Mapping[str, Any]) -> str:
    match verdict.get("verdict"):
        case "wait":
            return f"{verdict['reason']} until {verdict['until']}"
        case "escalate":
            return f"people: {verdict['reason']}"
        case None:
            return ""
        case _:
            return str(verdict["reason"])


def _blockers(verdict: Mapping[str, Any]) -> str:
    refusals: Sequence[Mapping[str, Any]] = verdict.get("refusals") or ()
    return "; ".join(
        dict.fromkeys(f"{r['reason']}: {', '.join(r.get('blockers') or [r['message']])}" for r in refusals)
    )


def _split(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    data = dump_case(case)
    del data["name"]
    return {k: v for k, v in data.items() if k in IN_SPEC}, {k: v for k, v in data.items() if k not in IN_SPEC}


def _joined(raw: Mapping[str, Any]) -> dict[str, Any]:
    status = raw.get("status") or {}
    kept = {key: status[key] for key in STATUS_KEYS if key in status}
    return {**(raw.get("spec") or {}), **kept, "name": raw["metadata"]["name"]}


def _entry(decision: Mapping[str, Any], known: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """Return the decision under a key that sorts after all known; one too large to keep loses what it looked at."""
    at = datetime.fromisoformat(str(decision["at"]))
    key = _key(at)
    if known and key <= known[-1]:
        key = _key(datetime.fromisoformat(known[-1]) + timedelta(microseconds=1))
    if len(json.dumps(decision)) <= MAX_DECISION_BYTES:
        return key, decision
    kept = {name: value for name, value in decision.items() if name not in ("world", "case")}
    return key, {**kept, "omitted": f"case and world: larger than {MAX_DECISION_BYTES} bytes"}


def _key(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
