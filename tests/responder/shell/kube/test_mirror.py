"""The watch cache against a scripted API server on loopback: every turn that the protocol can take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from gpuheal_responder.errors import ObserveError
from gpuheal_responder.shell.kube.api import Api
from gpuheal_responder.shell.kube.mirror import BURIED_S, Mirror, WatchSettings, pause

Json = dict[str, Any]
PATH = "/api/v1/nodes"
DEADLINE_S = 10.0


def thing(name: str, version: int, value: str = "") -> Json:
    """An object of the watched resource."""
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "value": value}


def gone() -> Json:
    """The event that says that our version is too old."""
    return {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}


class Script:
    """A server that answers LISTs and WATCHes as told, one entry per request; the last watch stays open."""

    def __init__(self) -> None:
        self.lists: list[Json | int] = []
        self.watches: list[list[Json | bytes] | int] = []
        self.asked: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append(dict(request.query))
        if "watch" not in request.query:
            page = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
            return web.json_response({"code": page}, status=page) if isinstance(page, int) else web.json_response(page)
        last = len(self.watches) == 1
        events = self.watches[0] if last else self.watches.pop(0)
        if isinstance(events, int):
            return web.json_response({"code": events}, status=events)
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write(event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n")
        if last:
            await asyncio.sleep(DEADLINE_S)
        return response

    @property
    def watched_from(self) -> list[str]:
        """The versions that watches began at."""
        return [query["resourceVersion"] for query in self.asked if "watch" in query]


def page(version: int, *items: Json, token: str = "") -> Json:
    """One page of a list."""
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}


class Hands:
    """A monotonic clock that can be moved ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


Follow = Callable[..., Awaitable[Mirror[str]]]


@pytest.fixture
def script() -> Script:
    """What the server will say."""
    return Script()


@pytest.fixture
def hands() -> Hands:
    """The mirror's clock."""
    return Hands()


