"""The simulated API server: raw objects, one version counter, writes that name an old version refused."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from gpuheal_lab.fleet.clock import Schedule
from gpuheal_lab.fleet.objects import Budget, Json, canonical, copied
from gpuheal_lab.fleet.spec import NAMESPACE


class Conflict(Exception):
    """The object has another version by now; nothing was written."""


class Missing(Exception):
    """There is no such object."""


@dataclass(slots=True)
class RecordedEvent:
    """An Event on a node, with how often it came."""

    node: str
    reason: str
    message: str
    warning: bool
    source: str
    first_at: datetime
    last_at: datetime
    count: int = 1


class ApiServer:
    """Nodes, pods, budgets and Events as raw objects; every stored object is replaced, never changed in place."""

    def __init__(self, schedule: Schedule, *, seed: int = 0) -> None:
        self.schedule = schedule
        self.nodes: dict[str, Json] = {}
        self.pods: dict[tuple[str, str], Json] = {}
        self.budgets: list[Budget] = []
        self._events: dict[tuple[str, str, str, str], RecordedEvent] = {}
        self.on_node: list[Callable[[str], None]] = []
        self.on_pod: list[Callable[[Json | None, Json | None], None]] = []
        self._by_node: dict[str, dict[tuple[str, str], Json]] = {}
        self._version = 1000
        self._uids = 0
        self._seed = seed

    def next_version(self) -> str:
        """A version that no object has had."""
        self._version += 1
        return str(self._version)

    def new_uid(self) -> str:
        """A UID that no object has had, the same in every run with the same seed."""
        self._uids += 1
        return str(uuid.uuid5(NAMESPACE, f"uid/{self._seed}/{self._uids}"))

    def add_node(self, node: Json) -> None:
        """The node exists."""
        node["metadata"]["resourceVersion"] = self.next_version()
        self._put_node(node)

    def delete_node(self, name: str) -> None:
        """The node and the pods bound to it are gone."""
        for pod in self.pods_on(name):
            self.delete_pod(pod)
        self.nodes.pop(name, None)
        for tell in self.on_node:
            tell(name)

    def change_node(
        self, name: str, change: Callable[[Json], None], *, uid: str = "", version: str | None = None
    ) -> Json:
        """The node as `change` left its copy; a change of nothing keeps the version, as the API server does.

        Raises Missing, or Conflict when `uid` or `version` is given and not the stored one.
        """
        old = self.nodes.get(name)
        if old is None:
            raise Missing(f'nodes "{name}" not found')
        meta = old["metadata"]
        if uid not in {"", meta["uid"]} or version not in {None, meta["resourceVersion"]}:
            raise Conflict(
                f'Operation cannot be fulfilled on nodes "{name}": the object has been modified; '
                "please apply your changes to the latest version and try again"
            )
        new = copied(old)
        change(new)
        if canonical(new) == canonical(old):
            return old
        new["metadata"]["resourceVersion"] = self.next_version()
        self._put_node(new)
        return new

    def _put_node(self, node: Json) -> None:
        name = str(node["metadata"]["name"])
        self.nodes[name] = node
        for tell in self.on_node:
            tell(name)

    def put_pod(self, pod: Json) -> None:
        """The pod is stored in place of what had its name."""
        pod["metadata"]["resourceVersion"] = self.next_version()
        key = _key(pod)
        old = self.pods.get(key)
        if old is not None:
            self._by_node.get(old["spec"].get("nodeName", ""), {}).pop(key, None)
        self.pods[key] = pod
        self._by_node.setdefault(pod["spec"].get("nodeName", ""), {})[key] = pod
        for tell in self.on_pod:
            tell(old, pod)

    def change_pod(self, pod: Json, change: Callable[[Json], None]) -> None:
        """The pod is as `change` left its copy; nothing happens if it is gone or another has its name."""
        current = self.pods.get(_key(pod))
        if current is None or current["metadata"]["uid"] != pod["metadata"]["uid"]:
            return
        new = copied(current)
        change(new)
        if canonical(new) != canonical(current):
            self.put_pod(new)

    def delete_pod(self, pod: Json) -> None:
        """The pod is gone; no error if it was."""
        key = _key(pod)
        current = self.pods.get(key)
        if current is None or current["metadata"]["uid"] != pod["metadata"]["uid"]:
            return
        del self.pods[key]
        self._by_node.get(current["spec"].get("nodeName", ""), {}).pop(key, None)
        for tell in self.on_pod:
            tell(current, None)

    def pods_on(self, node: str) -> list[Json]:
        """The pods bound to a node, by name; those bound to none for an empty name."""
        return [pod for _, pod in sorted(self._by_node.get(node, {}).items())]

    def record(self, *, node: str, reason: str, message: str, warning: bool, source: str) -> None:
        """The Event is there, or was counted once more."""
        now = self.schedule.now()
        key = (node, reason, message, source)
        if key in self._events:
            self._events[key].count += 1
            self._events[key].last_at = now
            return
        self._events[key] = RecordedEvent(
            node=node, reason=reason, message=message, warning=warning, source=source, first_at=now, last_at=now
        )

    def events(self, node: str | None = None) -> list[RecordedEvent]:
        """All Events in order of their first time, or those on one node."""
        return [e for e in self._events.values() if node in {None, e.node}]


def _key(pod: Json) -> tuple[str, str]:
    return str(pod["metadata"]["namespace"]), str(pod["metadata"]["name"])
