"""The port Histories on ConfigMaps of our namespace: one key per machine, spread over a fixed number of objects.

What a machine has been through must outlive its Remediations and its Node object, and is small: a ConfigMap needs no
schema and no database. Each write replaces one key, on condition that it still holds what was read.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from gpuheal_responder.core.history import History, moments_of
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.errors import ConfigError, Transient
from gpuheal_responder.ports import Clock
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube.api import Api, ApiError, changing
from gpuheal_responder.shell.kube.mirror import Mirror, WatchSettings
from gpuheal_responder.shell.lenient import LONGEST_PROBLEM, merged, read
from gpuheal_responder.shell.record import dump_history

PREFIX = "gpuheal-history"
LABEL = "gpu.health/history"
SHARDS = 64
"""10,000 machines with half a kilobyte each are 80 KB per object; a ConfigMap may have 1 MiB."""
FORGOTTEN_AFTER = timedelta(days=30)
"""A machine that nothing was heard of for so long is dropped when its neighbour is written."""
JSON_PATCH = "application/json-patch+json"


def rights(namespace: str) -> tuple[Right, ...]:
    """Return the rights that keeping histories needs; a ConfigMap's name cannot be asked for when it is created."""
    why = "what machines have been through, one ConfigMap per shard"
    verbs = ("list", "watch", "create", "patch")
    return (Right(group="", resources=("configmaps",), verbs=verbs, namespace=namespace, why=why),)


log = logging.getLogger(__name__)


@dataclass(slots=True)
class Shard:
    """One ConfigMap as last heard of: the text of each machine's key, and what it means."""

    texts: dict[str, str] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)
    """By key, not by machine: people copy and rename entries."""
    version: str = ""
    empty: bool = False
    """The object has no data at all, not even an empty one."""


class KubeHistories:
    """Follows the ConfigMaps from `start` to `stop`; `all` raises ObserveError until the first list is complete."""

    def __init__(self, api: Api, clock: Clock, namespace: str, settings: WatchSettings | None = None) -> None:
        self._api = api
        self._clock = clock
        self._path = f"/api/v1/namespaces/{quote(namespace)}/configmaps"
        self.mirror: Mirror[Shard] = Mirror(
            api, self._path, _read, query={"labelSelector": f"{LABEL}=true"}, settings=settings
        )

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to follow; return the task that does."""
        return self.mirror.start()

    async def stop(self) -> None:
        """End following; repeatable."""
        await self.mirror.stop()

    async def all(self) -> Mapping[str, History]:
        """Return the history of every machine by its key; ObserveError when the cache lags."""
        found: dict[str, History] = {}
        for shard in self.mirror.items().values():
            for key, one in shard.histories.items():
                if one.machine not in found or key == _key(one.machine):
                    found[one.machine] = one
        return found

    async def save(self, history: History) -> None:
        """Replace one machine's history; Transient `conflict` when it is not what we last heard of.

        What another version put beside it stays. An entry that cannot be read is left as it is: it may be all that is
        known of the machine.
        """
        name, key = _shard(history.machine), _key(history.machine)
        known = self.mirror.peek(name)
        before = known.histories.get(key) if known is not None else None
        lost = history.unreadable or (before.unreadable if before is not None else "")
        if lost:
            log.warning("the history of %s is left as it is: %s", history.machine, lost)
            return
        data = dump_history(history)
        if known is not None and before is not None:
            data = merged(json.loads(known.texts[key]), data, History)
        text = json.dumps(data, separators=(",", ":"), sort_keys=True)
        with changing(f"history of {history.machine}"):
            try:
                if known is None:
                    body = {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "metadata": {"name": name, "labels": {LABEL: "true"}},
                        "data": {key: text},
                    }
                    made = await self._api.call("POST", self._path, body=body)
                else:
                    patch = self._patch(known, key, text)
                    made = await self._api.call("PATCH", f"{self._path}/{name}", body=patch, content_type=JSON_PATCH)
            except ApiError as problem:
                if problem.status in {404, 422}:
                    raise Transient(Reason.CONFLICT, f"history of {history.machine}: {problem}") from problem
                raise
        self.mirror.put(name, made["metadata"]["resourceVersion"], _read(made, known))

    def _patch(self, known: Shard, key: str, text: str) -> list[dict[str, Any]]:
        first: list[dict[str, Any]]
        if known.empty:
            first = [
                {"op": "test", "path": "/metadata/resourceVersion", "value": known.version},
                {"op": "add", "path": "/data", "value": {key: text}},
            ]
        elif key not in known.texts:
            first = [{"op": "add", "path": f"/data/{key}", "value": text}]
        else:
            first = [
                {"op": "test", "path": f"/data/{key}", "value": known.texts[key]},
                {"op": "replace", "path": f"/data/{key}", "value": text},
            ]
        now = self._clock.now()
        old = [k for k, one in known.histories.items() if k != key and _over(one, now)]
        return first + [{"op": "remove", "path": f"/data/{k}"} for k in old]


def _over(history: History, now: datetime) -> bool:
    newest = max(moments_of(history), default=None)
    return not history.unreadable and (newest is None or now - newest > FORGOTTEN_AFTER)


def _shard(machine: str) -> str:
    return f"{PREFIX}-{int(hashlib.sha256(machine.encode()).hexdigest()[:8], 16) % SHARDS:02d}"


def _key(machine: str) -> str:
    """Return a key that a ConfigMap takes; system UUIDs and node names are such already."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "_" for c in machine)
    return plain if plain == machine and 0 < len(plain) <= 253 else hashlib.sha256(machine.encode()).hexdigest()


def _read(raw: Mapping[str, Any], _known: Shard | None) -> Shard:
    meta, data = raw["metadata"], raw.get("data")
    found = Shard(
        texts={str(k): str(v) for k, v in (data or {}).items()},
        version=str(meta.get("resourceVersion", "")),
        empty=data is None,
    )
    for key, text in found.texts.items():
        found.histories[key] = _history(key, text, str(meta["name"]))
    return found


def _history(key: str, text: str, name: str) -> History:
    """Return what an entry tells; what of it cannot be read is named in the history: it must not pass for nothing."""
    try:
        known = read(json.loads(text), History, f"{name}: {key}")
    except (ValueError, RecursionError, ConfigError) as problem:
        log.warning("a machine's history cannot be read: %s", problem)
        return History(machine=key, unreadable=str(problem)[:LONGEST_PROBLEM])
    if not known.unread:
        return known.value
    log.warning("%s: %s: parts of a machine's history cannot be read: %s", name, key, "; ".join(known.unread))
    return replace(known.value, unreadable="; ".join(known.unread)[:LONGEST_PROBLEM])
