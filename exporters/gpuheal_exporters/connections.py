"""Bounds on who is connected: a client that is slow or greedy costs its own connections, never another's scrape."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass

MAX_CONNECTIONS = 32
MAX_PER_CLIENT = 8
"""More than Prometheus (one), the kubelet's probes and a person need from one address."""
REQUEST_SECONDS = 5.0
"""A request has to be there, whole, this long after its connection; a scraper's is in milliseconds."""
ANSWER_SECONDS = 30.0
"""An answer has to be taken this long after the connection began."""


@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """One connection; `reading` until its request is there. `began` is monotonic seconds."""

    channel: socket.socket
    client: str
    began: float
    reading: bool = True


class Connections:
    """The connections that threads of the server are busy with. Thread-safe.

    A new one is let in by cutting off the connection that has waited longest without saying what it wants: first among
    those of the same client, if that has its share, then among all. Only if all of them are being answered is it
    refused.
    """

    def __init__(self) -> None:
        self._open: dict[socket.socket, Connection] = {}
        self._lock = threading.Lock()

    def admit(self, channel: socket.socket, client: str, now: float) -> bool:
        """Register a connection; return False if there is no room for it."""
        with self._lock:
            theirs = [each for each in self._open.values() if each.client == client]
            if len(theirs) >= MAX_PER_CLIENT and not self._cut(theirs):
                return False
            if len(self._open) >= MAX_CONNECTIONS and not self._cut(list(self._open.values())):
                return False
            self._open[channel] = Connection(channel=channel, client=client, began=now)
            return True

    def answering(self, channel: socket.socket) -> None:
        """Note that the request is there; from now on the connection is not cut off for another one."""
        with self._lock:
            if channel in self._open:
                self._open[channel].reading = False

    def release(self, channel: socket.socket) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._open.pop(channel, None)

    def expire(self, now: float) -> None:
        """Cut off those that are over their time, however busily they trickle."""
        with self._lock:
            for each in list(self._open.values()):
                if now - each.began > (REQUEST_SECONDS if each.reading else ANSWER_SECONDS):
                    self._end(each)

    def __len__(self) -> int:
        return len(self._open)

    def _cut(self, candidates: list[Connection]) -> bool:
        waiting = [each for each in candidates if each.reading]
        if waiting:
            self._end(min(waiting, key=lambda each: each.began))
        return bool(waiting)

    def _end(self, connection: Connection) -> None:
        """Shut a connection down, so that the thread that waits for it ends; that thread closes it."""
        del self._open[connection.channel]
        with contextlib.suppress(OSError):
            connection.channel.shutdown(socket.SHUT_RDWR)
