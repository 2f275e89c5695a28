"""What the port EvidenceSource reads from a real Prometheus with recorded rules, and what it says of its own state."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
import yaml
from tests.integration.responder_am.conftest import WallClock, no_problem, until
from tests.integration.webhook import Target

from gpuheal_lab.servers.process import free_ports
from gpuheal_lab.servers.stack import Prometheus, Stack, prometheus_config, wait_for
from gpuheal_responder.config.settings import PrometheusServer
from gpuheal_responder.core.sighting import Evidence, Identity, WitnessClass
from gpuheal_responder.errors import ObserveError
from gpuheal_responder.shell.sources.prometheus import PrometheusEvidence

pytestmark = pytest.mark.servers
NODE = "ip-10-0-0-1.ec2.internal"
LAST_SEEN = 1_760_000_000.5
TEXT = f"""\
told_witness{{node="{NODE}",gpu_uuid="GPU-1",fault="gpu-fell-off-bus",class="kernel"}} {LAST_SEEN}
told_witness{{node="{NODE}",fault="gpu-fell-off-bus",class="kubernetes"}} {LAST_SEEN}
told_witness{{node="{NODE}",gpu_uuid="GPU-1",fault="gpu-fell-off-bus",class="astrology"}} {LAST_SEEN}
told_identity{{node="{NODE}",gpu_uuid="GPU-1",source="exporter"}} 1
told_identity{{node="{NODE}",gpu_uuid="GPU-1",source="dcgm"}} 1
told_identity{{node="well",gpu_uuid="GPU-2",source="dcgm"}} 1
told_state{{node="{NODE}",gpu_uuid="GPU-1"}} 4
told_state{{node="ip-10-0-0-1xec2.internal",gpu_uuid="GPU-9"}} 0
told_state{{node="well",gpu_uuid="GPU-2"}} 0
"""
RECORDED = {
    "gpuheal:fault_witness:last_seen_seconds": "max by (node, gpu_uuid, fault, class) (told_witness)",
    "gpuheal:gpu_identity": "max by (node, gpu_uuid, source) (told_identity)",
    "gpuheal:gpu_state": "max by (node, gpu_uuid) (told_state)",
}


def rules(**more: str) -> Mapping[str, str]:
    """A rule file with the group `gpuheal`."""
    recorded = [{"record": name, "expr": expr} for name, expr in {**RECORDED, **more}.items()]
    return {"gpuheal.yml": yaml.safe_dump({"groups": [{"name": "gpuheal", "interval": "1s", "rules": recorded}]})}


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """What Prometheus scrapes."""
    with Target(TEXT) as made:
        yield made


@pytest.fixture(scope="module")
def prometheus(shared_stack: Stack, target: Target) -> Prometheus:
    """A Prometheus that scrapes the target and itself, and records our series every second."""
    (port,) = free_ports(1)
    jobs = {"told": target.address, "prometheus": f"127.0.0.1:{port}"}
    scrape = [{"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in jobs.items()]
    made = shared_stack.prometheus(config=prometheus_config(scrape=scrape), rules=rules(), port=port)
    wait_for(lambda: made.query("prometheus_build_info and on () gpuheal:gpu_state"), "the first evaluation")
    return made


def source(
    prometheus: Prometheus, ignored: list[str] | None = None, cluster: str = "", **server: Any
) -> PrometheusEvidence:
    """An evidence source with a short deadline."""
    settings = {"timeout": timedelta(seconds=2), "settle": timedelta(0), "job": "prometheus", **server}
    return PrometheusEvidence(
        PrometheusServer(url=prometheus.url, **settings),
        window=timedelta(minutes=1),
        cluster=cluster,
        on_problem=no_problem,
        on_ignored=(ignored if ignored is not None else []).append,
    )


async def test_recorded_series_become_evidence(prometheus: Prometheus) -> None:
    """Witnesses, ages, identities and states are read as they were recorded, the dots of a node's name as dots."""
    ignored: list[str] = []
    asked = source(prometheus, ignored)

    async def complete() -> Mapping[str, Evidence] | None:
        found = await asked.read({NODE})
        return found if NODE in found and found[NODE].witnesses and len(found[NODE].health[0].samples) >= 3 else None

    found: Mapping[str, Evidence] = await until(complete, "three evaluations")
    await asked.close()
    evidence = found[NODE]
    assert {w.witness_class for w in evidence.witnesses} == {WitnessClass.KERNEL, WitnessClass.KUBERNETES}
    assert {w.gpu_uuid for w in evidence.witnesses} == {"GPU-1", None}
    assert {w.last_seen_at.timestamp() for w in evidence.witnesses} == {LAST_SEEN}
    assert all(w.sample_age < timedelta(seconds=10) for w in evidence.witnesses)
    assert evidence.identities == (
        Identity(gpu_uuid="GPU-1", source="dcgm"),
        Identity(gpu_uuid="GPU-1", source="exporter"),
    )
    (health,) = evidence.health
    assert {s.state for s in health.samples} == {4}
    assert all(later.at > earlier.at for earlier, later in zip(health.samples, health.samples[1:], strict=False))
    assert "witness-labels" in ignored


