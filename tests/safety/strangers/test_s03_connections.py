"""S03: whatever strangers send before anybody knows them, the loop goes on and probes are answered."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import sys
import zlib
from pathlib import Path

import pytest
from tests.safety.strangers.conftest import PATIENCE_S, TOKEN, House, house

from gpuheal_responder.shell.http import door, people, webhook

AUTHORIZED = f"Authorization: Bearer {TOKEN}\r\n"
CLIENT = """
import asyncio, sys
port, count, rounds = map(int, sys.argv[1:4])
blob = sys.stdin.buffer.read()
async def one():
    for _ in range(rounds):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(blob)
            await asyncio.wait_for(writer.drain(), 10)
            await asyncio.wait_for(reader.read(64), 10)
            writer.close()
        except (OSError, TimeoutError):
            continue
async def main():
    await asyncio.gather(*(one() for _ in range(count)))
asyncio.run(main())
"""


async def attack(there: House, blob: bytes, *, count: int = 4, rounds: int = 4) -> None:
    """Another process sends the bytes on several connections, again and again; its CPU is not ours."""
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(there.port), str(count), str(rounds), stdin=asyncio.subprocess.PIPE
    )
    await run.communicate(blob)
    assert run.returncode == 0


def request(body: bytes, *head: str, path: str = "/webhook") -> bytes:
    """A POST with this body."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *head]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def bomb(encoding: str) -> bytes:
    """Half a megabyte that would unfold into 512 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    first, again = (packer.compress(b"\0" * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * 511 + packer.flush()


@pytest.mark.parametrize("path", ["/webhook", "/v1/cases/x/approve", "/healthz", "/nowhere"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_s03_nothing_inflates_before_we_know_the_sender(tmp_path: Path, path: str, encoding: str) -> None:
    """A small body that unfolds into a huge one costs no time of the loop, on any route."""
    async with house(tmp_path) as there:
        await attack(there, request(bomb(encoding), f"Content-Encoding: {encoding}", path=path), count=2, rounds=1)
        assert await there.ask() == 200
        assert there.worst_s < 0.1


@pytest.mark.parametrize("token", [TOKEN, ""])
async def test_s03_compressed_bodies_are_refused_whoever_sends_them(tmp_path: Path, token: str) -> None:
    """400 with the token, 401 without; they are never unpacked."""
    async with house(tmp_path) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        head = [f"Authorization: Bearer {token}"] if token else []
        writer.write(request(zlib.compress(b"{}"), "Content-Encoding: deflate", *head))
        assert (await reader.readline()).split()[1] == (b"400" if token else b"401")
        writer.close()


CHUNKED = b"POST /webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "headers without end": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 400_000,
    "one header without end": b"GET / HTTP/1.1\r\na: " + b"b" * 4_000_000,
    "a url without end": b"GET /" + b"x" * 4_000_000,
    "a method without end": b"G" * 4_000_000,
    "requests without end": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000,
    "chunks of one byte": CHUNKED + b"1\r\nx\r\n" * 300_000,
    "a chunk header without end": CHUNKED + b"1;" + b"x" * 2_000_000,
    "no http": bytes(range(256)) * 4000,
}


@pytest.mark.parametrize("name", FLOODS)
async def test_s03_a_flood_of_bytes_holds_nobody_up(tmp_path: Path, name: str) -> None:
    """Heads and bodies without end are cut off; a probe is answered meanwhile and afterwards."""
    async with house(tmp_path) as there:
        flood = asyncio.create_task(attack(there, FLOODS[name], count=4, rounds=2))
        statuses = {await there.ask()}
        while not flood.done():
            statuses.add(await there.ask())
            await asyncio.sleep(0.02)
        await flood
        statuses.add(await there.ask())
        assert statuses == {200}
        assert there.worst_s < 0.1


async def test_s03_more_connections_than_there_is_room_for(tmp_path: Path) -> None:
    """One address opens many times as many as we take: a probe of another is answered, and we keep few."""
    async with house(tmp_path) as there:
        crowd: list[socket.socket] = []
        try:
            for number in range(3 * door.MOST_CONNECTIONS):
                link = socket.socket()
                link.setblocking(False)
                link.bind(("127.0.0.2", 0))
                crowd.append(link)
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    await asyncio.wait_for(asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", there.port)), 5)
                if number % 100 == 0:
                    assert await there.ask() == 200
            assert await there.ask() == 200
            left = await asyncio.to_thread(_still_open, crowd)
            assert 0 < left <= door.MOST_CONNECTIONS
            assert there.ended.count("crowd") >= 2 * door.MOST_CONNECTIONS
        finally:
            for link in crowd:
                link.close()


def _still_open(links: list[socket.socket]) -> int:
    found = 0
    for link in links:
        link.settimeout(0.001)
        try:
            found += link.recv(1) != b""
        except TimeoutError:
            found += 1
        except OSError:
            continue
    return found


async def test_s03_alertmanager_keeps_its_connection_in_a_crowd(tmp_path: Path) -> None:
    """Whoever has few connections loses none while somebody else has many, even if that one came first."""
    async with house(tmp_path) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port, local_addr=("127.0.0.3", 0))
        body = b'{"version": "4", "alerts": []}'
        crowd = []
        for _ in range(2 * door.MOST_CONNECTIONS):
            with contextlib.suppress(ConnectionError):
                crowd.append(await asyncio.open_connection("127.0.0.1", there.port, local_addr=("127.0.0.2", 0)))
        writer.write(request(body, f"Authorization: Bearer {TOKEN}"))
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readline()).split()[1] == b"200"
        for _, link in [*crowd, (reader, writer)]:
            link.close()


@pytest.mark.parametrize(
    ("descriptors", "room"), [(64, 16), (200, 72), (1024, 256), (1 << 30, 256), (resource.RLIM_INFINITY, 256)]
)
def test_s03_connections_leave_descriptors_for_our_own_work(descriptors: int, room: int) -> None:
    """Files, the API server, Alertmanager and Prometheus need some too."""
    assert door.room_for(descriptors) == room


@pytest.mark.parametrize(
    "begin", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-"]
)
async def test_s03_who_asks_nothing_is_shown_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    """A head that never ends is as good as none: the connection ends at the deadline."""
    monkeypatch.setattr(door, "ASK_DEADLINE_S", 0.2)
    async with house(tmp_path) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(begin)
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(PATIENCE_S):
                assert await reader.read() == b""
        writer.close()
        assert there.ended == ["silent"]


async def test_s03_a_slow_body_of_a_person_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who may approve dribbles their body: 408 at the deadline."""
    monkeypatch.setattr(people, "BODY_DEADLINE_S", 0.1)

    class Everybody:
        async def review(self, path: str, body: object) -> dict[str, object]:
            return {"status": {"authenticated": True, "user": {"username": "ann"}, "allowed": True}}

    async with house(tmp_path, reviewer=Everybody()) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        head = b"POST /v1/cases/x/hold HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nContent-Length: 9\r\n\r\n{"
        writer.write(head)
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readline()).split()[1] == b"408"
        writer.close()


async def test_s03_slow_bodies_of_the_webhook_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many slow bodies as may be under way leave probes answered, and new deliveries are told to come again."""
    monkeypatch.setattr(webhook, "MOST_UNDER_WAY", 4)
    async with house(tmp_path) as there:
        slow = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
            writer.write(f"POST /webhook HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 9\r\n\r\n{{".encode())
            slow.append((reader, writer))

        async def status() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
            writer.write(request(b'{"version": "4", "alerts": []}', AUTHORIZED.strip()))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return (await reader.readline()).split()[1]
            finally:
                writer.close()

        for _ in range(500):  # until all four are being read
            if await status() == b"503":
                break
        else:
            raise AssertionError("a fifth was taken")
        assert await there.ask() == 200
        for _, writer in slow:
            writer.close()
