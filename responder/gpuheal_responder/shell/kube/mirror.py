"""A cache that follows one resource of the API server: paged LIST, then WATCH, for as long as it runs.

It survives 410 Gone (lists again), disconnects, 429 and 5xx (bounded backoff), and a watch that falls silent. `items`
raises ObserveError rather than give an old picture: before the first list, when the connection is lost for longer than
`max_outage`, and when nothing (event, bookmark, list) was heard for `max_silence`. The API server sends a bookmark
about every minute: https://kubernetes.io/docs/reference/using-api/api-concepts/#watch-bookmarks

Answers overtake each other: a PATCH that was asked for before a deletion may be answered after it. So an object only
ever moves to a later version, and a deleted one leaves a tombstone that no answer from before its death can lift.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from gpuheal_responder.core.duration import people_duration
from gpuheal_responder.errors import ObserveError
from gpuheal_responder.shell.kube.api import Api, ApiError
from gpuheal_responder.shell.process.supervisor import LongTask

T = TypeVar("T")
GONE = 410
MAX_PAGES = 10_000
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 5.0
BURIED_S = 600.0
"""How long a tombstone stands: longer than any request may take (deadlines are seconds)."""
MOST_BURIED = 20_000
CATCH_UP = timedelta(seconds=3)
"""How long the watch may take to arrive at a version before the resource is listed instead."""
SHORT_S = 5.0
"""A round that ended sooner counts as a failure, so that no fault can make us ask in a tight loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """How to follow a resource."""

    page: int = 50
    """Objects per LIST page: 50 nodes of 25 KB are decoded in about 15 ms, and 5 MB at most are held at once."""
    page_deadline: timedelta = timedelta(seconds=30)
    session: timedelta = timedelta(minutes=5)
    """The server ends each watch about then; a new one goes on where it ended."""
    max_silence: timedelta = timedelta(seconds=90)
    max_outage: timedelta = timedelta(seconds=20)


class _Gone(Exception):
    """The server has no history from our version on; only a new list helps."""


