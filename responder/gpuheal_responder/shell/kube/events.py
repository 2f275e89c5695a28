"""Events on nodes, in plain words; the same Event again raises its count instead of making another object."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from gpuheal_responder.ports import Clock, Note
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube.api import MERGE_PATCH, METADATA_ONLY, Api, ApiError

NAMESPACE = "default"
"""Events of cluster-scoped objects live here, as those of the kubelet do."""
COMPONENT = "gpuheal"
RIGHTS = (
    Right(
        group="",
        resources=("events",),
        verbs=("get", "create", "patch"),
        why="Events of nodes live in this namespace.",
        namespace=NAMESPACE,
    ),
)
MAX_MESSAGE = 1024
MAX_NODE_IN_NAME = 200

log = logging.getLogger(__name__)


class Events:
    """Writes Events; nothing is kept in memory, the Event's name follows from what it says."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self.failed = 0
        """How many Events could not be written."""

    async def publish(self, note: Note, node_uid: str) -> bool:
        """Record the Event, or raise the count of the one that says the same; return False, logged, if that failed."""
        try:
            await self._write(note, node_uid)
        except ApiError as problem:
            self.failed += 1
            log.warning("Event %s on node %s was not written: %s", note.reason, note.node, problem)
            return False
        return True

    async def _write(self, note: Note, node_uid: str) -> None:
        path = f"/api/v1/namespaces/{NAMESPACE}/events"
        body = event(note, node_uid, self._clock.now())
        try:
            await self._api.call("POST", path, body=body, accept=METADATA_ONLY)
        except ApiError as problem:
            if problem.status != 409:
                raise
        else:
            return
        mine = f"{path}/{quote(body['metadata']['name'])}"
        known = await self._api.get(mine)
        again = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": body["lastTimestamp"]}
        await self._api.call("PATCH", mine, body=again, content_type=MERGE_PATCH, accept=METADATA_ONLY)


def event(note: Note, node_uid: str, now: datetime) -> dict[str, Any]:
    """Return the Event object; equal notes give equal names."""
    kind = "Warning" if note.warning else "Normal"
    digest = hashlib.sha256("\n".join((node_uid, note.reason, kind, note.message)).encode()).hexdigest()[:16]
    at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{note.node[:MAX_NODE_IN_NAME].rstrip('.-')}.{digest}", "namespace": NAMESPACE},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": note.node, "uid": node_uid or note.node},
        "reason": note.reason,
        "message": note.message[:MAX_MESSAGE],
        "type": kind,
        "source": {"component": COMPONENT},
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }
