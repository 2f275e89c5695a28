"""Evidence from Prometheus: what is asked, how series become evidence, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.responder.shell.scripted import NOW, MakeScript, Script, StillClock, no_problem

from gpuheal_responder.config.settings import PrometheusServer
from gpuheal_responder.core.evidence import confidence
from gpuheal_responder.core.sighting import (
    Confidence,
    GpuHealth,
    HealthSample,
    Identity,
    Strength,
    Witness,
    WitnessClass,
)
from gpuheal_responder.errors import ObserveError
from gpuheal_responder.shell.sources import series
from gpuheal_responder.shell.sources.prometheus import PrometheusEvidence

QUERY = "/api/v1/query"
INFO = "/api/v1/status/runtimeinfo"
T = NOW.timestamp()
WITNESS = {"node": "n1", "gpu_uuid": "GPU-1", "fault": "gpu-fell-off-bus", "class": "kernel"}


def vector(*series: tuple[Mapping[str, str], float | str]) -> dict[str, Any]:
    """An instant vector at T."""
    result = [{"metric": labels, "value": [T, str(value)]} for labels, value in series]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def matrix(*series: tuple[Mapping[str, str], Sequence[tuple[float, int]]]) -> dict[str, Any]:
    """A range vector."""
    result = [{"metric": labels, "values": [[at, str(v)] for at, v in values]} for labels, values in series]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def shaped(series: object) -> dict[str, Any]:
    """An instant vector with a series of any shape."""
    return {"status": "success", "data": {"resultType": "vector", "result": [series]}}


class Prometheus:
    """Answers by the beginning of the expression; keeps the expressions."""

    def __init__(self, answers: Mapping[str, object]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    def __call__(self, fields: Mapping[str, list[str]]) -> object:
        """Answer one query."""
        (expression,) = fields["query"]
        if expression == "time()":
            return {"status": "success", "data": {"resultType": "scalar", "result": [T, f"{T:.3f}"]}}
        self.asked.append((expression, fields["time"][0]))
        found = [answer for start, answer in self.answers.items() if expression.startswith(start)]
        return found[-1] if found else vector()


async def source_at(script: Script, ignored: list[str] | None = None, **server: Any) -> PrometheusEvidence:
    """An evidence source that asks the script."""
    return PrometheusEvidence(
        PrometheusServer(url=script.url, timeout=timedelta(seconds=0.5), **server),
        window=timedelta(minutes=10),
        on_problem=no_problem,
        on_ignored=ignored.append if ignored is not None else no_problem,
    )


async def prometheus(make_script: MakeScript, answers: Mapping[str, object]) -> tuple[Script, Prometheus]:
    """A scripted Prometheus."""
    script, server = await make_script(), Prometheus(answers)
    script.answers[QUERY] = server
    return script, server


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
    assert "another server answered" in problems[-1] or "two servers answer under one name" in problems[-1]


async def test_s10_a_server_that_is_started_anew_is_heard(make_script: MakeScript) -> None:
    """Between two looks it may be another one that was never there before; one that comes back is two servers."""
    script, _ = await prometheus(make_script, {})
    source = await source_at(script)
    for started in (0.0, 0.0, 60.0, 60.0):
        script.answers[INFO] = running(started)
        assert await source.read({"n1"})
    script.answers[INFO] = running(0.0)
    with pytest.raises(ObserveError, match="two servers answer under one name"):
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
    with pytest.raises(ObserveError, match=r"went back by 2\.000 s"):
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


async def test_a_look_as_a_whole_ends_in_time(make_script: MakeScript) -> None:
    """Every query by itself is fast enough, but there are too many of them."""
    script, _ = await prometheus(make_script, {})
    script.slow_s = 0.1
    source = PrometheusEvidence(
        PrometheusServer(url=script.url, timeout=timedelta(seconds=0.15)),
        window=timedelta(minutes=10),
        on_problem=no_problem,
        on_ignored=no_problem,
    )
    with pytest.raises(ObserveError, match=r"no whole answer within 0\.9 s"):
        await source.read({f"n{number}" for number in range(1000)})
    await source.close()


async def test_series_become_evidence(make_script: MakeScript) -> None:
    """Witnesses carry when they last saw and how old the sample is; identities and states come by GPU, oldest first."""
    node_wide = {"node": "n1", "fault": "gpu-fell-off-bus", "class": "kubernetes"}
    answers = {
        "gpuheal:fault_witness": vector((WITNESS, T - 90), (node_wide, T)),
        "time() - timestamp": vector((WITNESS, 4.5), (node_wide, 0)),
        "gpuheal:gpu_identity and": vector(
            ({"node": "n1", "gpu_uuid": "GPU-1", "source": "exporter"}, 1),
            ({"node": "n1", "gpu_uuid": "GPU-1", "source": "dcgm"}, 1),
        ),
        "gpuheal:gpu_identity{": vector(({"node": "n2", "gpu_uuid": "GPU-2", "source": "dcgm"}, 1)),
        "max by (node) (gpuheal_node_boot": vector(({"node": "n2"}, T - 60)),
        "gpuheal:gpu_state": matrix(({"node": "n2", "gpu_uuid": "GPU-2"}, [(T - 15, 4), (T, 0)])),
    }
    script, _ = await prometheus(make_script, answers)
    source = await source_at(script)
    found = await source.read({"n2", "n3"})
    await source.close()
    assert (found["n2"].booted_at, found["n3"].booted_at) == (NOW - timedelta(seconds=60), None)
    assert list(found) == ["n1", "n2", "n3"]
    assert found["n1"].at == NOW
    assert found["n1"].witnesses == (
        Witness(
            fault="gpu-fell-off-bus",
            gpu_uuid=None,
            witness_class=WitnessClass.KUBERNETES,
            last_seen_at=NOW,
        ),
        Witness(
            fault="gpu-fell-off-bus",
            gpu_uuid="GPU-1",
            witness_class=WitnessClass.KERNEL,
            last_seen_at=NOW - timedelta(seconds=90),
            sample_age=timedelta(seconds=4.5),
        ),
    )
    assert found["n1"].identities == (
        Identity(gpu_uuid="GPU-1", source="dcgm"),
        Identity(gpu_uuid="GPU-1", source="exporter"),
    )
    at = datetime.fromtimestamp(T - 15, UTC)
    assert found["n2"].health == (
        GpuHealth(gpu_uuid="GPU-2", samples=(HealthSample(at=at, state=4), HealthSample(at=NOW, state=0))),
    )
    assert found["n3"].identities == ()


@pytest.mark.parametrize(
    ("told", "slot"),
    [
        ("0000:1b:00", "0000:1b:00"),
        ("00000000:1B:00.0", "0000:1b:00"),
        ("1b:00.0", "0000:1b:00"),
        ("0001:01:00", "0001:01:00"),
        ("", ""),
        ("slot 3", ""),
    ],
)
def test_a_slot_has_one_form_whoever_tells_it(told: str, slot: str) -> None:
    """NVML, DCGM and the kernel write one PCI address in three ways."""
    assert series._slot(told) == slot


async def test_all_queries_are_of_one_moment_and_few(make_script: MakeScript) -> None:
    """Whatever the fleet's size there are three queries, plus three per 100 nodes whose health is asked for."""
    script, server = await prometheus(make_script, {})
    source = await source_at(script)
    await source.read([f"n{i}" for i in range(101)])
    await source.close()
    assert len(server.asked) == 3 + 3 * 2
    assert {moment for _, moment in server.asked} == {f"{T:.3f}"}


