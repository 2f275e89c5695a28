"""Which Prometheus answers, and how it is: one server behind one name, and a pipeline that can be believed."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.responder.shell.scripted import NOW, MakeScript, StillClock, no_problem
from tests.responder.shell.sources.scripted_prometheus import INFO, QUERY, T, prometheus, source_at, vector

from gpuheal_responder.config.settings import PrometheusServer
from gpuheal_responder.errors import ObserveError
from gpuheal_responder.shell.sources.prometheus import PrometheusEvidence


def running(started: float) -> dict[str, Any]:
    """The page of runtime information of a server that started so long after the hour."""
    at = datetime.fromtimestamp(T - 3600 + started, UTC).isoformat()
    return {"status": "success", "data": {"startTime": at}}


@pytest.mark.parametrize("turns", [("a", "b"), ("a", "b", "b"), ("a", "a", "b"), ("a", "a", "a", "a", "b", "b", "b")])
async def test_s10_two_servers_behind_one_name_give_no_evidence(make_script: MakeScript, turns: Sequence[str]) -> None:
    """A balancer that spreads requests: within two looks at the latest it is noticed, and nothing is evidence."""
    script, _ = await prometheus(make_script, {})
    pages = {"a": running(0), "b": running(60)}
    asked = iter(turns * 20)
    script.answers[INFO] = lambda _: pages[next(asked)]
    source = await source_at(script)
    problems = []
    for _ in range(2):
        try:
            await source.read({"n1"})
        except ObserveError as problem:
            problems.append(str(problem))
    await source.close()
    assert problems
    assert (
        "another Prometheus server answered" in problems[-1] or "two servers answer under one host name" in problems[-1]
    )


async def test_s10_a_server_that_is_started_anew_is_heard(make_script: MakeScript) -> None:
    """Between two looks it may be another one that was never there before; one that comes back is two servers."""
    script, _ = await prometheus(make_script, {})
    source = await source_at(script)
    for started in (0.0, 0.0, 60.0, 60.0):
        script.answers[INFO] = running(started)
        assert await source.read({"n1"})
    script.answers[INFO] = running(0.0)
    with pytest.raises(ObserveError, match="two servers answer under one host name"):
        await source.read({"n1"})
    assert await source.read({"n1"})
    await source.close()


async def test_s10_time_does_not_go_back(make_script: MakeScript) -> None:
    """A time before the last look's is another server's: that look is lost, the next one counts from there."""
    script, _ = await prometheus(make_script, {})
    times = iter([T, T - 2, T - 1])
    server = script.answers[QUERY]
    assert callable(server)

    def answer(fields: Mapping[str, list[str]]) -> object:
        if fields["query"] == ["time()"]:
            return {"status": "success", "data": {"resultType": "scalar", "result": [T, f"{next(times):.3f}"]}}
        return server(fields)

    script.answers[QUERY] = answer
    source = await source_at(script)
    assert await source.read({"n1"})
    with pytest.raises(ObserveError, match=r"went back by 2\.000s"):
        await source.read({"n1"})
    assert await source.read({"n1"})
    await source.close()


async def test_s10_one_look_goes_over_one_connection(make_script: MakeScript) -> None:
    """A balancer of connections gives all of a look to one of two servers, and the next look too."""
    scripts = [(await prometheus(make_script, {}))[0] for _ in range(2)]
    for number, script in enumerate(scripts):
        script.answers[INFO] = running(number)
    async with spread(*(int(script.url.rsplit(":", 1)[1]) for script in scripts)) as port:
        source = PrometheusEvidence(
            PrometheusServer(url=f"http://127.0.0.1:{port}"),
            window=timedelta(minutes=10),
            on_problem=no_problem,
            on_ignored=no_problem,
        )
        for _ in range(3):
            assert await source.read({f"n{number}" for number in range(250)})
            await source.pipeline(StillClock())
        await source.close()
    assert sorted(bool(script.asked) for script in scripts) == [False, True]


@asynccontextmanager
async def spread(*ports: int) -> AsyncIterator[int]:
    """A balancer that gives every connection to the next of these ports; its own port."""
    turn = itertools.cycle(ports)
    ends: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", next(turn))
        for one in (carry(reader, there[1]), carry(there[0], writer)):
            task = asyncio.create_task(one)
            ends.add(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await asyncio.gather(*ends, return_exceptions=True)


async def test_a_well_pipeline_has_no_reason_to_freeze(make_script: MakeScript) -> None:
    """A Prometheus that runs for long, in step with our clock and without failures, says nothing."""
    script, server = await prometheus(make_script, {})
    script.answers[INFO] = {"status": "success", "data": {"startTime": "2026-03-01T11:00:00.123456789Z"}}
    source = await source_at(script, job='pro"m')
    assert await source.pipeline(StillClock()) == ""
    await source.close()
    ((expression, _),) = server.asked
    assert expression.count('job="pro\\"m"') == 5


async def test_a_freshly_started_prometheus_freezes(make_script: MakeScript) -> None:
    """Less than `settle` after its start Prometheus says so."""
    script, _ = await prometheus(make_script, {})
    script.answers[INFO] = {"status": "success", "data": {"startTime": "2026-03-01T11:59:00Z"}}
    source = await source_at(script)
    assert await source.pipeline(StillClock()) == "prometheus-settling: it started 1m ago"
    await source.close()


async def test_failures_of_the_pipeline_are_named(make_script: MakeScript) -> None:
    """Rule failures and dropped notifications are reasons; a server without a runtime page is judged by its metrics."""
    problems = vector(({"problem": "rule-failures"}, 3), ({"problem": "notifications-dropped"}, 12))
    script, _ = await prometheus(make_script, {"label_replace": problems})
    source = await source_at(script)
    assert await source.pipeline(StillClock()) == "notifications-dropped: 12; rule-failures: 3"
    await source.close()


@pytest.mark.parametrize(("seconds", "frozen"), [(4, False), (-4, False), (6, True), (-6, True)])
async def test_clocks_apart_freeze(make_script: MakeScript, seconds: int, frozen: bool) -> None:
    """More than 5 s between Prometheus' clock and ours make ages and watermarks meaningless."""
    script, _ = await prometheus(make_script, {})
    source = await source_at(script)
    found = await source.pipeline(StillClock(NOW + timedelta(seconds=seconds)))
    await source.close()
    assert bool(re.match("prometheus-skew: its clock is off by [+-]6.0s", found)) is frozen


async def test_an_unreadable_prometheus_freezes(make_script: MakeScript) -> None:
    """If it can't be asked how it is, it isn't well."""
    script = await make_script()
    source = await source_at(script)
    assert (await source.pipeline(StillClock())).startswith("prometheus-unreadable: HTTP 404")
    await source.close()
