"""What counts as one thing that befell many nodes, rule by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuheal_responder.core.alert import Fault, Incident, Scope, Severity, Target
from gpuheal_responder.core.budget import FABRIC, POOL, RACK, UNKNOWN, ZONE
from gpuheal_responder.core.fleet import ANOMALY, CORRELATION, DRIVER, LEAF, WINDOW, Incidents, incidents_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
Minutes = Mapping[str, float]


def fault(
    node: str, at: datetime = NOW, slug: str = "gpu-fell-off-bus", severity: Severity = Severity.CRITICAL, gpu: str = ""
) -> Fault:
    """Return a fault of a node since a moment."""
    return Fault(slug=slug, target=Target(node=node, gpu_uuid=gpu or None), severity=severity, since=at)


def counted(nodes: int, domains: Mapping[str, str], size: int = 1000) -> Incidents:
    """Return the incidents of so many nodes, all faulty now and all in these domains."""
    names = [f"n{i}" for i in range(nodes)]
    return incidents_of({n: [fault(n)] for n in names}, (), dict.fromkeys(names, domains), lambda _: size)


def spread(minutes: Minutes, rack: str = "r1") -> Incidents:
    """Return the incidents of nodes of one rack whose faults began so many minutes from now."""
    faults = {n: [fault(n, NOW + timedelta(minutes=m))] for n, m in minutes.items()}
    return incidents_of(faults, (), {key: {RACK: rack} for key in minutes}, lambda _: 1000)


@pytest.mark.parametrize(
    ("size", "least"),
    [(1, 5), (4, 5), (5, 5), (19, 5), (20, 5), (24, 5), (25, 6), (29, 6), (30, 7), (64, 13), (100, 21), (1000, 201)],
)
def test_more_than_a_fifth_of_a_pool_is_an_anomaly(size: int, least: int) -> None:
    """Exactly a fifth is none, and in a small pool five nodes are needed."""
    assert counted(least - 1, {POOL: "p"}, size).all() == ()
    (found,) = counted(least, {POOL: "p"}, size).all()
    assert (found.kind, found.where, found.what, found.nodes) == (ANOMALY, "pool/p", "gpu-fell-off-bus", least)


@pytest.mark.parametrize("dimension", [RACK, FABRIC, LEAF, DRIVER])
def test_three_nodes_of_a_domain_are_correlated(dimension: str) -> None:
    """Two are a coincidence."""
    assert counted(2, {dimension: "d"}).all() == ()
    (found,) = counted(3, {dimension: "d"}).all()
    assert (found.kind, found.where, found.nodes) == (CORRELATION, f"{dimension}/d", 3)


def test_a_zone_is_no_common_cause() -> None:
    """A zone has a budget and holds half the fleet: many faults in it say nothing."""
    assert counted(50, {ZONE: "z"}).all() == ()


@pytest.mark.parametrize(("dimension", "one_thing"), [(RACK, False), (FABRIC, False), (LEAF, False), (POOL, True)])
def test_nodes_of_which_the_domain_is_unknown_have_none_in_common(dimension: str, one_thing: bool) -> None:
    """But a pool without a name is a pool: the anomaly is a share of all nodes that have none."""
    assert bool(counted(10, {dimension: UNKNOWN}, size=10).all()) is one_thing


@pytest.mark.parametrize("dimension", [LEAF, DRIVER])
def test_what_most_nodes_share_is_a_cause_only_while_all_others_are_well(dimension: str) -> None:
    """One node with the same fault under another leaf or driver version speaks against it; a rack stays one."""
    names = ["a", "b", "c", "d"]
    same = {dimension: "x", RACK: "r1"}
    domains = {**dict.fromkeys(names[:3], same), "d": {dimension: "y", RACK: "r2"}}
    found = incidents_of({n: [fault(n)] for n in names}, (), domains, lambda _: 1000)
    assert [i.where for i in found.all()] == ["rack/r1"]
    alone = incidents_of({n: [fault(n)] for n in names[:3]}, (), domains, lambda _: 1000)
    assert {i.where for i in alone.all()} == {"rack/r1", f"{dimension}/x"}


@pytest.mark.parametrize("severity", [Severity.WARNING, Severity.INFO])
def test_only_faults_that_something_acts_on_count(severity: Severity) -> None:
    """What nothing acts on needs no brake, and trends come in swarms; what a policy treats does."""
    names = ["a", "b", "c"]
    faults = {n: [fault(n, severity=severity)] for n in names}
    domains = {key: {RACK: "r"} for key in names}
    assert incidents_of(faults, (), domains, lambda _: 9).all() == ()
    (found,) = incidents_of(faults, (), domains, lambda _: 9, treated=lambda node, _: node in names).all()
    assert found.nodes == 3


def test_different_faults_are_not_added_up() -> None:
    """Three nodes with three faults have three causes."""
    slugs = {"a": "gpu-fell-off-bus", "b": "nvlink-fault", "c": "gpu-gsp-timeout"}
    faults = {n: [fault(n, slug=slug)] for n, slug in slugs.items()}
    assert incidents_of(faults, (), {key: {RACK: "r"} for key in slugs}, lambda _: 9).all() == ()


def test_a_node_counts_once_and_by_its_first_fault() -> None:
    """Eight GPUs of one node are one node; when it began is when the first of them did."""
    late = NOW + WINDOW + TICK
    faults = {
        "a": [fault("a", late, gpu="GPU-1"), fault("a", NOW, gpu="GPU-2"), fault("a", late, gpu="GPU-3")],
        "b": [fault("b", NOW), fault("b", NOW, gpu="GPU-9")],
    }
    domains = {key: {RACK: "r"} for key in ["a", "b", "c"]}
    assert incidents_of(faults, (), domains, lambda _: 9).all() == ()
    (found,) = incidents_of({**faults, "c": [fault("c", NOW)]}, (), domains, lambda _: 9).all()
    assert (found.nodes, found.since) == (3, NOW)


def test_a_node_without_domains_is_no_node_of_ours() -> None:
    """A fault of a node that nobody knows is in no group."""
    faults = {n: [fault(n)] for n in ("a", "b", "c")}
    found = incidents_of(faults, (), {key: {RACK: "r"} for key in ["a", "b"]}, lambda _: 9)
    assert found.all() == ()
    assert found.of("c") == ()


@pytest.mark.parametrize(
    ("minutes", "members"),
    [
        ({"a": 0, "b": 5, "c": 10}, "abc"),
        ({"a": 0, "b": 5, "c": 10.001}, ""),
        ({"a": 0, "b": 9, "c": 10, "d": 18}, "abcd"),
        ({"a": 0, "b": 20, "c": 21, "d": 22}, "bcd"),
        ({"a": 0, "b": 1, "c": 2, "d": 20}, "abc"),
        ({"a": 0, "b": 1, "c": 2, "d": 20, "e": 21}, "abc"),
        ({"a": 0, "b": 1, "c": 2, "d": 30, "e": 31, "f": 32}, "abcdef"),
        ({"a": 0, "b": 6, "c": 12, "d": 18}, ""),
    ],
)
def test_only_faults_that_began_together_are_one(minutes: Minutes, members: str) -> None:
    """Within ten minutes, the end included; whoever began much earlier or later is not part of it."""
    found = spread(minutes)
    assert "".join(sorted(found.by_node)) == members
    for incident in found.all():
        assert incident.nodes == len(members)
        assert incident.since == NOW + timedelta(minutes=min(minutes[n] for n in members))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 40), min_size=1))
def test_a_node_is_in_it_exactly_if_some_ten_minutes_hold_it_and_two_others(minutes: dict[str, int]) -> None:
    """Whatever the times, the members are those that looking at every window finds."""
    windows = [{n for n, m in minutes.items() if begin <= m <= begin + 10} for begin in minutes.values()]
    wanted = {n for window in windows if len(window) >= 3 for n in window}
    assert set(spread(minutes).by_node) == wanted
    assert set(spread(dict(reversed(list(minutes.items())))).by_node) == wanted


def test_a_node_may_be_part_of_several() -> None:
    """Each incident is told once, and a node knows all of its own."""
    found = counted(5, {POOL: "p", RACK: "r"}, size=5)
    assert {i.where for i in found.of("n0")} == {"pool/p", "rack/r"}
    assert len(found.all()) == 2


@pytest.mark.parametrize(("released", "left"), [("rack/r", {"pool/p"}), ("rack/other", {"pool/p", "rack/r"})])
def test_a_released_domain_is_no_incident(released: str, left: set[str]) -> None:
    """A person who has looked frees that domain and no other."""
    names = [f"n{i}" for i in range(5)]
    domains = {key: {POOL: "p", RACK: "r"} for key in names}
    found = incidents_of({n: [fault(n)] for n in names}, (), domains, lambda _: 5, (released,))
    assert {i.where for i in found.all()} == left


DOMAINS = {
    "a": {RACK: "r1", FABRIC: "f1", POOL: "p"},
    "b": {RACK: "r1", FABRIC: "f2", POOL: "p"},
    "c": {RACK: "r2", FABRIC: "f1", POOL: "q"},
}


@pytest.mark.parametrize(
    ("slug", "scope", "labels", "where", "members"),
    [
        ("rack-correlated", Scope.DOMAIN, {"rack": "r1"}, "rack/r1", "ab"),
        ("fabric-domain-correlated", Scope.DOMAIN, {"fabric_domain": "f1"}, "fabric-domain/f1", "ac"),
        ("rack-correlated", Scope.DOMAIN, {"rack": "r1", "fabric_domain": "f1"}, "fabric-domain/f1, rack/r1", "a"),
        ("rack-correlated", Scope.DOMAIN, {"rack": "r9"}, "rack/r9", ""),
        ("rack-correlated", Scope.DOMAIN, {}, "", ""),
        ("rack-correlated", Scope.DOMAIN, {"severity": "critical"}, "", ""),
        ("telemetry-anomaly", Scope.FLEET, {"pool": "q"}, "pool/q", "c"),
        ("telemetry-anomaly", Scope.FLEET, {}, "the fleet", "abc"),
        ("rollout-correlated", Scope.FLEET, {}, "the fleet", "abc"),
        ("pipeline-broken", Scope.FLEET, {}, "", ""),
    ],
)
def test_our_alerts_about_many_nodes_stop_those_they_name(
    slug: str, scope: Scope, labels: Mapping[str, str], where: str, members: str
) -> None:
    """By rack, fabric, pool, or all; one that names no domain of its own, or is about something else, stops nobody."""
    alert = Incident(slug=slug, scope=scope, severity=Severity.CRITICAL, since=NOW, labels=labels, alertname="GPUHealX")
    found = incidents_of({}, (alert,), DOMAINS, lambda _: 9)
    assert "".join(sorted(found.by_node)) == members
    told = {(i.where, i.what, i.since, i.nodes) for i in found.all()}
    assert told == ({(where, "GPUHealX", NOW, len(members))} if members else set())
    kinds = {i.kind for i in found.all()}
    assert kinds <= {ANOMALY if slug == "telemetry-anomaly" else CORRELATION}


def test_an_alert_without_a_name_is_told_by_its_fault() -> None:
    """What people read is never empty."""
    alert = Incident(slug="rack-correlated", scope=Scope.FLEET, severity=Severity.CRITICAL, since=NOW, labels={})
    assert [i.what for i in incidents_of({}, (alert,), DOMAINS, lambda _: 9).all()] == ["rack-correlated"]


def test_an_alert_about_many_nodes_can_be_released_too() -> None:
    """By the same words that the incident is told with."""
    alert = Incident(
        slug="rack-correlated", scope=Scope.DOMAIN, severity=Severity.CRITICAL, since=NOW, labels={"rack": "r1"}
    )

    def left(released: Sequence[str]) -> int:
        return len(incidents_of({}, (alert,), DOMAINS, lambda _: 9, released).all())

    assert (left(()), left(("rack/r2",)), left(("rack/r1",))) == (1, 1, 0)
