"""Cases, worlds and decisions survive being written down."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Attempt, AttemptState, Case, Result
from gpuheal_responder.core.decide import decide
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.node import Node, Pod
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.step import ActionSpec, Due, Progress, ProgressState, Step
from gpuheal_responder.core.verdict import Act, Done, Hold
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.record import (
    camel,
    decision,
    dump_case,
    dump_verdict,
    dump_world,
    load_case,
    load_world,
    packed,
    replay,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TIMES = st.datetimes(timezones=st.just(UTC))
TEXTS = st.text(max_size=12)
SPANS = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=4000))
st.register_type_strategy(datetime, TIMES)
st.register_type_strategy(timedelta, SPANS)
st.register_type_strategy(str, TEXTS)

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def progress(step: Due, case: Case, world: World) -> Progress:
    """A step that is never done."""
    return Progress(state=ProgressState.TODO, reason=f"{step.action}-due")


def taint_policy(mode: Mode) -> Policy:
    """A policy of one containing step."""
    spec = ActionSpec(
        name="taint",
        phase=Phase.CONTAIN,
        disruptive=False,
        deadline=timedelta(seconds=30),
        params=type(None),
        progress=progress,
    )
    step = Step(key="taint", spec=spec, params=None, deadline=timedelta(seconds=30))
    return Policy(name="p", mode=mode, faults=("gpu-fell-off-bus",), nodes=(), steps=(step,))


CASE = Case(
    name="node-a-1",
    node="node-a",
    opened_at=NOW,
    policy="p",
    node_uid="u1",
    faults=(
        Fault(
            slug="gpu-fell-off-bus",
            target=Target(node="node-a", gpu_uuid="GPU-1"),
            severity=Severity.CRITICAL,
            since=NOW,
        ),
    ),
    attempts=(
        Attempt(
            step="taint",
            action="taint",
            phase=Phase.CONTAIN,
            operation="node-a-1-taint-1",
            state=AttemptState.INTENT,
            started_at=NOW,
        ),
    ),
)


@QUICK
@given(st.builds(Case))
def test_a_case_comes_back_equal(case: Case) -> None:
    """Any case is equal to itself after dump, JSON text and load."""
    assert load_case(json.loads(json.dumps(dump_case(case)))) == case


@QUICK
@given(st.builds(World))
def test_a_world_comes_back_equal(world: World) -> None:
    """Any world is equal to itself after dump, JSON text and load."""
    assert load_world(json.loads(json.dumps(dump_world(world)))) == world


def test_a_world_is_read_from_yaml_by_hand() -> None:
    """A YAML file with bare timestamps and duration texts is a world."""
    text = """
    now: 2026-01-31T12:00:00Z
    node: {name: node-a, uid: u1, bootID: b1, labels: {zone: z1}}
    peersAnswering: 2
    evidence:
      at: 2026-01-31T12:00:00Z
      witnesses:
        - {fault: gpu-fell-off-bus, gpuUUID: GPU-1, witnessClass: kernel,
           lastSeenAt: 2026-01-31T11:59:00Z, sampleAge: 5s}
    """
    world = load_world(yaml.safe_load(text))
    assert world.now == NOW
    assert world.node == Node(name="node-a", uid="u1", boot_id="b1", labels={"zone": "z1"})
    assert world.evidence is not None
    assert world.evidence.witnesses[0].sample_age == timedelta(seconds=5)


def test_defaults_and_nothing_are_left_out() -> None:
    """A dumped case holds no key whose value is the default or None."""
    bare = replace(CASE, faults=(), attempts=(), node_uid="")
    assert dump_case(bare) == {
        "name": "node-a-1",
        "node": "node-a",
        "openedAt": "2026-01-31T12:00:00Z",
        "policy": "p",
    }


@pytest.mark.parametrize(
    ("change", "path", "problem"),
    [
        ({"openedAt": "yesterday"}, "openedAt", "expected a time"),
        ({"openedAt": "2026-01-31T12:00:00"}, "openedAt", "zone"),
        ({"speed": 1}, "speed", "unknown key"),
        ({"node": 7}, "node", "expected a string, got 7"),
        ({"gpus": "GPU-1"}, "gpus", "expected a list"),
        ({"faults": [{"slug": "x"}]}, "faults[0]", "missing"),
        ({"attempts": [{**dump_case(CASE)["attempts"][0], "state": "lost"}]}, "attempts[0].state", "lost"),
        ({"attempts": [{**dump_case(CASE)["attempts"][0], "bootID": 1}]}, "attempts[0].bootID", "expected a string"),
        (
            {"attempts": [{**dump_case(CASE)["attempts"][0], "foreign": 1}]},
            "attempts[0].foreign",
            "expected true or false",
        ),
        ({"attempts": ["x"]}, "attempts[0]", "expected a mapping"),
    ],
)
def test_a_mistake_is_named_with_file_and_path(change: dict[str, object], path: str, problem: str) -> None:
    """Every kind of mistake is a ConfigError with the file, the path as written in the file, and what was expected."""
    with pytest.raises(ConfigError) as caught:
        load_case({**dump_case(CASE), **change}, "case.yaml")
    assert caught.value.file == "case.yaml"
    assert caught.value.path.startswith(path)
    assert problem in caught.value.problem


@pytest.mark.parametrize("key", ["now", "node", "faults", "marksAt", "pods"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_mistake_is_told_in_few_words_whatever_it_holds(key: str, inside: bool) -> None:
    """Aliases that mean a million texts, in place of a value, cost a line and no memory."""
    huge: list[object] = ["x" * 1000]
    for _ in range(6):
        huge = [huge] * 10
    data = {"now": "2026-01-31T12:00:00Z", key: {"x": huge} if inside else huge}
    with pytest.raises(ConfigError) as caught:
        load_world(data, "world.yaml")
    assert len(str(caught.value)) < 1000


def test_a_span_that_is_none_is_told_in_few_words() -> None:
    """Spans are read by the core, which says what it got of a list without writing the list out."""
    huge = [["x" * 1000] * 1000] * 1000
    witness = {"fault": "f", "gpuUUID": "g", "witnessClass": "kernel", "lastSeenAt": NOW, "sampleAge": huge}
    data = {"now": NOW, "evidence": {"at": NOW, "witnesses": [witness]}}
    with pytest.raises(ConfigError) as caught:
        load_world(data, "world.yaml")
    assert str(caught.value).startswith("world.yaml: evidence.witnesses[0].sampleAge: expected a duration")
    assert str(caught.value).endswith("got list")


def test_a_key_that_is_nearly_right_is_pointed_at() -> None:
    """The hint is spelt the way the file is."""
    with pytest.raises(ConfigError) as caught:
        load_case({**dump_case(CASE), "opened_at": "2026-01-31T12:00:00Z"})
    assert str(caught.value) == "case: opened_at: unknown key (did you mean openedAt?)"


def test_a_missing_value_is_named() -> None:
    """A case without its node says so."""
    data = {key: value for key, value in dump_case(CASE).items() if key != "node"}
    with pytest.raises(ConfigError, match="case: node: missing"):
        load_case(data)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(data: object) -> None:
    """A document that is no mapping is a ConfigError."""
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_world(data)


@pytest.mark.parametrize(
    ("world", "mode", "kind"),
    [
        (World(now=NOW, node=None), Mode.ENFORCE, Done),
        (World(now=NOW, node=Node(name="node-a", uid="u1"), peers_answering=1, faults=CASE.faults), Mode.OBSERVE, Hold),
    ],
)
def test_s24_a_decision_is_replayed_from_its_record(world: World, mode: Mode, kind: type, tmp_path: Path) -> None:
    """The record of a decision, through a file, leads to the same verdict again."""
    policy = taint_policy(mode)
    verdict = decide(CASE, policy, world)
    assert isinstance(verdict, kind)
    path = tmp_path / "decision.yaml"
    path.write_text(yaml.safe_dump(decision(NOW, verdict, world, CASE, None)), encoding="utf-8")
    assert replay(yaml.safe_load(path.read_text(encoding="utf-8")), policy) == verdict


def test_s24_a_record_of_a_busy_node_is_packed_and_replays() -> None:
    """Many pods never cost a decision its world: their labels, which nothing reads, go; the rest is compressed."""
    many = {f"app.kubernetes.io/label-{n}": "x" * 40 for n in range(10)}
    pods = tuple(Pod(namespace="ml", name=f"train-{n:04}", uid=f"{n:036}", labels=many) for n in range(2000))
    world = World(now=NOW, node=Node(name="node-a", uid="u1"), pods=pods)
    policy = taint_policy(Mode.OBSERVE)
    verdict = decide(CASE, policy, world)
    plain = decision(NOW, verdict, world, CASE, policy)
    small = packed(plain)
    assert len(json.dumps(small)) < 64 * 1024 < len(json.dumps(plain))
    assert dump_verdict(replay(small, policy)) == dump_verdict(verdict) == dump_verdict(replay(plain, policy))


@pytest.mark.parametrize("text", ["", "%%%", "c$}?", 7, base64.b85encode(zlib.compress(b"[1]")).decode()])
def test_a_packed_record_that_is_damaged_is_named(text: object) -> None:
    """What cannot be unpacked is a mistake of the file, not a crash."""
    with pytest.raises(ConfigError, match="packed"):
        replay({"policy": "p", "packed": text}, taint_policy(Mode.OBSERVE))


def test_a_record_without_its_world_cannot_be_replayed() -> None:
    """A record whose world was too large to keep says so instead of deciding on nothing."""
    record = decision(NOW, Done(result=Result.GONE, reason="x"), World(now=NOW, node=None), CASE, None)
    del record["world"]
    with pytest.raises(ConfigError, match="world: missing"):
        replay({**record, "omitted": "too large"}, taint_policy(Mode.OBSERVE))


def test_a_verdict_is_told_with_its_reason() -> None:
    """The dump of a verdict names kind, step and reason."""
    step = taint_policy(Mode.ENFORCE).steps[0]
    assert dump_verdict(Act(due=Due(step=step), reason="due")) == {"verdict": "act", "step": "taint", "reason": "due"}


def test_names_are_written_the_way_kubernetes_does() -> None:
    """Initialisms stand in capitals, as in bootID and systemUUID."""
    assert [camel(n) for n in ("uid", "boot_id", "system_uuid", "gpu_uuid", "closed_at")] == [
        "uid",
        "bootID",
        "systemUUID",
        "gpuUUID",
        "closedAt",
    ]
