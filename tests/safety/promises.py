"""Which tests and mutants hold each invariant: `python -m tests.safety.promises` writes the lists of SAFETY.md."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos.rules import RULES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "responder" / "SAFETY.md"
HEADING = re.compile(r"^### (S\d\d) ", re.MULTILINE)
TEST = re.compile(r"^\s*(?:async )?def (test_(s\d\d)_\w+)", re.MULTILINE)


def numbers(page: str) -> list[str]:
    """Return the invariants of the page in their order."""
    return HEADING.findall(page)


def proven_by() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Return the names of tests by invariant and file."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, number in TEST.findall(path.read_text(encoding="utf-8")):
            found[number.upper()][path.relative_to(ROOT).as_posix()].append(name)
    return found


def mutants_of() -> Mapping[str, Sequence[str]]:
    """Return the names of mutants by invariant."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests" / "mutants").glob("S*.patch")):
        found[path.stem.partition("-")[0]].append(path.stem.partition("-")[2])
    return found


def rules_of() -> Mapping[str, Sequence[str]]:
    """Return the names of the adversary's rules by invariant."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in RULES:
        found[name.partition("-")[0]].append(name)
    return found


def written(page: str) -> str:
    """Return the page with its lists as the tree has them; people's words stay."""
    head, *sections = re.split(r"(?=^### S\d\d )", page, flags=re.MULTILINE)
    by_test, by_mutant, by_rule = proven_by(), mutants_of(), rules_of()
    made = [head]
    for section in sections:
        number = numbers(section)[0]
        words = section.split("\n- ")[0].strip()
        lines = [f"- `{file}`: {', '.join(names)}" for file, names in sorted(by_test.get(number, {}).items())]
        lines += [f"- mutants: {', '.join(by_mutant[number])}"] if number in by_mutant else []
        lines += [f"- the adversary's rules: {', '.join(by_rule[number])}"] if number in by_rule else []
        made.append("\n\n".join(filter(None, [words, "\n".join(lines)])) + "\n\n")
    return "".join(made).rstrip() + "\n"


def main() -> int:
    """Write the page."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
