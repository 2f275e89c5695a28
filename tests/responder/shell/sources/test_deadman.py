"""When the pipeline is trusted, and when somebody outside is told that all is well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from tests.responder.shell.scripted import NOW, StillClock
from tests.responder.stage import Stage

from gpuheal_lab.fleet import injection
from gpuheal_responder.shell.sources.deadman import Pipeline, Wellbeing, ping_while_well

MINUTE = timedelta(minutes=1)


async def fine() -> str:
    """A Prometheus without trouble."""
    return ""


def pipeline(clock: StillClock) -> Pipeline:
    """A pipeline that expects a beat a minute and thaws after five."""
    return Pipeline(clock=clock, interval=MINUTE, thaw=5 * MINUTE, prometheus=fine)


async def test_s10_three_silent_intervals_freeze_and_it_thaws_after_a_quiet_time() -> None:
    """Up to three intervals are fine; then it is frozen, and for the thaw time after the next beat."""
    clock = StillClock()
    path = pipeline(clock)
    path.beat(clock.at)
    clock.at += 3 * MINUTE
    assert await path.frozen() == ""
    clock.at += timedelta(seconds=1)
    assert (await path.frozen()).startswith("watchdog-silent")
    path.beat(clock.at)
    assert (await path.frozen()).startswith("thawing: recovering from watchdog-silent")
    clock.at += 2 * MINUTE
    path.beat(clock.at)
    clock.at += 3 * MINUTE
    assert await path.frozen() == ""


async def test_s10_a_beat_from_the_future_counts_as_now() -> None:
    """An Alertmanager whose clock is ahead, or a forger, does not keep us thawed for ever."""
    clock = StillClock()
    path = pipeline(clock)
    path.beat(clock.at + timedelta(days=365))
    clock.at += 3 * MINUTE + timedelta(seconds=1)
    assert (await path.frozen()).startswith("watchdog-silent")


async def test_s10_an_old_list_is_no_beat() -> None:
    """Looking again and again at the same time of arrival does not renew it."""
    clock = StillClock()
    path, arrived = pipeline(clock), clock.at
    for _ in range(4):
        path.beat(arrived)
        clock.at += MINUTE
    assert (await path.frozen()).startswith("watchdog-silent")


async def test_a_new_leader_waits_for_its_first_beat_without_a_thaw() -> None:
    """A follower hears none: when it comes to lead, the silence before says nothing."""
    clock = StillClock()
    path = pipeline(clock)
    path.beat(clock.at)
    clock.at += 60 * MINUTE
    path.begin()
    assert (await path.frozen()).startswith("watchdog-awaited")
    path.beat(clock.at)
    assert await path.frozen() == ""


def wellbeing(stage: Stage, path: Pipeline) -> Wellbeing:
    """What the stage's engine can tell about all being well."""
    return Wellbeing(
        clock=stage.sim.clock,
        leads=lambda: stage.leads,
        looked_at=lambda: stage.engine.looked_at,
        patience=MINUTE,
        pipeline=path,
    )


async def test_s10_nobody_who_does_not_lead_says_that_all_is_well() -> None:
    """A follower's rounds end well because they do nothing; if nobody leads, nobody speaks."""
    stage = Stage()
    path = Pipeline(clock=stage.sim.clock, interval=MINUTE, thaw=timedelta(0), prometheus=fine)
    path.beat(stage.sim.now())
    well = wellbeing(stage, path)
    stage.leads = False
    assert await stage.engine._safe_round()
    assert "not the leader" in await well.lacking()
    stage.leads = True
    stage.advance()
    assert "no round" in await well.lacking()
    assert await stage.engine._safe_round()
    assert await well.lacking() == ""


async def test_s10_rounds_that_fail_are_not_well() -> None:
    """The leader's last good round may be some looks old, no more; after that somebody outside is to notice."""
    stage = Stage()
    path = Pipeline(clock=stage.sim.clock, interval=MINUTE, thaw=timedelta(0), prometheus=fine)
    well = wellbeing(stage, path)
    await well.lacking()
    assert await stage.engine._safe_round()
    path.beat(stage.sim.now())
    assert await well.lacking() == ""
    stage.sim.gate.fail_next("nodes", injection.unseen(), times=1000)
    stage.advance(61)
    assert not await stage.engine._safe_round()
    path.beat(stage.sim.now())
    assert "last successful round" in await well.lacking()


@pytest.fixture
async def outside() -> AsyncIterator[tuple[str, asyncio.Queue[None]]]:
    """Somebody outside: a URL, and a queue with every ping."""
    pings: asyncio.Queue[None] = asyncio.Queue()

    async def hear(request: web.Request) -> web.Response:
        pings.put_nowait(None)
        return web.Response()

    app = web.Application()
    app.router.add_get("/ping", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/ping", pings
    await runner.cleanup()


async def test_s10_the_url_is_pinged_only_while_nothing_lacks(
    outside: tuple[str, asyncio.Queue[None]], tmp_path: Path
) -> None:
    """Two looks find something, then none does: the first ping comes with the third look."""
    url, pings = outside
    (tmp_path / "url").write_text(url)
    answers = ["ill", "ill", ""]
    asked: list[datetime] = []

    async def lacking() -> str:
        asked.append(NOW)
        return answers.pop(0) if answers else ""

    stop = asyncio.Event()
    pinging = asyncio.create_task(ping_while_well(tmp_path / "url", lacking, timedelta(seconds=0.01), stop))
    await asyncio.wait_for(pings.get(), 10)
    assert len(asked) >= 3
    stop.set()
    await pinging


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://127.0.0.1:1/", "http://\N{SNOWMAN}..x/", "file:///etc"])
async def test_a_bad_url_ends_nothing(tmp_path: Path, url: str) -> None:
    """The task that pings goes on: its end would end the whole responder."""
    (tmp_path / "url").write_text(url)
    stop = asyncio.Event()
    looks = asyncio.Semaphore(0)

    async def lacking() -> str:
        looks.release()
        return ""

    pinging = asyncio.create_task(ping_while_well(tmp_path / "url", lacking, timedelta(seconds=0.01), stop))
    for _ in range(3):
        await asyncio.wait_for(looks.acquire(), 10)
    stop.set()
    await pinging