async def test_node_names_are_escaped_and_only_dns_names_asked(make_script: MakeScript) -> None:
    """A dot is matched as a dot, and what is no DNS-1123 name never gets into a query; it is still a key."""
    ignored: list[str] = []
    script, server = await prometheus(make_script, {})
    source = await source_at(script, ignored)
    bad = ['n"} or vector(1) #', "n|.*", "N1", "a..b", "-a", "x" * 254, ""]
    found = await source.read(["ip-10-0-0-1.ec2.internal", *bad])
    await source.close()
    states = [expression for expression, _ in server.asked if expression.startswith("gpuheal:gpu_state")]
    assert states == ['gpuheal:gpu_state{node=~"ip-10-0-0-1[.]ec2[.]internal"}[10m]']
    assert ignored == ["node-name"] * len(bad)
    assert found.keys() == {"ip-10-0-0-1.ec2.internal", *bad}


@pytest.mark.parametrize(
    ("labels", "seen", "age", "slug"),
    [
        ({**WITNESS, "class": "astrology"}, T, 0.0, "witness-labels"),
        ({k: v for k, v in WITNESS.items() if k != "node"}, T, 0.0, "witness-labels"),
        (WITNESS, "NaN", 0.0, "witness-value"),
        (WITNESS, "+Inf", 0.0, "witness-value"),
        (WITNESS, 1e300, 0.0, "witness-value"),
        (WITNESS, T, "NaN", "witness-value"),
    ],
)
async def test_a_witness_that_breaks_the_contract_is_none(
    make_script: MakeScript, labels: Mapping[str, str], seen: float | str, age: float | str, slug: str
) -> None:
    """An unknown class, a missing node or a value that is no time is no evidence, and is counted."""
    ignored: list[str] = []
    answers = {"gpuheal:fault_witness": vector((labels, seen)), "time() - timestamp": vector((labels, age))}
    script, _ = await prometheus(make_script, answers)
    source = await source_at(script, ignored)
    found = await source.read({"n1"})
    await source.close()
    assert found["n1"].witnesses == ()
    assert ignored == [slug]


