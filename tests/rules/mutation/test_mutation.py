"""Wrong rules do not pass: small changes of the rules are made, and the cases must notice each."""

from __future__ import annotations

import pytest

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.mutation.mutants import changes, mutants
from gpuheal_rules.mutation.mutate import EQUIVALENT, candidates, sample, survivors
from gpuheal_rules.options import Options
from gpuheal_rules.render import build_groups

SAMPLE = 6
SEEDS = (1, 2, 3)


def test_each_operand_is_deleted_and_each_comparison_turned_round() -> None:
    """Every and, or and unless loses either side, every comparison becomes its opposite, modifiers stay."""
    done = [(what, " ".join(expr.split())) for what, expr in changes("a > on (x) b and on (y) c unless d")]
    assert done == [
        ("kept only the left of unless", "a > on (x) b and on (y) c"),
        ("kept only the right of unless", "d"),
        ("kept only the left of and", "a > on (x) b unless d"),
        ("kept only the right of and", "c unless d"),
        ("turned > into <=", "((a) <= on (x) (b)) and on (y) c unless d"),
    ]


def test_no_mutant_is_the_rule_itself() -> None:
    """Each mutant differs from its rule once both are parsed and printed alike, and keys are unique."""
    import promql_parser

    groups = build_groups(load_catalogue(), Options())
    keys = set()
    for mutant in mutants(groups):
        original = promql_parser.parse(groups[mutant.group].rules[mutant.rule].expr).prettify()
        assert mutant.expr != original, mutant.key
        keys.add(mutant.key)
    assert len(keys) == len(list(mutants(groups)))


def test_every_exception_is_needed_and_explained() -> None:
    """An entry of the exception list matches a mutant that exists and says why it is there."""
    keys = [mutant.key for mutant in mutants(build_groups(load_catalogue(), Options()))]
    for known, reason in EQUIVALENT.items():
        assert any(key.startswith(known) for key in keys), known
        assert len(reason) > 20, known


@pytest.mark.servers
@pytest.mark.once
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sample_of_mutants_is_killed(seed: int) -> None:
    """A bounded sample, the same for the same rules, has no survivor; `gpuheal rules mutate --all` runs the rest."""
    catalogue = load_catalogue()
    groups = build_groups(catalogue, Options())
    chosen = sample(candidates(groups), SAMPLE, seed)
    alive = survivors(str(ensure("promtool", Generation("debian")).path), catalogue, groups, chosen)
    assert [f"{mutant.key}: {mutant.what}" for mutant in alive] == []