@pytest.fixture
async def follow(script: Script, hands: Hands) -> AsyncIterator[Follow]:
    """`await follow()` is a mirror of the scripted server's objects by name; those without value are not kept."""
    app = web.Application()
    app.router.add_get(PATH, script.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api = Api(ApiClient(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")))
    made: list[Mirror[str]] = []

    async def start(**settings: Any) -> Mirror[str]:
        mirror = Mirror(api, PATH, lambda raw, _: raw["value"] or None, settings=WatchSettings(**settings), clock=hands)
        made.append(mirror)
        mirror.start()
        return mirror

    yield start
    for mirror in made:
        await mirror.stop()
    await api.close()
    await runner.cleanup()


async def until(check: Callable[[], object]) -> None:
    """The check is true, within the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not check():  # noqa: ASYNC110  # the other side is a server
            await asyncio.sleep(0.01)


async def test_pages_become_one_picture_all_at_once(script: Script, follow: Follow) -> None:
    """Nothing is told before the last page; then all that `read` keeps is there."""
    script.lists = [page(5, thing("a", 1, "x"), token="t1"), page(5, thing("b", 2, "y"), thing("c", 3))]
    script.watches = [[]]
    mirror = await follow(page=1)
    with pytest.raises(ObserveError, match="not listed yet"):
        mirror.items()
    await mirror.wait_synced(timedelta(seconds=DEADLINE_S))
    assert mirror.items() == {"a": "x", "b": "y"}
    assert [q.get("continue") for q in script.asked[:2]] == [None, "t1"]
    assert all("resourceVersion" not in q for q in script.asked[:2])


async def test_events_move_the_picture_and_the_version(script: Script, follow: Follow) -> None:
    """Added, modified, deleted and no longer wanted objects; the next watch begins at the bookmark."""
    script.lists = [page(5, thing("a", 1, "x"), thing("b", 2, "y"), thing("d", 3, "z"))]
    script.watches = [
        [
            {"type": "ADDED", "object": thing("c", 6, "new")},
            {"type": "MODIFIED", "object": thing("a", 7, "changed")},
            {"type": "DELETED", "object": thing("b", 8, "y")},
            {"type": "MODIFIED", "object": thing("d", 9)},
            {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "40"}}},
        ],
        [],
    ]
    mirror = await follow()
    await until(lambda: script.watched_from == ["5", "40"])
    assert mirror.items() == {"a": "changed", "c": "new"}
    assert mirror.lists == 1


@pytest.mark.parametrize("refusal", [[gone()], 410])
async def test_gone_leads_to_one_new_list(script: Script, follow: Follow, refusal: Any) -> None:
    """410 as an event or as a status: listed again, and what vanished meanwhile is gone."""
    script.lists = [page(5, thing("a", 1, "x"), thing("b", 2, "y")), page(50, thing("a", 30, "late"))]
    script.watches = [refusal, []]
    mirror = await follow()
    await until(lambda: script.watched_from == ["5", "50"])
    assert mirror.items() == {"a": "late"}
    assert mirror.lists == 2


async def test_a_list_whose_token_expired_begins_anew(script: Script, follow: Follow) -> None:
    """410 between pages is no reason to keep half a picture."""
    script.lists = [page(5, thing("a", 1, "x"), token="t1"), 410, page(9, thing("b", 8, "y"))]
    script.watches = [[]]
    mirror = await follow()
    await mirror.wait_synced(timedelta(seconds=DEADLINE_S))
    assert mirror.items() == {"b": "y"}


@pytest.mark.parametrize(
    "broken", [500, 429, [b"{not json}\n"], [{"type": "ERROR", "object": {"code": 500, "message": "m"}}]]
)
async def test_a_broken_watch_is_taken_up_where_it_ended(script: Script, follow: Follow, broken: Any) -> None:
    """Refusals, garbage and error events lose nothing and list nothing again."""
    script.lists = [page(5, thing("a", 1, "x"))]
    script.watches = [
        [{"type": "MODIFIED", "object": thing("a", 6, "y")}],
        broken,
        [{"type": "MODIFIED", "object": thing("a", 7, "z")}],
    ]
    mirror = await follow()
    await until(lambda: mirror.peek("a") == "z")
    assert script.watched_from[:3] == ["5", "6", "6"]
    assert mirror.lists == 1


async def test_half_a_line_is_no_event(script: Script, follow: Follow) -> None:
    """An event cut in the middle, and one that comes in two pieces."""
    whole = json.dumps({"type": "MODIFIED", "object": thing("a", 6, "y")}).encode()
    script.lists = [page(5, thing("a", 1, "x"))]
    script.watches = [[whole[:20]], [whole[:20], whole[20:] + b"\n"]]
    mirror = await follow()
    await until(lambda: mirror.peek("a") == "y")
    assert script.watched_from[:2] == ["5", "5"]


async def test_our_own_write_is_not_undone_by_older_news(script: Script, follow: Follow) -> None:
    """The answer to a write counts at once; events and lists from before it do not take it back."""
    script.lists = [page(5, thing("a", 1, "x")), page(6, thing("a", 1, "x"))]
    script.watches = [[]]
    mirror = await follow()
    await mirror.wait_synced(timedelta(seconds=DEADLINE_S))
    mirror.put("a", "20", "ours")
    mirror.put("a", "19", "older answer")
    mirror.put("b", "21", "created by us")
    script.watches = [[{"type": "MODIFIED", "object": thing("a", 10, "older")}, gone()], []]
    await mirror.stop()
    mirror.start()
    await until(lambda: mirror.lists == 2)
    assert mirror.items() == {"a": "ours", "b": "created by us"}


async def test_silence_makes_the_picture_unbelievable(script: Script, follow: Follow, hands: Hands) -> None:
    """An open watch that has said nothing for longer than allowed: ObserveError with the age."""
    script.lists = [page(5, thing("a", 1, "x"))]
    script.watches = [[]]
    mirror = await follow(max_silence=timedelta(seconds=90))
    await mirror.wait_synced(timedelta(seconds=DEADLINE_S))
    hands.ahead = 80
    assert mirror.items() == {"a": "x"}
    hands.ahead = 100
    with pytest.raises(ObserveError, match="no data for 1m40s"):
        mirror.items()
    assert mirror.lag >= timedelta(seconds=100)


async def test_a_reader_that_fails_is_not_hidden(script: Script, follow: Follow) -> None:
    """An object that breaks our own reading ends following, and says so instead of giving an old picture."""
    script.lists = [page(5, thing("a", 1, "x"))]
    script.watches = [[{"type": "ADDED", "object": {"metadata": {"name": "b", "resourceVersion": "6"}}}], []]
    mirror = await follow()
    (task,) = mirror.start()
    with pytest.raises(KeyError):
        await task
    with pytest.raises(ObserveError, match="ended"):
        mirror.items()
    await mirror.stop()


@pytest.mark.parametrize("failures", [1, 2, 3, 6, 7, 40])
def test_failures_are_spaced_out(failures: int) -> None:
    """Pauses double from a tenth of a second to five seconds, give or take a fifth, and Retry-After is the least."""
    expected = min(0.1 * 2 ** (failures - 1), 5)
    assert 0.8 * expected <= pause(failures, None) <= 1.2 * expected
    assert pause(failures, timedelta(seconds=30)) >= 24


async def test_a_late_answer_does_not_revive_the_dead(script: Script, follow: Follow) -> None:
    """After a deletion heard of, an earlier answer changes nothing; a new object of the name lives."""
    script.lists = [page(5, thing("a", 1, "x"), thing("b", 2, "y"))]
    script.watches = [[{"type": "DELETED", "object": thing("a", 9, "x")}], []]
    mirror = await follow()
    await until(lambda: mirror.seen("9"))
    for version in ("1", "8", "9"):
        mirror.put("a", version, "late")
    assert mirror.items() == {"b": "y"}
    mirror.put("a", "12", "another")
    assert mirror.peek("a") == "another"


async def test_what_we_deleted_stays_deleted_for_older_news(script: Script, follow: Follow) -> None:
    """A list that was begun before our DELETE, and events from before it, bring nothing back."""
    script.lists = [page(5, thing("a", 4, "x"), token="t1"), page(5, thing("b", 2, "y"))]
    script.watches = [[]]
    mirror = await follow(page=1)
    await mirror.wait_synced(timedelta(seconds=DEADLINE_S))
    mirror.drop("a")
    mirror._event({"type": "MODIFIED", "object": thing("a", 3, "older")})
    script.lists = [page(5, thing("a", 4, "x"))]
    await mirror._list()
    assert mirror.items() == {}


async def test_what_a_list_does_not_have_is_buried(script: Script, follow: Follow) -> None:
    """An object that vanished while the watch was away is not brought back by an answer from its lifetime."""
    script.lists = [page(5, thing("a", 1, "x")), page(50)]
    script.watches = [[gone()], []]
    mirror = await follow()
    await until(lambda: mirror.lists == 2)
    mirror.put("a", "49", "late")
    assert mirror.items() == {}


async def test_tombstones_end(script: Script, follow: Follow, hands: Hands) -> None:
    """They are kept longer than any answer can take, and not for ever."""
    script.lists = [page(5, thing("a", 1, "x"), thing("b", 2, "y"))]
    script.watches = [[]]
    mirror = await follow()
    await mirror.wait_synced(timedelta(seconds=DEADLINE_S))
    mirror.drop("a")
    assert list(mirror._buried) == ["a"]
    hands.ahead = BURIED_S + 1
    mirror.drop("b")
    assert list(mirror._buried) == ["b"]


async def test_seen_tells_how_far_the_watch_is(script: Script, follow: Follow) -> None:
    """A version is seen once the list, an event or a bookmark has reached it; our own write proves nothing."""
    script.lists = [page(5, thing("a", 1, "x"))]
    script.watches = [[{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "40"}}}], []]
    mirror = await follow()
    assert not mirror.seen("1")
    await until(lambda: mirror.seen("40"))
    mirror.put("a", "41", "ours")
    assert not mirror.seen("41")
    mirror._event({"type": "MODIFIED", "object": thing("b", 12, "late news")})
    assert mirror.seen("40")


async def test_catching_up_waits_for_the_watch_or_lists(
    script: Script, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new leader asks how far the server is; a watch that stays behind is overtaken by a list."""
    monkeypatch.setattr("gpuheal_responder.shell.kube.mirror.CATCH_UP", timedelta(milliseconds=50))
    script.lists = [page(5, thing("a", 1, "x"))]
    script.watches = [[]]
    mirror = await follow()
    await mirror.wait_synced(timedelta(seconds=DEADLINE_S))
    await mirror.catch_up()
    assert mirror.lists == 1
    script.lists = [page(30, thing("a", 20, "marked"))]
    await mirror.catch_up()
    assert (mirror.items(), mirror.lists) == ({"a": "marked"}, 2)
    assert mirror.seen("30")
    mirror._event({"type": "MODIFIED", "object": thing("a", 12, "late news")})
    assert mirror.items() == {"a": "marked"}