@pytest.mark.parametrize(
    ("label", "strength", "alone"),
    [
        ("strong", Strength.STRONG, Confidence.PROBABLE),
        ("weak", Strength.WEAK, Confidence.SUSPECT),
        ("decisive", Strength.WEAK, Confidence.SUSPECT),
        (None, None, Confidence.PROBABLE),
    ],
)
async def test_a_witness_is_as_strong_as_the_rules_say(
    make_script: MakeScript, label: str | None, strength: Strength | None, alone: Confidence
) -> None:
    """The label decides; a word unknown here is weak, and rules older than the label leave a kernel witness strong."""
    labels = WITNESS if label is None else {**WITNESS, "strength": label}
    answers = {"gpuheal:fault_witness": vector((labels, T)), "time() - timestamp": vector((labels, 0))}
    script, _ = await prometheus(make_script, answers)
    source = await source_at(script)
    (found,) = (await source.read({"n1"}))["n1"].witnesses
    await source.close()
    assert (found.strength, confidence([found])) == (strength, alone)


def test_kubernetes_is_weak_and_the_driver_sure_where_the_rules_do_not_say() -> None:
    """Without the label a Kubernetes witness alone is a suspicion, the driver's own verdict a confirmation."""

    def alone(kind: WitnessClass) -> Confidence:
        return confidence([Witness(fault="f", gpu_uuid=None, witness_class=kind, last_seen_at=NOW)])

    assert alone(WitnessClass.KUBERNETES) is Confidence.SUSPECT
    assert alone(WitnessClass.DRIVER) is Confidence.CONFIRMED


async def test_a_witness_without_a_known_age_is_none(make_script: MakeScript) -> None:
    """Freshness is computed inside Prometheus; a sample it told no age of can't be called fresh."""
    ignored: list[str] = []
    script, _ = await prometheus(make_script, {"gpuheal:fault_witness": vector((WITNESS, T))})
    source = await source_at(script, ignored)
    assert (await source.read({"n1"}))["n1"].witnesses == ()
    await source.close()
    assert ignored == ["witness-value"]


async def test_states_that_contradict_or_make_no_sense_are_not_ok(make_script: MakeScript) -> None:
    """Of two series at one moment the worse counts; a state nobody defined is unknown."""
    ignored: list[str] = []
    one, other = {"node": "n1", "gpu_uuid": "G"}, {"node": "n1", "gpu_uuid": "G", "rack": "r"}
    script, _ = await prometheus(
        make_script, {"gpuheal:gpu_state": matrix((one, [(T - 1, 0), (T, 9)]), (other, [(T - 1, 3)]))}
    )
    source = await source_at(script, ignored)
    (health,) = (await source.read({"n1"}))["n1"].health
    await source.close()
    assert [s.state for s in health.samples] == [3, 5]
    assert ignored == ["state-value"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({**vector(), "warnings": ["remote read failed"]}, "may be partial"),
        ({"status": "error", "errorType": "timeout", "error": "query timed out"}, "query timed out"),
        ({"status": "success", "data": {"resultType": "scalar", "result": [T, "1"]}}, "got a scalar"),
        (
            {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": []}]}},
            "IndexError",
        ),
        (
            {
                "status": "success",
                "data": {"resultType": "vector", "result": [{"metric": {"a": 1}, "value": [1, "1"]}]},
            },
            "mapp",
        ),
        (b"<html>", "JSONDecodeError"),
    ],
)
async def test_an_incomplete_answer_is_no_evidence(make_script: MakeScript, answer: object, problem: str) -> None:
    """Errors, warnings (the answer may be partial) and wrong shapes are ObserveErrors, never half an evidence."""
    script, _ = await prometheus(make_script, {"time() - timestamp": answer})
    source = await source_at(script)
    with pytest.raises(ObserveError, match=problem):
        await source.read({"n1"})
    await source.close()


async def test_a_hanging_prometheus_is_an_observe_error(make_script: MakeScript) -> None:
    """Every query has a deadline."""
    script = await make_script()
    script.stuck.add(QUERY)
    source = await source_at(script)
    with pytest.raises(ObserveError, match=r"no answer within 0\.5 s"):
        await source.read(())
    await source.close()


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
    assert await source.pipeline(StillClock()) == "prometheus-settling: it started 60 s ago"
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
    assert bool(re.match("prometheus-skew: its clock differs by [+-]6.0 s", found)) is frozen


async def test_an_unreadable_prometheus_freezes(make_script: MakeScript) -> None:
    """If it can't be asked how it is, it isn't well."""
    script = await make_script()
    source = await source_at(script)
    assert (await source.pipeline(StillClock())).startswith("prometheus-unreadable: HTTP 404")
    await source.close()
