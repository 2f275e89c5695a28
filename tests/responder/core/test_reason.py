"""Every reason that the code gives is one of core.reason with a sentence, and every one of those is given."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpuheal_responder
from gpuheal_responder.actions import SPECS
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason, Told

PACKAGE = Path(gpuheal_responder.__file__).parent
TREES = {
    file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
    for file in PACKAGE.rglob("*.py")
    if file.name != "reason.py"
}
GIVES = {
    "DeadLetter",
    "Refusal",
    "Progress",
    "Outcome",
    "Wait",
    "Idle",
    "Spent",
    "Escalate",
    "Done",
    "Act",
    "Ignore",
    "Performed",
}
FIRST = {"Transient", "Permanent", "Unusable", "_on_ignored", "dead_letter"}
"""Calls that take the reason first."""
OWN = {slug for spec in SPECS.values() for slug in spec.reasons}
"""What only one action gives, declared beside it."""
SLUG = re.compile(r"[a-z]+(-[a-z]+)*")


def name_of(call: ast.Call) -> str:
    """Return the last part of what is called."""
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def literals() -> Iterator[tuple[str, str]]:
    """Yield (place, slug) of every reason that is written as a text."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            given = [k.value for k in node.keywords if k.arg in {"reason", "outcome"} and name_of(node) in GIVES]
            given += node.args[:1] if name_of(node) in FIRST else []
            for value in given:
                for part in ast.walk(value):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{file}:{node.lineno}", part.value


def members(of: type[Told]) -> set[str]:
    """Return the members of an enumeration of reasons that the code names."""
    return {
        node.attr
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == of.__name__
    }


def test_a_reason_is_named_and_not_spelt() -> None:
    """Everywhere a member of Reason; only an action spells what it declares, and `-due` is looked at below."""
    strange = {f"{place}: {slug}" for place, slug in literals() if slug not in OWN and slug != "-due"}
    assert strange == set()


def test_every_reason_is_given_by_somebody() -> None:
    """A member that nobody names, by member or by slug, is a sentence about nothing."""
    due = {f"{spec.name}-due" for spec in SPECS.values() if spec.phase in {Phase.PROVE, Phase.WATCH}}
    for kind in Told.__subclasses__():
        named = members(kind)
        assert {r.name for r in kind if r.name not in named and str(r) not in due} == set()


def test_what_is_made_at_run_time_is_a_reason_too() -> None:
    """The plan says `NAME-due` of a step that proves or watches."""
    for spec in SPECS.values():
        if spec.phase in {Phase.PROVE, Phase.WATCH}:
            assert f"{spec.name}-due" in OWN | {str(r) for r in Reason}


def test_an_actions_own_reasons_are_its_own() -> None:
    """A slug has one sentence, wherever it is declared."""
    own = [slug for spec in SPECS.values() for slug in spec.reasons]
    assert len(own) == len(set(own))
    assert not set(own) & {str(r) for r in Reason}


@pytest.mark.parametrize("reason", [r for kind in Told.__subclasses__() for r in kind], ids=str)
def test_a_reason_has_a_slug_and_a_sentence(reason: Told) -> None:
    """Slugs are lower-case words; sentences fit into a table: no capital, no full stop."""
    assert SLUG.fullmatch(reason)
    assert reason.sentence
    assert not reason.sentence.endswith(".")
    assert "|" not in reason.sentence
