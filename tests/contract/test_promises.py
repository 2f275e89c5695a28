"""No safety invariant is a mere promise: each has a test of its name and a mutant, and SAFETY.md lists them."""

from __future__ import annotations

from tests.mutants.run import MUTANTS, applied, selection
from tests.safety.promises import PAGE, ROOT, mutants_of, numbers, proven_by, written


def test_every_invariant_has_a_test_and_a_mutant() -> None:
    """Numbers run from S01 without a gap; each has both, and no test or mutant is of an invariant that is not there."""
    known = numbers(PAGE.read_text(encoding="utf-8"))
    assert known == [f"S{index:02}" for index in range(1, len(known) + 1)]
    assert len(known) >= 24
    by_test, by_mutant = proven_by(), mutants_of()
    assert [number for number in known if number not in by_test or number not in by_mutant] == []
    assert by_test.keys() | by_mutant.keys() <= set(known)


def test_the_page_lists_what_is_there() -> None:
    """responder/SAFETY.md is as `python -m tests.safety.promises` writes it."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page)


def test_every_mutant_names_tests_that_are_there() -> None:
    """The files and folders that a mutant's `# tests:` line names exist."""
    for patch in MUTANTS.glob("S*.patch"):
        paths = [word for word in selection(patch) if "/" in word]
        assert paths, patch.name
        assert [word for word in paths if not (ROOT / word.partition("::")[0]).exists()] == [], patch.name


def test_every_mutant_still_applies() -> None:
    """Whoever changes a line that a mutant changes hears of it here, not at the end of the run of all mutants."""
    problems = {patch.stem: applied(patch, ROOT, check=True) for patch in MUTANTS.glob("S*.patch")}
    assert {name: problem for name, problem in problems.items() if problem} == {}
