"""Policies read strictly: every mistake is named by its path, and what is read means what it says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.responder.stage import FAULTS, LADDER

from gpuheal_responder.actions import SPECS
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.core.duration import format_duration, parse_duration, people_duration
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.policy import Policy, Requirement
from gpuheal_responder.errors import ConfigError


def policy(**changes: object) -> dict[str, object]:
    """Return a good policy with changes; a value of `...` removes the key."""
    base: dict[str, object] = {
        "name": "p",
        "mode": "enforce",
        "match": {"faults": ["gpu-fell-off-bus"]},
        "steps": list(LADDER),
    }
    return {k: v for k, v in (base | changes).items() if v is not ...}


def read(*raw: object) -> tuple[Policy, ...]:
    """Return what the reader makes of these policies."""
    return parse_policies({"policies": list(raw)}, file="p.yaml", actions=SPECS, faults=FAULTS)


def refused(raw: object) -> tuple[str, str]:
    """Return the path and the text of the error that a whole document gives."""
    with pytest.raises(ConfigError) as caught:
        parse_policies(raw, file="p.yaml", actions=SPECS, faults=FAULTS)
    assert str(caught.value).startswith("p.yaml: ")
    return caught.value.path, str(caught.value)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": ...}, "policies[0].name"),
        ({"name": "Not A Label"}, "policies[0].name"),
        ({"name": 7}, "policies[0].name"),
        ({"colour": "red"}, "policies[0].colour"),
        ({"mode": "maybe"}, "policies[0].mode"),
        ({"match": {}}, "policies[0].match.faults"),
        ({"match": {"faults": []}}, "policies[0].match.faults"),
        ({"match": {"faults": ["gpu-on-fire"]}}, "policies[0].match.faults[0]"),
        ({"match": {"faults": ["app-gpu-error"], "nodes": {"labels": {}}}}, "policies[0].match.nodes.labels"),
        ({"match": {"faults": ["app-gpu-error"], "nodes": {"matchLabels": []}}}, "policies[0].match.nodes.matchLabels"),
        (
            {"match": {"faults": ["app-gpu-error"], "nodes": {"matchLabels": {"a": 1}}}},
            "policies[0].match.nodes.matchLabels[a]",
        ),
        (
            {"match": {"faults": ["app-gpu-error"], "nodes": {"matchExpressions": {}}}},
            "policies[0].match.nodes.matchExpressions",
        ),
        (
            {"match": {"faults": ["app-gpu-error"], "nodes": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}},
            "policies[0].match.nodes.matchExpressions[0].operator",
        ),
        (
            {"match": {"faults": ["app-gpu-error"], "nodes": {"matchExpressions": [{"key": "a", "operator": "In"}]}}},
            "policies[0].match.nodes.matchExpressions[0].values",
        ),
        (
            {
                "match": {
                    "faults": ["app-gpu-error"],
                    "nodes": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]},
                }
            },
            "policies[0].match.nodes.matchExpressions[0].values",
        ),
        ({"limits": {"attempts": True}}, "policies[0].limits.attempts"),
        ({"limits": {"cooldown": 30}}, "policies[0].limits.cooldown"),
        ({"limits": {"fabric_domain_nodes": 2}}, "policies[0].limits.fabric_domain_nodes"),
        ({"steps": []}, "policies[0].steps"),
        ({"steps": ["taint", "pray"]}, "policies[0].steps[1]"),
        ({"steps": ["taint", {"drain": {}, "reboot": {}}]}, "policies[0].steps[1]"),
        ({"steps": ["taint", "reboot"]}, "policies[0].steps"),
        ({"steps": ["drain"]}, "policies[0].steps[0]"),
        ({"steps": ["condition", "drain"]}, "policies[0].steps[0]"),
        ({"steps": ["taint", "restore"]}, "policies[0].steps"),
        ({"steps": ["drain", "taint"]}, "policies[0].steps[1]"),
        ({"steps": ["taint", "taint"]}, "policies[0].steps[1]"),
        ({"steps": [{"taint": {"cordon": "yes"}}]}, "policies[0].steps[0].taint.cordon"),
        ({"steps": [{"taint": {"color": "red"}}]}, "policies[0].steps[0].taint.color"),
        ({"steps": ["taint", {"drain": {"deadline": "soon"}}]}, "policies[0].steps[1].drain.deadline"),
        ({"steps": ["taint", {"verify": {"evaluations": 1}}]}, "policies[0].steps[1].verify"),
        ({"steps": ["taint", {"verify": {"evaluations": 2.5}}]}, "policies[0].steps[1].verify.evaluations"),
        ({"steps": ["taint", "drain", {"reboot": {"provider": 3}}]}, "policies[0].steps[2].reboot.provider"),
        ({"steps": ["taint", "verify", {"probation": {"quiet": 5}}]}, "policies[0].steps[2].probation.quiet"),
    ],
)
def test_a_mistake_is_named_by_its_path(changes: dict[str, Any], path: str) -> None:
    """The error says where in the file the mistake is, as one would write it to get there."""
    assert refused({"policies": [policy(**changes)]})[0] == path


def test_documents_that_are_no_policies_at_all() -> None:
    """Lists, nulls and unknown top-level keys are refused as well."""
    assert refused([])[0] == ""
    assert refused({})[0] == "policies"
    assert refused({"policies": "p"})[0] == "policies"
    assert refused({"policies": [policy(), policy()]})[0] == "policies[1].name"
    assert "did you mean policies?" in refused({"polices": []})[1]
    assert "known: policies" in refused({"rules": []})[1]


def test_a_good_policy_is_what_it_says() -> None:
    """Steps have unique keys, deadlines and parameters; a second cure gets a number."""
    steps = [*LADDER[:4], "reboot", *LADDER[4:]]
    (found,) = read(policy(steps=steps, limits={"cooldown": "1h", "pool_percent": 5}))
    assert [s.key for s in found.steps] == [
        "taint",
        "condition",
        "drain",
        "reboot",
        "reboot-2",
        "verify",
        "probation",
        "restore",
    ]
    assert found.steps[2].deadline == timedelta(minutes=5)
    assert found.steps[3].params.provider == "lab"
    assert found.limits.cooldown == timedelta(hours=1)
    assert found.limits.pool_percent == 5
    assert found.mode is Mode.ENFORCE


@pytest.mark.parametrize(
    ("operator", "values", "labels", "expected"),
    [
        ("In", ("a", "b"), {"k": "a"}, True),
        ("In", ("a",), {}, False),
        ("NotIn", ("a",), {}, True),
        ("NotIn", ("a",), {"k": "a"}, False),
        ("Exists", (), {"k": ""}, True),
        ("DoesNotExist", (), {"k": ""}, False),
    ],
)
def test_requirements_match_as_in_kubernetes(
    operator: str, values: tuple[str, ...], labels: dict[str, str], expected: bool
) -> None:
    """The four operators mean what they mean in a nodeSelector."""
    assert Requirement(key="k", operator=operator, values=values).matches(labels) is expected


def test_a_misspelt_fault_is_told_with_the_nearest_one() -> None:
    """Slugs are long: the mistake names the one that was probably meant."""
    with pytest.raises(ConfigError, match=r"unknown fault 'gpu-fell-of-bus' \(did you mean gpu-fell-off-bus\?\)"):
        read(policy(match={"faults": ["gpu-fell-of-bus"]}))


def test_expressions_are_read() -> None:
    """matchExpressions become requirements."""
    expressions = [{"key": "a", "operator": "In", "values": ["x"]}, {"key": "b", "operator": "DoesNotExist"}]
    (found,) = read(policy(match={"faults": ["app-gpu-error"], "nodes": {"matchExpressions": expressions}}))
    assert [r.operator for r in found.nodes] == ["In", "DoesNotExist"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20min", 1200), ("1day3h5min", 97500), ("1h30m", 5400), ("250ms", 0.25)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Kubernetes' and Kingsoft's spellings both work."""
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "5", "5 m", "m5", "-5m", "5y", None, 5, True])
def test_other_things_are_no_durations(text: object) -> None:
    """A bare number is refused: its unit would be a guess."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9" * 5000 + "s", "9" * 60 + "d", "1s" * 40, "٣s"])
def test_a_duration_beyond_measure_is_refused(text: str) -> None:
    """Neither a flood of digits nor digits of other scripts are worse than a mistake."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (0.4, "0s"),
        (45, "45s"),
        (90, "1m30s"),
        (1800, "30m"),
        (1790.6, "29m51s"),
        (3599.6, "1h"),
        (5400, "1h30m"),
        (86_400, "24h"),
        (100_000, "27h47m"),
        (172_800, "2d"),
        (259_200 + 3 * 3600 + 59, "3d3h"),
        (30 * 86_400, "30d"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    """Two units at most, a day is 24h as limits say it, and nothing is claimed that was not counted."""
    assert people_duration(timedelta(seconds=seconds)) == text


@given(st.integers(min_value=0, max_value=10**9).map(lambda ms: timedelta(milliseconds=ms)))
def test_a_written_duration_reads_back(span: timedelta) -> None:
    """`parse_duration` undoes `format_duration`."""
    assert parse_duration(format_duration(span)) == span
