"""Rules and responder measure confidence alike: over every combination of witness classes and strengths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gpuheal_responder.core.evidence import confidence
from gpuheal_responder.core.sighting import Confidence, Strength, Witness, WitnessClass
from gpuheal_rules.catalogue.model import CLASSES, STRENGTHS, Catalogue
from gpuheal_rules.groups import witness
from gpuheal_rules.options import Options
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.promql.rule import OPEN, WITNESS, Group
from gpuheal_rules.render import rule_file, to_yaml

RATIO = {Confidence.CONFIRMED: 0.99, Confidence.PROBABLE: 0.9, Confidence.SUSPECT: 0.6}
SEEN = datetime.fromtimestamp(0, UTC)
SIGHTINGS = ("", "strong", "weak", "both")
"""What one class may have seen of a fault: nothing, or evidence of these strengths."""


def test_both_parts_know_the_same_classes_and_strengths() -> None:
    """What the catalogue may say of evidence is what the responder can read."""
    assert set(CLASSES) == set(WitnessClass)
    assert set(STRENGTHS) == set(Strength)


def witnesses(severe: bool, seen: dict[str, str], verdict: bool) -> Iterator[Witness]:
    """The witnesses that the sightings make, as the contract says it in words."""
    strong = any(what in ("strong", "both") for what in seen.values())
    found = {kind: "weak" if what == "weak" else "strong" for kind, what in seen.items() if what}
    if severe and not strong:
        return
    if found and verdict:
        found.setdefault("driver", "strong")
    for kind, strength in found.items():
        yield Witness(
            fault="f", gpu_uuid="g", witness_class=WitnessClass(kind), last_seen_at=SEEN, strength=Strength(strength)
        )


def combinations() -> Iterator[tuple[dict[str, str], bool]]:
    """What each class has seen, and whether the driver's own verdict stands beside it."""
    for verdict, *what in itertools.product((False, True), *[SIGHTINGS] * len(CLASSES)):
        yield dict(zip(CLASSES, what, strict=True)), verdict


def block(fault: str, severe: bool, part: Sequence[tuple[dict[str, str], bool]]) -> tuple[dict[str, Any], int]:
    """One test of promtool over some combinations, each on a GPU of its own, and how many have a ratio."""
    series, ratios, seen_by = [], [], []
    for number, (seen, verdict) in enumerate(part):
        of = f'node="n", gpu_uuid="GPU-{number}"'
        for kind, strengths in seen.items():
            for strength in ("strong", "weak") if strengths == "both" else filter(None, (strengths,)):
                labels = f'{of}, fault="{fault}", class="{kind}", signal="{strength}", strength="{strength}"'
                series.append({"series": f"{OPEN}{{{labels}}}", "values": "7"})
        if verdict:
            labels = f'{of}, fault="gpu-recovery-required", class="driver", signal="v", strength="strong"'
            series.append({"series": f"{OPEN}{{{labels}}}", "values": "7"})
        found = list(witnesses(severe, seen, verdict))
        for one in found:
            labels = f'{of}, fault="{fault}", class="{one.witness_class}", strength="{one.strength}"'
            seen_by.append({"labels": f"{{{labels}}}", "value": 1})
        if found:
            ratios.append({"labels": f'{{{of}, fault="{fault}"}}', "value": RATIO[confidence(found)]})
    asked = {
        f'sum without (__name__) (gpuheal:fault_confidence:ratio{{fault="{fault}"}})': ratios,
        f'group without (__name__) ({WITNESS}{{fault="{fault}"}})': seen_by,
    }
    queries = [{"expr": expr, "eval_time": "0s", "exp_samples": samples} for expr, samples in asked.items()]
    return {"interval": "15s", "input_series": series, "promql_expr_test": queries}, len(ratios)


@pytest.mark.parametrize("severe", [False, True], ids=["mild", "severe"])
def test_rules_and_responder_agree_on_every_combination(
    severe: bool, catalogue: Catalogue, promtool: str, tmp_path: Path
) -> None:
    """The recorded ratio is the core's confidence, and the recorded witnesses are those the core would be given."""
    state = "faulty" if severe else "degraded"
    fault = next(f.slug for f in catalogue.faults.values() if f.state == state and f.hardware and f.scope == "gpu")
    rules = Group(name="g", interval=timedelta(seconds=15), rules=tuple(witness.rules(catalogue, Options()))[1:])
    (tmp_path / "rules.yaml").write_text(rule_file([rules]))
    everything = list(combinations())
    # promtool reads at most 10,000 samples in one evaluation.
    parts = [block(fault, severe, everything[i : i + 256]) for i in range(0, len(everything), 256)]
    assert sum(count for _, count in parts) > len(everything) * 0.7
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [test for test, _ in parts]}
    (tmp_path / "confidence.test.yaml").write_text(to_yaml(document))
    assert run_tests(promtool, [tmp_path / "confidence.test.yaml"]) == ""
