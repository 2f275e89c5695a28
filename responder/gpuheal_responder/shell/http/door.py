"""The door: takes connections, ends those that ask nothing, and decides who leaves when there are too many.

Strangers can reach our port. They must not use up descriptors or memory, nor keep the kubelet's probes, Prometheus and
Alertmanager out: when the house is full, whoever has the most guests loses the oldest of them, and the newcomer, who
may be a probe, comes in.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Iterator

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 256
"""Alertmanager, Prometheus, probes and people together need some dozens."""
LEAST_CONNECTIONS = 16
MOST_HEADERS = 48
LONGEST_LINE = 8190
"""Of the request line and of one header: 256 connections can fill 100 MB with heads, no more."""
MOST_READ = 32 * 1024
ASK_DEADLINE_S = 10.0
HANDSHAKE_DEADLINE_S = 5.0
IDLE_S = 120.0
LINGER_S = 1.0
"""How long the rest of a body is read away that nobody wanted, so that its sender sees our answer and not a reset."""
PAUSE_S = 0.2
SPARE_DESCRIPTORS = 128
"""Left for files, the API server, Alertmanager and Prometheus where few descriptors are allowed."""


class Guest(RequestHandler):
    """One connection, from the moment it was accepted."""

    __slots__ = ("asked", "deaf", "door", "link", "source", "welcome")

    def __init__(self, door: Door, link: socket.socket, source: str) -> None:
        server = door.runner.server
        assert server is not None
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own AppRunner passes it so
            keepalive_timeout=IDLE_S,
            lingering_time=LINGER_S,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
            max_headers=MOST_HEADERS,
            auto_decompress=False,  # what inflates does so in the event loop, before anybody has asked who sends it
        )
        self.door = door
        self.link = link
        self.source = source
        self.asked = False
        """Whether it has got an answer already."""
        self.deaf = False
        """Whether what still comes is thrown away unread."""
        self.welcome: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, a little at a time: what is read at once is parsed at once, and others wait."""
        if hasattr(transport, "max_size"):  # asyncio's plain sockets; of TLS a record is 16 KiB
            transport.max_size = MOST_READ
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless nobody wants it any more."""
        if not self.deaf:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self.door.forget(self)
        super().connection_lost(exc)

    def show_out(self) -> None:
        """End the connection at once, whatever it is at."""
        if self.transport is not None:
            self.transport.abort()
        elif self.welcome is not None:
            self.welcome.cancel()
        self.door.forget(self)

    def hang_up(self, _welcome: asyncio.Task[None]) -> None:
        """Close the socket if no transport has taken it over."""
        if self.transport is None:
            self.link.close()


class Door:
    """Accepts connections for an application; `context` is the TLS of those that come from now on."""

    def __init__(
        self, runner: web.AppRunner, context: ssl.SSLContext | None, told: Callable[[str], None] = lambda _: None
    ) -> None:
        """Tell `told` why each connection was ended by us before it had asked: crowd, silent or handshake."""
        self.runner = runner
        self._told = told
        self.context = context
        self._most = room_for(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._guests: dict[Guest, None] = {}
        self._by_source: dict[str, dict[Guest, None]] = {}
        self._listeners: list[socket.socket] = []
        self._leaving_tasks: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen on every address of the host; return the first with the port it got. OSError if that can't be."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, proto, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, proto)
            self._listeners.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(512)
        name: tuple[str, int] = self._listeners[0].getsockname()[:2]
        return name

    def listen(self) -> list[asyncio.Task[None]]:
        """Begin to accept; return the tasks that do, which run until they are cancelled."""
        return [
            asyncio.create_task(self._accept(listener), name=f"listener {number}")
            for number, listener in enumerate(self._listeners)
        ]

    def close(self) -> None:
        """Accept nobody any more; those inside stay until they are served. Repeatable."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for guest in list(self._guests):
            if guest.transport is None:
                guest.show_out()

    def renew(self, context: ssl.SSLContext) -> None:
        """Use this TLS from now on; who came in under the old one leaves once served, for its rights may be gone."""
        self.context = context
        for guest in list(self._guests):
            if guest.transport is None:
                guest.show_out()
                continue
            guest.close()
            leaving = asyncio.create_task(guest.shutdown(LINGER_S))
            self._leaving_tasks.add(leaving)
            leaving.add_done_callback(self._leaving_tasks.discard)

    async def heard(self, request: web.Request, response: web.StreamResponse) -> None:
        """Take note that a connection has asked and is being answered.

        If its body isn't wanted to the end, no more is read of it: a million chunks of a byte cost a second.
        """
        guest = request.protocol
        if isinstance(guest, Guest):
            guest.asked = True
            if not request.content.is_eof():
                guest.deaf = True
                response.force_close()

    def forget(self, guest: Guest) -> None:
        """Forget a connection that has ended. Repeatable."""
        self._guests.pop(guest, None)
        others = self._by_source.get(guest.source, {})
        others.pop(guest, None)
        if not others:
            self._by_source.pop(guest.source, None)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                link, address = await loop.sock_accept(listener)
            except OSError as problem:  # no descriptor left, or the other side was gone already
                log.warning("cannot accept: %s", problem)
                await asyncio.sleep(PAUSE_S)
                continue
            while len(self._guests) >= self._most:
                next(self._leaving()).show_out()
                self._told("crowd")
            guest = Guest(self, link, source_of(address))
            self._guests[guest] = None
            self._by_source.setdefault(guest.source, {})[guest] = None
            guest.welcome = asyncio.create_task(self._welcome(guest))
            guest.welcome.add_done_callback(guest.hang_up)  # also if it was never begun
            loop.call_later(ASK_DEADLINE_S, self._end_if_silent, guest)
            await asyncio.sleep(0)  # a crowd at the door must not keep those inside waiting

    def _leaving(self) -> Iterator[Guest]:
        """Return the one to close: of the address with the most connections the oldest silent one, else the oldest."""
        crowd = max(self._by_source.values(), key=len)
        among = crowd if len(crowd) > 1 else self._guests
        yield from (guest for guest in among if not guest.asked)
        yield from among

    async def _welcome(self, guest: Guest) -> None:
        secured = self.context is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: guest,
                guest.link,
                ssl=self.context,
                ssl_handshake_timeout=HANDSHAKE_DEADLINE_S if secured else None,
            )
        except OSError as problem:  # TLS errors and deadlines among them
            log.debug("handshake with %s: %s", guest.source, problem)
            self._told("handshake")
            self.forget(guest)

    def _end_if_silent(self, guest: Guest) -> None:
        if guest in self._guests and not guest.asked:
            guest.show_out()
            self._told("silent")


def room_for(descriptors: int) -> int:
    """Return how many connections fit into so many descriptors; infinitely many are -1."""
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, max(LEAST_CONNECTIONS, descriptors - SPARE_DESCRIPTORS))


def source_of(address: object) -> str:
    """Return whom an address counts as: an IPv4 address, or the /64 of an IPv6 one, which is one machine's."""
    host = str(address[0]) if isinstance(address, tuple) and address else ""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False).network_address)
    return str(found)