class Mirror(Generic[T]):
    """Objects of one resource by name, as `read` makes them; `read` returns None for what is not to be kept.

    `read` gets the object as JSON and what was kept under that name before.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        read: Callable[[Mapping[str, Any], T | None], T | None],
        *,
        query: Mapping[str, str] | None = None,
        settings: WatchSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._api = api
        self._path = path
        self._read = read
        self._query = dict(query or {})
        self._settings = settings or WatchSettings()
        self._clock = clock
        self._changed = changed
        self._items: dict[str, T] = {}
        self._versions: dict[str, str] = {}
        self._buried: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._version = ""
        self._moved = asyncio.Event()
        self._heard_at: float | None = None
        self._broken_since: float | None = None
        self._problem = "not listed yet"
        self._synced = asyncio.Event()
        self._task = LongTask(self._run, f"follow {path}")
        self.lists = 0
        """How often the whole resource was listed."""

    @property
    def synced(self) -> bool:
        """True once the resource was listed completely."""
        return self._synced.is_set()

    @property
    def lag(self) -> timedelta:
        """How long nothing was heard from the server; the largest span before the first list."""
        return timedelta.max if self._heard_at is None else timedelta(seconds=self._clock() - self._heard_at)

    def problem(self) -> str:
        """Return why the cache must not be believed, or an empty text."""
        if self._task.over:
            return "its watch has ended"
        if not self.synced:
            return self._problem
        if self.lag > self._settings.max_silence:
            return f"no data for {people_duration(self.lag)} ({self._problem or 'the watch is silent'})"
        if self._broken_since is not None:
            outage = self._clock() - self._broken_since
            if outage > self._settings.max_outage.total_seconds():
                return f"not connected for {people_duration(timedelta(seconds=outage))} ({self._problem})"
        return ""

    def items(self) -> dict[str, T]:
        """Return all objects by name; ObserveError when the cache lags."""
        problem = self.problem()
        if problem:
            raise ObserveError("kubernetes", f"{self._path}: {problem}")
        return dict(self._items)

    def peek(self, name: str) -> T | None:
        """Return the object as last heard of, however long ago."""
        return self._items.get(name)

    def known(self) -> Sequence[T]:
        """Return all objects as last heard of, however long ago."""
        return list(self._items.values())

    def seen(self, version: str) -> bool:
        """Return whether all that happened up to this version has been heard of."""
        return self.synced and not _newer(version, self._version)

    def put(self, name: str, version: str, item: T) -> None:
        """Take in the answer to a write or a read of ours, unless something newer is known already."""
        if self._news(name, version):
            self._keep(name, version, item)

    def drop(self, name: str, version: str = "") -> None:
        """Forget an object that is gone, and whatever may still be answered about it up to this version."""
        self._items.pop(name, None)
        last = self._versions.pop(name, "")
        buried, _ = self._buried.pop(name, ("", 0.0))
        for other in (last, buried):
            version = other if _newer(other, version) and other else version
        if version:
            self._buried[name] = (version, self._clock())
        self._prune()

    async def catch_up(self) -> None:
        """Return once all that had happened in the API server when this was called has been heard of.

        ApiError when it cannot be asked. A watch that is late or silent is not waited for: everything is listed.
        """
        page = await self._api.get(self._path, {**self._query, "limit": 1}, deadline=self._settings.page_deadline)
        version = page["metadata"]["resourceVersion"]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP.total_seconds()):
                while not self.seen(version):
                    self._moved.clear()
                    await self._moved.wait()
        if not self.seen(version):
            await self._list()

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to follow; return the task that does, which ends only by `stop` or by a bug."""
        return self._task.start()

    async def stop(self) -> None:
        """End following and wait until it has ended; repeatable."""
        await self._task.stop()

    async def wait_synced(self, deadline: timedelta) -> None:
        """Return when the resource has been listed; ObserveError with the last problem after `deadline`."""
        try:
            await asyncio.wait_for(self._synced.wait(), deadline.total_seconds())
        except TimeoutError:
            raise ObserveError("kubernetes", f"{self._path}: {self._problem}") from None

    async def _run(self) -> None:
        failures = 0
        while True:
            began, retry_after = self._clock(), None
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except _Gone:
                self._version = ""
            except ApiError as problem:
                self._problem, retry_after = str(problem), problem.retry_after
                if problem.status == GONE:
                    self._version = ""
                if self._broken_since is None:
                    self._broken_since = self._clock()
            failures = failures + 1 if self._clock() - began < SHORT_S else 0
            if failures:
                await asyncio.sleep(pause(failures, retry_after))

    async def _list(self) -> None:
        """Read the whole resource page by page, then replace what is kept in one go."""
        items: dict[str, T] = {}
        versions: dict[str, str] = {}
        token = version = ""
        for _ in range(MAX_PAGES):
            page = await self._api.get(
                self._path,
                {**self._query, "limit": self._settings.page, "continue": token},
                deadline=self._settings.page_deadline,
            )
            await asyncio.sleep(0)  # decoding a page takes some 15 ms and reading it 5: let others run in between
            for raw in page["items"]:
                name = raw["metadata"]["name"]
                seen, known = raw["metadata"]["resourceVersion"], self._items.get(name)
                item = known if seen == self._versions.get(name) else self._read(raw, known)
                if item is not None:
                    items[name], versions[name] = item, seen
            version, token = page["metadata"]["resourceVersion"], page["metadata"].get("continue", "")
            del page
            if not token:
                break
        else:
            raise ApiError(0, "Endless", f"{self._path}: more than {MAX_PAGES} pages")
        for name, known_version in self._versions.items():
            if _newer(known_version, versions.get(name, version)):  # written by us while the pages were read
                items[name], versions[name] = self._items[name], known_version
        for name in [name for name, seen in versions.items() if not self._alive(name, seen)]:
            del items[name], versions[name]  # deleted while the pages were read
        gone = self._items.keys() - items.keys()
        moved = [name for name in items if self._versions.get(name) != versions[name]]
        self._items, self._versions = items, versions
        for name in gone:
            self.drop(name, version)
        self._reached(version)
        self.lists += 1
        self._heard()
        self._synced.set()
        for name in (*gone, *moved):
            self._changed(name)

    async def _watch(self) -> None:
        session = self._settings.session.total_seconds() * random.uniform(0.8, 1.0)  # noqa: S311  # spreads reconnects
        stream = self._api.lines(
            self._path,
            silence=self._settings.max_silence,
            query={
                **self._query,
                "watch": "1",
                "resourceVersion": self._version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": max(1, int(session)),
            },
        )
        async with contextlib.aclosing(stream):
            async for line in stream:
                self._heard()
                if line:
                    self._event(_parsed(line))

    def _event(self, event: Mapping[str, Any]) -> None:
        kind, raw = event["type"], event["object"]
        if kind == "ERROR":
            if raw.get("code") == GONE:
                raise _Gone
            raise ApiError(int(raw.get("code", 0)), str(raw.get("reason", "")), str(raw.get("message", "")))
        meta = raw["metadata"]
        version = meta["resourceVersion"]
        if kind != "BOOKMARK":
            name = meta["name"]
            if self._news(name, version):
                item = None if kind == "DELETED" else self._read(raw, self._items.get(name))
                if item is not None:
                    self._keep(name, version, item)
                elif kind == "DELETED" or name in self._items:
                    self.drop(name, version)
                self._changed(name)
        self._reached(version)

    def _news(self, name: str, version: str) -> bool:
        return _newer(version, self._versions.get(name, "")) and self._alive(name, version)

    def _alive(self, name: str, version: str) -> bool:
        return name not in self._buried or _newer(version, self._buried[name][0])

    def _keep(self, name: str, version: str, item: T) -> None:
        self._items[name], self._versions[name] = item, version
        self._buried.pop(name, None)

    def _reached(self, version: str) -> None:
        if not self._version or _newer(version, self._version):
            self._version = version
        self._moved.set()

    def _prune(self) -> None:
        """Remove tombstones that are too old to matter, or too many."""
        oldest = self._clock() - BURIED_S
        while self._buried:
            name, (_, at) = next(iter(self._buried.items()))
            if at >= oldest and len(self._buried) <= MOST_BURIED:
                break
            del self._buried[name]

    def _heard(self) -> None:
        self._heard_at = self._clock()
        self._broken_since, self._problem = None, ""


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        event: Mapping[str, Any] = json.loads(line)
    except ValueError as problem:
        raise ApiError(0, "NotJSON", str(problem)) from problem
    return event


def _newer(version: str, known: str) -> bool:
    """Return whether a resource version is later than another.

    They are compared as numbers, as Kubernetes has documented since 1.35 (KEP-5504); what is no number counts as later.
    """
    return int(version) > int(known) if version.isdecimal() and known.isdecimal() else version != known


def pause(failures: int, retry_after: timedelta | None) -> float:
    """Return the seconds to wait after so many failures in a row."""
    backoff = min(FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 10), LAST_BACKOFF_S)
    wanted = retry_after.total_seconds() if retry_after is not None else 0.0
    return max(backoff, wanted) * random.uniform(0.8, 1.2)  # noqa: S311  # replicas should not come back in step
