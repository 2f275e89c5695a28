"""The port Remediations: cases as objects of remediations.gpu.health, one write per transition.

`spec` says what the case is about, as it was when the case was opened, and holds people's approvals. `status`, a
subresource, is ours alone: the policy in force, what we did, what people see in columns, and the last decisions with
all that they looked at (by time, so that a merge PATCH can add one and drop the oldest). So whoever may approve cannot
forge what we did, and we cannot approve. A new case is its spec first, then its status: whoever dies in between leaves
a case that was just opened. Writes name the version they are based on; somebody else's write in between is Transient
`conflict`. What another version of us wrote is read as far as possible and written back whole (see shell.lenient).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from gpuheal_responder.core.case import Approval, Case
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.errors import ConfigError, Permanent
from gpuheal_responder.ports import Stored, Unreadable
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube.api import MERGE_PATCH, METADATA_ONLY, Api, ApiError, changing, reading
from gpuheal_responder.shell.kube.bounds import fit
from gpuheal_responder.shell.kube.columns import SHOWN, show
from gpuheal_responder.shell.kube.mirror import Mirror, WatchSettings
from gpuheal_responder.shell.lenient import Read, merged, read
from gpuheal_responder.shell.record import camel, dump_case, load_case, packed, upgraded

GROUP, VERSION, PLURAL, KIND = "gpu.health", "v1alpha1", "remediations", "Remediation"
PATH = f"/apis/{GROUP}/{VERSION}/{PLURAL}"
OPENING = ("node", "nodeUID", "systemUUID", "policy", "openedAt")
"""What the case was opened on: written once, with the object. The policy in force stands in the status."""
IN_SPEC = (*OPENING, "approvals")
NOT_IN_STATUS = ("name", *(key for key in IN_SPEC if key != "policy"))
STATUS_KEYS = tuple(k for f in fields(Case) if (k := camel(f.name)) not in NOT_IN_STATUS)
NODE_LABEL = f"{GROUP}/node"
DECISIONS = 10
MAX_DECISION_BYTES = 64 * 1024
"""Ten of these stay far below etcd's limit of 1.5 MiB per object."""

