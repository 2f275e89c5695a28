"""Who may be connected, and who goes first; times are given."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from gpuheal_exporters.connections import (
    ANSWER_SECONDS,
    MAX_CONNECTIONS,
    MAX_PER_CLIENT,
    REQUEST_SECONDS,
    Connections,
)

Pair = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Makes (server's end, client's end) of a connection."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        ends = socket.socketpair()
        made.extend(ends)
        return ends

    yield make
    for end in made:
        end.close()


def is_open(client: socket.socket) -> bool:
    """The server has not shut the connection down."""
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True


def test_the_oldest_of_a_greedy_client_goes_first(pair: Pair) -> None:
    """At its share a client's new connection costs its own oldest one, not another client's older one."""
    connections = Connections()
    other = pair()
    assert connections.admit(other[0], "10.0.0.9", 0.0)
    greedy = [pair() for _ in range(MAX_PER_CLIENT + 1)]
    for number, (server, _) in enumerate(greedy, 1):
        assert connections.admit(server, "10.0.0.1", float(number))
    assert [is_open(client) for _, client in greedy] == [False] + [True] * MAX_PER_CLIENT
    assert is_open(other[1])


def test_the_oldest_of_all_goes_when_all_places_are_taken(pair: Pair) -> None:
    """With many clients the one that waited longest without a request makes room."""
    connections = Connections()
    crowd = [pair() for _ in range(MAX_CONNECTIONS)]
    for number, (server, _) in enumerate(crowd):
        assert connections.admit(server, f"10.0.0.{number}", float(number))
    assert connections.admit(pair()[0], "10.1.0.1", 99.0)
    assert [is_open(client) for _, client in crowd[:3]] == [False, True, True]
    assert len(connections) == MAX_CONNECTIONS


def test_who_is_being_answered_is_not_cut_off(pair: Pair) -> None:
    """If every connection has its request there, one more is refused, and none of them is harmed."""
    connections = Connections()
    crowd = [pair() for _ in range(MAX_PER_CLIENT)]
    for server, _ in crowd:
        assert connections.admit(server, "10.0.0.1", 0.0)
        connections.answering(server)
    assert not connections.admit(pair()[0], "10.0.0.1", 1.0)
    assert connections.admit(pair()[0], "10.0.0.2", 1.0)
    assert all(is_open(client) for _, client in crowd)
    connections.release(crowd[0][0])
    assert connections.admit(pair()[0], "10.0.0.1", 2.0)


def test_time_is_up_however_busily_a_client_trickles(pair: Pair) -> None:
    """A request must be whole in time, an answer taken in time, whatever comes in between."""
    connections = Connections()
    slow, served = pair(), pair()
    for each in (slow, served):
        assert connections.admit(each[0], "10.0.0.1", 0.0)
    connections.answering(served[0])
    slow[1].send(b"GET")
    connections.expire(REQUEST_SECONDS)
    assert is_open(slow[1])
    connections.expire(REQUEST_SECONDS + 0.1)
    assert (is_open(slow[1]), is_open(served[1])) == (False, True)
    connections.expire(ANSWER_SECONDS + 0.1)
    assert not is_open(served[1])
    assert len(connections) == 0
