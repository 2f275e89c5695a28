"""Evidence from Prometheus: what is asked, how series become evidence, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from tests.responder.shell.scripted import NOW, MakeScript, no_problem
from tests.responder.shell.sources.scripted_prometheus import (
    QUERY,
    T,
    matrix,
    prometheus,
    source_at,
    vector,
)

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
from gpuheal_responder.shell.sources.series import folded

WITNESS = {"node": "n1", "gpu_uuid": "GPU-1", "fault": "gpu-fell-off-bus", "class": "kernel"}


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
    with pytest.raises(ObserveError, match=r"no complete response within 0\.9s"):
        await source.read({f"n{number}" for number in range(1000)})
    await source.close()


async def test_series_become_evidence(make_script: MakeScript) -> None:
    """Witnesses carry when they last saw and how old the sample is; identities and states come by GPU, oldest first."""
    node_wide = {"node": "n1", "fault": "gpu-fell-off-bus", "class": "kubernetes"}
    answers = {
        "gpuheal:fault_witness": vector((WITNESS, T - 90), (node_wide, T)),
        "time() - timestamp": vector((WITNESS, 4.5), (node_wide, 0)),
        'gpuheal:gpu_identity{job=""} and': vector(
            ({"node": "n1", "gpu_uuid": "GPU-1", "source": "exporter"}, 1),
            ({"node": "n1", "gpu_uuid": "GPU-1", "source": "dcgm"}, 1),
        ),
        "gpuheal:gpu_identity{node": vector(({"node": "n2", "gpu_uuid": "GPU-2", "source": "dcgm"}, 1)),
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
    assert states == ['gpuheal:gpu_state{node=~"ip-10-0-0-1[.]ec2[.]internal",job=""}[10m]']
    assert ignored == ["node-name"] * len(bad)
    assert found.keys() == {"ip-10-0-0-1.ec2.internal", *bad}


async def test_s05_only_series_of_our_cluster_are_asked_for(make_script: MakeScript) -> None:
    """Every query of a look names our cluster, whatever its name; series without the label are of one cluster: ours."""
    script, server = await prometheus(make_script, {})
    source = await source_at(script, cluster='eu-1."x"')
    assert await source.read(["n1"])
    await source.close()
    assert len(server.asked) == 6
    for expression, _ in server.asked:
        selectors = expression.count("gpuheal")
        assert expression.count(r'cluster=~"eu\\-1\\.\"x\"|"') == selectors, expression


async def test_s05_series_of_several_clusters_are_no_evidence(make_script: MakeScript) -> None:
    """Where our cluster is not named, nodes of equal names cannot be told apart: that is an error, which names both."""
    one, other = ({**WITNESS, "cluster": "a"}, T), ({**WITNESS, "cluster": "b"}, T)
    ages = vector((one[0], 1.0))
    script, server = await prometheus(make_script, {"gpuheal:fault_witness": vector(one), "time() - timestamp": ages})
    source = await source_at(script)
    assert await source.read(["n1"])
    server.answers = {"gpuheal:fault_witness": vector(one, other), "time() - timestamp": ages}
    with pytest.raises(ObserveError, match="clusters a, b; the setting `cluster` is missing"):
        await source.read(["n1"])
    await source.close()


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
    with pytest.raises(ObserveError, match=r"no response within 0\.5s"):
        await source.read(())
    await source.close()


def test_an_identity_that_is_a_time_tells_of_a_gpu_that_has_gone() -> None:
    """A GPU that fell off the bus is known by where it was: its value is the moment at which its source lost it."""
    here = [({"node": "n1", "gpu_uuid": "GPU-1", "source": "exporter"}, ((T, 1.0),))]
    gone = [({"node": "n1", "gpu_uuid": "GPU-1", "source": "dcgm"}, ((T, T - 90.0),))]
    found, ignored = folded([[], [], [*here, *gone]], 0, datetime.fromtimestamp(T, UTC), ())
    assert {i.source: i.gone for i in found["n1"].identities} == {"exporter": False, "dcgm": True}
    assert list(ignored) == []
