"""Who gets their Kubernetes token reviewed, and when: strangers with made-up tokens must not keep people out.

Every token we have not seen admitted costs the API server a review. Such reviews are few a second, whoever asks; among
those who wait, addresses take turns. Whoever has been admitted lately goes past the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator

from aiohttp import web

from gpuheal_responder.errors import ObserveError
from gpuheal_responder.shell.http.credentials import bearer, peer, readable_by_others
from gpuheal_responder.shell.http.door import source_of
from gpuheal_responder.shell.kube.review import LONGEST_TOKEN, Denial, People, Permission, Person

REVIEWS_PER_S = 20.0
BURST = 40
"""Unknown tokens reviewed at once after a quiet time. An API server answers thousands of requests a second."""
AT_ONCE = 8
"""Of each kind; together as many as KubePeople lets through."""
MOST_WAITING = 128
MOST_WAITING_OF_ONE = 32
WAIT_DEADLINE_S = 5.0
KNOWN_FOR_S = 3600.0
MOST_KNOWN = 256


class Admission:
    """Reviews the Kubernetes token of a request, in its turn."""

    def __init__(self, people: People, *, over_http: bool = False) -> None:
        """Ask `people`; take tokens that crossed a network in the clear only with `over_http`."""
        self._people = people
        self._over_http = over_http
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._familiar = asyncio.Semaphore(AT_ONCE)
        self._queue = Queue()

    async def admit(self, request: web.Request, permission: Permission, name: str = "") -> Person | Denial:
        """Return who the token's owner is if they may, else why not; ObserveError if nobody can tell now."""
        if readable_by_others(request) and not self._over_http:
            return Denial(
                status=426,
                message="Kubernetes tokens are not accepted over plain HTTP, where they could be intercepted",
            )
        token = bearer(request)
        if not (0 < len(token) <= LONGEST_TOKEN and token.isascii() and token.isprintable()):
            return Denial(status=401, message="a Kubernetes bearer token is required")
        key = hashlib.sha256(token.encode()).digest()
        now = asyncio.get_running_loop().time()
        familiar = self._known.get(key, 0.0) > now
        async with self._familiar if familiar else self._queue.turn(source_of(peer(request))):
            found = await self._people.admit(token, permission, name)
        if isinstance(found, Person):
            self._known[key] = now + KNOWN_FOR_S
            self._known.move_to_end(key)
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        elif found.status == 401:
            self._known.pop(key, None)
        return found


class Queue:
    """Turns by address, a few a second. It has a size: when it is full, the longest line loses its first."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._inside = 0
        self._left = float(BURST)
        self._counted_at: float | None = None
        self._alarm: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def turn(self, source: str) -> AsyncIterator[None]:
        """Give the caller a turn while the context lasts; ObserveError when it would have to wait for too long."""
        await self._wait(source)
        try:
            yield
        finally:
            self._inside -= 1
            self._go_on()

    async def _wait(self, source: str) -> None:
        line = self._lines.setdefault(source, deque())
        if len(line) >= MOST_WAITING_OF_ONE:
            raise _crowded()
        if sum(map(len, self._lines.values())) >= MOST_WAITING:
            self._send_away(max(self._lines.values(), key=len))
        ticket = asyncio.get_running_loop().create_future()
        line.append(ticket)
        self._go_on()
        try:
            async with asyncio.timeout(WAIT_DEADLINE_S):
                await ticket
        except (TimeoutError, asyncio.CancelledError) as end:
            if ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                self._inside -= 1  # our turn came at the same moment
                self._go_on()
            ticket.cancel()
            if isinstance(end, TimeoutError):
                raise _crowded() from None
            raise

    def _send_away(self, line: deque[asyncio.Future[None]]) -> None:
        ticket = line.popleft()
        if not ticket.done():
            ticket.set_exception(_crowded())

    def _go_on(self) -> None:
        """Give turns to the heads of the lines, one line after the other, as many as may be inside now."""
        self._refill()
        for source in [source for source, line in self._lines.items() if not line]:
            del self._lines[source]
        while self._lines and self._inside < AT_ONCE and self._left >= 1:
            source, line = self._lines.popitem(last=False)
            while line and line[0].done():  # gave up
                line.popleft()
            if line:
                line.popleft().set_result(None)
                self._inside += 1
                self._left -= 1
            if line:
                self._lines[source] = line  # to the end: the others come first now
        if self._lines and self._left < 1 and self._alarm is None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later((1 - self._left) / REVIEWS_PER_S, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._go_on()

    def _refill(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._counted_at is not None:
            self._left = min(float(BURST), self._left + (now - self._counted_at) * REVIEWS_PER_S)
        self._counted_at = now


def _crowded() -> ObserveError:
    return ObserveError("kubernetes", "too many token reviews in progress; try again")