RIGHTS = (
    Right(
        group=GROUP,
        resources=(PLURAL,),
        verbs=("get", "list", "watch", "create", "delete"),
        why="Cases are opened and, long after their end, forgotten; approvals in them are people's.",
    ),
    Right(group=GROUP, resources=(f"{PLURAL}/status",), verbs=("patch",), why="What we know and do."),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A Remediation in the cache: the case, and what the next write has to know of the rest.

    `raw` is the object's own data, kept when it holds more than this version can read.
    """

    stored: Stored
    decisions: tuple[str, ...] = ()
    shown: Mapping[str, str]
    raw: Mapping[str, Any] | None = None


class KubeRemediations:
    """Follows all Remediations from `start` to `stop`; `list` raises ObserveError until the first list is complete."""

    def __init__(
        self, api: Api, settings: WatchSettings | None = None, changed: Callable[[str], None] = lambda _: None
    ) -> None:
        self._api = api
        self.mirror: Mirror[Kept | Unreadable] = Mirror(api, PATH, self._read, settings=settings, changed=changed)

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to follow; return the task that does."""
        return self.mirror.start()

    async def stop(self) -> None:
        """End following; repeatable."""
        await self.mirror.stop()

    async def list(self) -> Sequence[Stored]:
        """Return all cases as last heard of, our own writes included; ObserveError when that is too long ago."""
        return [kept.stored for kept in self.kept()]

    def kept(self) -> Sequence[Kept]:
        """Return all cases with what people see of them; ObserveError as `list`."""
        return [item for item in self.mirror.items().values() if isinstance(item, Kept)]

    async def unreadable(self) -> Sequence[Unreadable]:
        """Return the objects that are no cases to this version; ObserveError as `list`."""
        return [item for item in self.mirror.items().values() if isinstance(item, Unreadable)]

    def strange(self) -> int:
        """Return how many objects cannot be read in full, as last heard of."""
        return sum(isinstance(item, Unreadable) or bool(item.stored.unread) for item in self.mirror.known())

    async def create(self, case: Case, decision: Mapping[str, object]) -> Stored:
        """Store a new case with its first decision; Transient `conflict` if the name exists."""
        case = _fitting(case)
        shown = show(case, decision, {})
        at, entry = _entry(decision, ())
        data = dump_case(case)
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "metadata": {"name": case.name, "labels": {NODE_LABEL: case.node[:63].rstrip("-_.")}},
            "spec": {key: data[key] for key in OPENING if key in data},
        }
        with changing(f"remediation {case.name}"):
            meta = await self._api.call("POST", PATH, body=body, accept=METADATA_ONLY)
        bare = _opened(case)
        stored = self._put(bare, meta, shown=show(bare, None, {}))
        status = {**{k: data[k] for k in STATUS_KEYS if k in data}, **shown, "decisions": {at: entry}}
        meta = await self._write(case.name, stored.version, status)
        return self._put(replace(case, approvals=()), meta, (at,), shown)

    async def save(self, stored: Stored, decision: Mapping[str, object] | None) -> Stored:
        """Replace the status if the object's version is still that one, and add the decision; else `conflict`.

        What the spec holds is not written: what the case was opened on never changes, and approvals are people's.
        """
        kept = await self._known(stored.case.name)
        case = _with_spec_of(kept.stored.case, _fitting(stored.case))
        decisions = kept.decisions
        shown = show(case, decision, kept.shown)
        before = kept.raw if kept.raw is not None else dump_case(kept.stored.case)
        data = merged(kept.raw or {}, dump_case(case), Case)
        status = {key: _removing(before.get(key), data[key]) for key in STATUS_KEYS if key in data}
        changes: dict[str, Any] = {**dict.fromkeys((*STATUS_KEYS, *SHOWN)), **status, **shown}
        if decision is not None:
            at, entry = _entry(decision, decisions)
            decisions = (*decisions, at)
            changes["decisions"] = {**dict.fromkeys(decisions[:-DECISIONS]), at: entry}
            decisions = decisions[-DECISIONS:]
        meta = await self._write(case.name, stored.version, changes)
        return self._put(case, meta, decisions, shown, kept)

    async def approve(self, stored: Stored, approvals: Sequence[Approval], token: str = "") -> Stored:
        """Replace the case's approvals if its version is still that one, as the owner of `token` if one is given.

        Only people may; the API server refuses an approval in another's name.
        """
        case = replace(stored.case, approvals=tuple(approvals))
        kept = await self._known(case.name)
        data = merged(kept.raw or {}, dump_case(case), Case)
        body = {"metadata": {"resourceVersion": stored.version}, "spec": {"approvals": data.get("approvals")}}
        with changing(f"approvals of remediation {case.name}"):
            meta = await self._api.call(
                "PATCH", _path(case.name), body=body, content_type=MERGE_PATCH, accept=METADATA_ONLY, token=token
            )
        return self._put(case, meta, kept.decisions, kept.shown, kept)

    async def delete(self, name: str) -> None:
        """Remove the Remediation as last heard of; no error if it is gone, Transient `conflict` if it has changed."""
        item = self.mirror.peek(name)
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if isinstance(item, Kept):
            body["preconditions"] = {"resourceVersion": item.stored.version}
        with changing(f"remediation {name}"):
            try:
                await self._api.call("DELETE", _path(name), body=body, accept=METADATA_ONLY)
            except ApiError as problem:
                if problem.status != 404:
                    raise
        self.mirror.drop(name)

    async def decisions(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return the stored decision records of a case, oldest first; ObserveError if they cannot be read."""
        with reading(f"remediation {name}"):
            raw = await self._api.get(_path(name))
        return [record for _, record in sorted((raw.get("status", {}).get("decisions") or {}).items())]

    async def _known(self, name: str) -> Kept:
        """Return what we know of a stored case, from the cache or the API server; Permanent if that is no case."""
        with changing(f"remediation {name}"):
            item = self.mirror.peek(name) or self._read(await self._api.get(_path(name)), None)
        if isinstance(item, Unreadable):
            raise Permanent(
                Reason.CASE_UNREADABLE, f"remediation {name} cannot be read by this version: {item.problem}"
            )
        return item

    async def _write(self, name: str, version: str, status: Mapping[str, Any]) -> Mapping[str, Any]:
        body = {"metadata": {"resourceVersion": version}, "status": status}
        with changing(f"remediation {name}"):
            try:
                meta: Mapping[str, Any] = await self._api.call(
                    "PATCH", f"{_path(name)}/status", body=body, content_type=MERGE_PATCH, accept=METADATA_ONLY
                )
            except ApiError as problem:
                if problem.status == 404:
                    await self._api.get(_path(name))  # raises 404 if it is the object that is missing
                    raise Permanent(
                        Reason.CRD_OUTDATED,
                        "the installed CRD has no status subresource; apply this version's crd.yaml",
                    ) from None
                raise
        return meta

    def _put(
        self,
        case: Case,
        meta: Mapping[str, Any],
        decisions: tuple[str, ...] = (),
        shown: Mapping[str, str] | None = None,
        before: Kept | None = None,
    ) -> Stored:
        strange = before.raw if before is not None else None
        unread = before.stored.unread if before is not None else ()
        stored = Stored(case=case, version=meta["metadata"]["resourceVersion"], unread=unread)
        raw = merged(strange, dump_case(case), Case) if strange is not None else None
        self.mirror.put(case.name, stored.version, Kept(stored=stored, decisions=decisions, shown=shown or {}, raw=raw))
        return stored

    def _read(self, raw: Mapping[str, Any], _known: Kept | Unreadable | None) -> Kept | Unreadable:
        name, status = raw["metadata"]["name"], raw.get("status") or {}
        data = upgraded(_joined(raw))
        try:
            found: Read[Case] = read(data, Case, f"remediation {name}")
        except ConfigError as problem:
            where = f"{problem.path}: " if problem.path else ""
            said = Unreadable(name=name, node=_node_of(raw), problem=where + problem.problem)
            if _known != said:
                log.warning("case ignored: %s", problem)
            return said
        stored = Stored(case=found.value, version=raw["metadata"]["resourceVersion"], unread=found.unread)
        if found.unread and not (isinstance(_known, Kept) and _known.stored.unread == found.unread):
            log.warning("cannot read parts of remediation %s: %s", name, "; ".join(found.unread))
        return Kept(
            stored=stored,
            decisions=tuple(sorted(status.get("decisions") or {})),
            shown={key: str(status[key]) for key in SHOWN if status.get(key)},
            raw=data if data != dump_case(found.value) else None,
        )


def _path(name: str) -> str:
    return f"{PATH}/{quote(name)}"


def _with_spec_of(stored: Case, case: Case) -> Case:
    """Return the case with what is not written again after its opening as it is stored."""
    return replace(
        case,
        node=stored.node,
        node_uid=stored.node_uid,
        system_uuid=stored.system_uuid,
        opened_at=stored.opened_at,
        approvals=stored.approvals,
    )


def _opened(case: Case) -> Case:
    """Return the case as its spec alone tells it."""
    return Case(
        name=case.name,
        node=case.node,
        opened_at=case.opened_at,
        policy=case.policy,
        node_uid=case.node_uid,
        system_uuid=case.system_uuid,
    )


def _fitting(case: Case) -> Case:
    """Return the case without what is too long to be stored: a stranger's label must not keep it from being stored."""
    data = dump_case(case)
    cut = fit(data)
    return case if cut == data else load_case(cut)


def _joined(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the case's data from both halves; the status is ours, and so wins."""
    shown = {*SHOWN, "decisions"}
    status = {key: value for key, value in (raw.get("status") or {}).items() if key not in shown}
    return {**status, **(raw.get("spec") or {}), **_policy(status), "name": raw["metadata"]["name"]}


def _policy(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"policy": status["policy"]} if status.get("policy") else {}


def _node_of(raw: Mapping[str, Any]) -> str:
    """Return the node that an object is about, as far as it tells: an empty text if it does not."""
    spec = raw.get("spec")
    named = spec.get("node") if isinstance(spec, dict) else None
    label = (raw["metadata"].get("labels") or {}).get(NODE_LABEL, "")
    return named if isinstance(named, str) and named else str(label)


def _removing(before: Any, now: Any) -> Any:
    """Return `now` with null for each key of a mapping that was there before: a merge PATCH would keep it."""
    if not isinstance(now, dict) or not isinstance(before, dict):
        return now
    return {**dict.fromkeys(before.keys() - now.keys()), **{k: _removing(before.get(k), v) for k, v in now.items()}}


def _entry(decision: Mapping[str, Any], known: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """Return the decision under a key that sorts after all known; one too large to be kept plain is packed."""
    at = datetime.fromisoformat(str(decision["at"]))
    key = _key(at)
    if known and key <= known[-1]:
        key = _key(datetime.fromisoformat(known[-1]) + timedelta(microseconds=1))
    if len(json.dumps(decision)) <= MAX_DECISION_BYTES:
        return key, decision
    small = packed(decision)
    if len(json.dumps(small)) <= MAX_DECISION_BYTES:
        return key, small
    kept = {name: value for name, value in small.items() if name != "packed"}
    return key, {**kept, "omitted": f"case and world: larger than {MAX_DECISION_BYTES} bytes, even packed"}


def _key(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
