"""Two hundred schedules of the adversary: no rule breaks but those known to (`known.py`). Nightly there are more."""

from __future__ import annotations

import pytest
from tests.chaos.campaign import search
from tests.chaos.cases import CASES
from tests.chaos.grammar import OFTEN, THEMES, generate
from tests.chaos.known import KNOWN, rule_of
from tests.chaos.rules import RULES
from tests.chaos.schedule import play

EACH = 15
FIRST = 1


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_theme(theme: str) -> None:
    """No schedule of the theme breaks a rule that is not known to break."""
    outcome = search(FIRST, EACH, theme=theme, quiet=True)
    told = {rule: outcome.seeds[rule] for rule in outcome.unknown}
    assert not told, f"seeds by broken rule: {told}; see `python -m tests.chaos --theme {theme} --show --seed N`"


@pytest.mark.parametrize("case", sorted(set(CASES) - set(KNOWN)))
def test_what_was_mended_stays_mended(case: str) -> None:
    """The schedule that once broke a rule breaks it no more."""
    assert rule_of(case) not in {v.rule for v in play(CASES[case])}


def test_themes_reach_every_rule_that_can_break_today() -> None:
    """What is on the list of known breaches is a rule, and every theme is drawn."""
    assert {rule_of(case) for case in CASES} <= set(RULES)
    assert set(OFTEN) == set(THEMES)
    assert EACH * len(THEMES) >= 200


def test_a_seed_is_always_the_same_schedule() -> None:
    """Schedules depend on their seed and theme alone, and differ between seeds."""
    texts = [generate(seed).script() for seed in range(50)]
    assert texts == [generate(seed).script() for seed in range(50)]
    assert len(set(texts)) > 45
