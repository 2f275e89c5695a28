"""S04: made-up tokens keep nobody out, and real ones never cross a network in the clear."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web
from tests.responder.shell.standins import Crowd
from tests.safety.strangers.conftest import house

from gpuheal_responder.commands.remote import checked
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.http import admission
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.door import source_of
from gpuheal_responder.shell.kube.review import SCRAPE, Denial, Person


class Reviews:
    """An API server that knows tokens that begin with `good`, takes 20 ms, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.at_once = 0
        self.most = 0

    async def review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer both kinds of review."""
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.02)
        self.at_once -= 1
        known = str(body["spec"].get("token", "")).startswith("good") or body["spec"].get("user") == "ann"
        return {"status": {"authenticated": known, "user": {"username": "ann"}, "allowed": known}}


async def test_s04_junk_tokens_keep_nobody_out(tmp_path: Path) -> None:
    """One address shows a new junk token with every request: others come in at once, the API server sees few of them.

    Who has been admitted before comes in from the flooding address as well.
    """
    reviews = Reviews()
    async with house(tmp_path, reviewer=reviews) as there:
        assert await there.ask("/metrics", head="Authorization: Bearer good-before\r\n", source="127.0.0.2") == 200
        began, stop = time.monotonic(), asyncio.Event()
        junk: Counter[int] = Counter()

        async def flood(number: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                head = f"Authorization: Bearer junk-{number}-{count}\r\n"
                junk[await there.ask("/v1/cases", head=head, source="127.0.0.2")] += 1

        floods = [asyncio.create_task(flood(number)) for number in range(60)]
        await asyncio.sleep(0.5)
        answers: list[tuple[int, float]] = []
        for number in range(20):
            head = f"Authorization: Bearer good-{number}\r\n"
            answers.append(await there.timed("/metrics", head=head, source=f"127.0.0.{10 + number}"))
            known = "Authorization: Bearer good-before\r\n"
            assert await there.ask("/metrics", head=known, source="127.0.0.2") == 200
        stop.set()
        await asyncio.gather(*floods)
        took = time.monotonic() - began
        assert {status for status, _ in answers} == {200}
        assert max(seconds for _, seconds in answers) < admission.WAIT_DEADLINE_S
        assert set(junk) <= {401, 503}
        mine = 2 * (1 + len(answers))
        assert reviews.asked <= mine + admission.BURST + admission.REVIEWS_PER_S * (took + 1)
        assert reviews.most <= 2 * admission.AT_ONCE


async def test_s04_many_addresses_share_what_there_is(tmp_path: Path) -> None:
    """Two hundred addresses with one junk token each are no crowd that a newcomer can't get through."""
    reviews = Reviews()
    async with house(tmp_path, reviewer=reviews) as there:

        async def stranger(number: int) -> int:
            source = f"127.0.{1 + number // 200}.{1 + number % 200}"
            return await there.ask("/metrics", head=f"Authorization: Bearer junk{number}\r\n", source=source)

        crowd = [asyncio.create_task(stranger(number)) for number in range(200)]
        await asyncio.sleep(0.05)
        for _ in range(50):
            if await there.ask("/metrics", head="Authorization: Bearer good\r\n") == 200:
                break
        else:
            raise AssertionError("never admitted")
        assert set(await asyncio.gather(*crowd)) <= {401, 503}
        assert await there.ask() == 200


async def test_s04_a_turn_is_given_back_however_it_ends(tmp_path: Path) -> None:
    """Reviews that fail, callers that leave and deadlines leak no turn: afterwards as many get in as before."""

    class Failing(Reviews):
        async def review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
            await asyncio.sleep(0.001)
            raise RuntimeError("broken")

    queue = admission.Queue()

    async def one(source: str, *, fail: bool) -> None:
        async with queue.turn(source):
            await asyncio.sleep(0.001)
            if fail:
                raise RuntimeError("broken")

    for turn in range(5):
        tasks = [asyncio.create_task(one(str(n % 3), fail=n % 2 == 0)) for n in range(30)]
        await asyncio.sleep(0.001 * turn)
        for task in tasks[::4]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert queue._inside == 0
    async with asyncio.timeout(10):
        await asyncio.gather(*(one("x", fail=False) for _ in range(admission.AT_ONCE)))


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (("10.0.0.1", 1), "10.0.0.1"),
        (("::ffff:10.0.0.1", 1, 0, 0), "10.0.0.1"),
        (("2001:db8:1:2:3::4", 1, 0, 0), "2001:db8:1:2::"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::"),
        ("", ""),
        (None, ""),
    ],
)
def test_s04_a_machine_counts_once(address: object, source: str) -> None:
    """An IPv6 machine has a /64 to itself: all its addresses are one source."""
    assert source_of(address) == source


async def test_s04_kubernetes_tokens_do_not_cross_a_network_in_the_clear(tmp_path: Path) -> None:
    """Plain HTTP from elsewhere is refused before the token is looked at, unless the site says so; loopback is here.

    The socket that is no loopback here is a Unix one.
    """
    crowd = Crowd({"t": ("ann", frozenset({SCRAPE}))})
    found: list[Person | Denial] = []
    for over_http in (False, True):
        made = Admission(crowd, over_http=over_http)

        async def answer(request: web.Request, made: Admission = made) -> web.Response:
            found.append(await made.admit(request, SCRAPE))
            return web.Response()

        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        path = str(tmp_path / f"socket-{over_http}")
        await web.UnixSite(runner, path).start()
        async with ClientSession(connector=UnixConnector(path)) as session:
            await session.get("http://x/", headers={"Authorization": "Bearer t"})
        await runner.cleanup()
    refused, taken = found
    assert isinstance(refused, Denial)
    assert refused.status == 426
    assert "plain HTTP" in refused.message
    assert taken == Person(name="ann")


@pytest.mark.parametrize(
    "url",
    [
        "http://gpuheal:9940",
        "http://10.0.0.1:9940",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://[2001:db8::1]:9940",
        "https://",
        "https://user@gpuheal",
        "https://gpuheal/?x=1",
        "ftp://gpuheal",
        "gpuheal:9940",
        "",
        "http://[::1",
    ],
)
def test_s04_a_person_is_kept_from_showing_a_token_in_the_clear(url: str) -> None:
    """The command refuses before it connects."""
    with pytest.raises(ConfigError, match="--server"):
        checked(url)


@pytest.mark.parametrize(
    "url",
    ["https://gpuheal:9940", "https://gpuheal/prefix", "http://127.0.0.1:9940", "http://localhost:1", "http://[::1]:1"],
)
def test_s04_tls_and_a_port_forward_are_fine(url: str) -> None:
    """`kubectl port-forward` listens on this machine and goes on under TLS."""
    assert checked(f"{url}/") == url
