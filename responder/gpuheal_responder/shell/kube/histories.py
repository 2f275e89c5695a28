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
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from gpuheal_responder.core.history import History
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.errors import ConfigError, Transient
from gpuheal_responder.ports import Clock
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube.api import Api, ApiError, changing
from gpuheal_responder.shell.kube.mirror import Mirror, WatchSettings
from gpuheal_responder.shell.record import dump_history, load_history

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
        return {key: one for shard in self.mirror.items().values() for key, one in shard.histories.items()}

    async def save(self, history: History) -> None:
        """Replace one machine's history; Transient `conflict` when it is not what we last heard of."""
        name, key = _shard(history.machine), _key(history.machine)
        text = json.dumps(dump_history(history), separators=(",", ":"), sort_keys=True)
        known = self.mirror.peek(name)
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

    def _patch(self, known: Shard, key: str, text: str) -> list[dict[str, str]]:
        if key not in known.texts:
            first = [{"op": "add", "path": f"/data/{key}", "value": text}]
        else:
            first = [
                {"op": "test", "path": f"/data/{key}", "value": known.texts[key]},
                {"op": "replace", "path": f"/data/{key}", "value": text},
            ]
        now = self._clock.now()
        old = [k for k, one in known.histories.items() if _key(k) != key and now - _newest(one) > FORGOTTEN_AFTER]
        return first + [{"op": "remove", "path": f"/data/{_key(k)}"} for k in old]


def _newest(history: History) -> datetime:
    """Return the newest moment that the history tells of."""
    moments = [*history.marks, *(c.last_at for c in history.cures), history.settled_at, history.taken_at]
    return max((m for m in moments if m is not None), default=datetime(1970, 1, 1, tzinfo=UTC))


def _shard(machine: str) -> str:
    return f"{PREFIX}-{int(hashlib.sha256(machine.encode()).hexdigest()[:8], 16) % SHARDS:02d}"


def _key(machine: str) -> str:
    """Return a key that a ConfigMap takes; system UUIDs and node names are such already."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "_" for c in machine)
    return plain if plain == machine and 0 < len(plain) <= 253 else hashlib.sha256(machine.encode()).hexdigest()


def _read(raw: Mapping[str, Any], _known: Shard | None) -> Shard:
    found = Shard(texts={str(k): str(v) for k, v in (raw.get("data") or {}).items()})
    for key, text in found.texts.items():
        try:
            history = load_history(json.loads(text), f"{raw['metadata']['name']}: {key}")
        except (ValueError, RecursionError, ConfigError) as problem:
            log.warning("a machine's history cannot be read: %s", problem)
            continue
        found.histories[history.machine] = history
    return found