async def test_only_what_is_asked_or_witnessed_is_read(prometheus: Prometheus) -> None:
    """A node nobody suspects costs nothing; asked for, it has its GPUs' states though no witness."""
    asked = source(prometheus)
    assert list(await asked.read(())) == [NODE]
    found = await asked.read([*(f"n{i}" for i in range(450)), "well"])
    await asked.close()
    assert len(found) == 452
    assert found["well"].witnesses == ()
    assert found["well"].identities == (Identity(gpu_uuid="GPU-2", source="dcgm"),)
    assert {s.state for s in found["well"].health[0].samples} == {0}
    assert found["n0"].health == ()


async def test_s05_of_several_clusters_only_ours_is_read(shared_stack: Stack) -> None:
    """A Prometheus with the series of two clusters gives each the evidence of its own nodes, a third one none."""
    text = f"""\
told_witness{{cluster="eu.1",node="{NODE}",gpu_uuid="GPU-1",fault="gpu-fell-off-bus",class="kernel"}} {LAST_SEEN}
told_witness{{cluster="eu-1",node="{NODE}",gpu_uuid="GPU-2",fault="gpu-thermal",class="kernel"}} {LAST_SEEN}
told_identity{{cluster="eu.1",node="{NODE}",gpu_uuid="GPU-1",source="dcgm"}} 1
told_identity{{cluster="eu-1",node="{NODE}",gpu_uuid="GPU-2",source="dcgm"}} 1
"""
    kept = {name: expr.replace("by (", "by (cluster, ") for name, expr in RECORDED.items()}
    with Target(text) as told:
        config = prometheus_config(scrape=[{"job_name": "told", "static_configs": [{"targets": [told.address]}]}])
        made = await asyncio.to_thread(shared_stack.prometheus, config=config, rules=rules(**kept), name="clusters")
        await asyncio.to_thread(wait_for, lambda: made.query("gpuheal:gpu_identity"), "the first evaluation")
        for cluster, gpus in (("eu.1", {"GPU-1"}), ("eu-1", {"GPU-2"}), ("eu", set())):
            asked = source(made, cluster=cluster)
            evidence = (await asked.read({NODE}))[NODE]
            await asked.close()
            assert {w.gpu_uuid for w in evidence.witnesses} == gpus
            assert {i.gpu_uuid for i in evidence.identities} == gpus
        asked = source(made)
        with pytest.raises(ObserveError, match=r"clusters eu-1, eu\.1"):
            await asked.read({NODE})
        await asked.close()


async def test_s10_a_fresh_prometheus_is_settling(prometheus: Prometheus) -> None:
    """Its start time is its own word, with or without scraping itself."""
    for job in ("prometheus", "nobody"):
        asked = source(prometheus, settle=timedelta(hours=1), job=job)
        assert (await asked.pipeline(WallClock())).startswith("prometheus-settling: it started ")
        await asked.close()


async def test_a_well_pipeline_says_nothing(shared_stack: Stack, target: Target) -> None:
    """A Prometheus that scrapes itself, runs our rules and is in step with our clock is no reason to freeze."""
    (port,) = free_ports(1)
    scrape = [{"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]
    config = prometheus_config(scrape=scrape)
    made = await asyncio.to_thread(shared_stack.prometheus, config=config, rules=rules(), port=port, name="well")
    rated = 'rate(prometheus_rule_evaluations_total{rule_group=~".*gpuheal.*"}[5m])'
    await asyncio.to_thread(wait_for, lambda: made.query(rated), "its own metrics")
    asked = source(made)
    assert await asked.pipeline(WallClock()) == ""
    await asked.close()
    await asyncio.to_thread(made.stop)


async def test_s10_failing_rules_freeze(shared_stack: Stack, prometheus: Prometheus) -> None:
    """While our rules are well none is named; one that fails is."""
    asked = source(prometheus)
    assert "rule-failures" not in await asked.pipeline(WallClock())
    # two series on each side of a one-to-one match: every evaluation fails
    broken = {"gpuheal:broken": "told_identity * on () told_identity"}
    await asyncio.to_thread(prometheus.reload, rules=rules(**broken))

    async def told() -> bool:
        return "rule-failures: " in await asked.pipeline(WallClock())

    assert await until(told, "the failure to be told")
    await asked.close()
    await asyncio.to_thread(prometheus.reload, rules=rules())


async def test_s10_a_refused_configuration_freezes(prometheus: Prometheus) -> None:
    """Rules that could not be loaded are not the rules we think they are."""
    asked = source(prometheus)
    (prometheus.folder / "rules" / "bad.yml").write_text("groups: [")
    with pytest.raises(Exception, match="500"):
        await asyncio.to_thread(prometheus.reload)

    async def told() -> bool:
        return "prometheus-config-refused" in await asked.pipeline(WallClock())

    assert await until(told, "the refusal to be told")
    await asked.close()
    await asyncio.to_thread(prometheus.reload, rules=rules())


async def test_a_frozen_prometheus_is_an_observe_error(prometheus: Prometheus) -> None:
    """It accepts the connection and answers nothing: the deadline ends the wait."""
    asked = source(prometheus, timeout=timedelta(seconds=0.5))
    prometheus.freeze()
    try:

        async def refused() -> str:  # threads stop one after the other, on a busy machine some ms later
            try:
                await asked.read({NODE})
            except ObserveError as problem:
                return str(problem)
            return ""

        assert "no response within 0.5s" in await until(refused, "the freeze")
        assert (await asked.pipeline(WallClock())).startswith("prometheus-unreadable: ")
    finally:
        prometheus.thaw()
        await asked.close()
