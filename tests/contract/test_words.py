"""Texts that users see speak the language of Kubernetes, Prometheus and NVIDIA; durations have no form of their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORDS: list[dict[str, str]] = yaml.safe_load((ROOT / "tests/contract/words.yaml").read_text())


@dataclass(frozen=True, slots=True)
class Word:
    """A pattern for lower-case text with single spaces; `part` is in all that it finds, and quick to look for."""

    pattern: re.Pattern[str]
    part: str
    say: str


def word(never: str, say: str) -> Word:
    """Return the word of an entry of words.yaml."""
    fixed = re.sub(r"\([^)]*\)\??|.\?|\\b", "|", never)
    return Word(re.compile(never), max(re.split(r"[^a-z ]", fixed), key=len), say)


NEVER = [word(entry["never"], entry["say"]) for entry in WORDS]
CODE = (
    "responder/gpuheal_responder",
    "exporters/gpuheal_exporters",
    "rules/gpuheal_rules",
    "dashboards/gpuheal_dashboards",
    "deploy/lab/gpuheal_lab/demo",
)
NOT_SHOWN = ("rules/gpuheal_rules/cases", "rules/gpuheal_rules/mutation")
"""Titles of generated tests: whoever runs them reads the rules."""
PAGES = ("README.md", "responder/*.md", "exporters/*.md", "rules/*.md", "rules/runbooks/*.md", "deploy/**/README.md")
DATA = ("rules/gpuheal_rules/catalogue/data/faults.yaml", "rules/gpuheal_rules/catalogue/data/signals.yaml")
SECONDS = re.compile(r"\} (s|sec|seconds?)(?!\w)")
"""A number put before its unit; spans go through `core.duration.people_duration`."""
_JOINT = re.compile(r'"\s*\n\s*f?"')
"""Between two halves of a text on two lines."""


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module, docstrings and texts under a field left out; a value put into one is `{}`."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        else:
            nodes += ast.iter_child_nodes(node)


def found(text: str) -> list[str]:
    """Return what the text says in words of our own, and what to say instead."""
    plain = " ".join(text.lower().split())
    return [f"{m.group()!r}: say {w.say}" for w in NEVER if w.part in plain for m in w.pattern.finditer(plain)]


def hand_made(text: str) -> list[str]:
    """Return the durations of the text that no formatter made."""
    return [m.group() for m in SECONDS.finditer(text)]


def in_code(wrong: Callable[[str], list[str]], folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (place, problem) of the literals with something `wrong`; a file without it is not parsed."""
    for file in (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))):
        name, source = file.relative_to(ROOT).as_posix(), file.read_text()
        if not name.startswith(NOT_SHOWN) and wrong(_JOINT.sub("", source)):
            for line, text in literals(ast.parse(source)):
                yield from ((f"{name}:{line}", problem) for problem in wrong(text))


def on_pages() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of the pages and of the catalogue's texts."""
    for pattern in PAGES:
        for file in sorted(ROOT.glob(pattern)):
            yield str(file.relative_to(ROOT)), prose(file.read_text())
    for name in DATA:
        lines = (line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#"))
        yield name, "\n".join(lines)


def prose(page: str) -> str:
    """Return a page without its code and its lists of tests and mutants, which name things of the tree."""
    text = re.sub(r"^ *```.*?^ *```", "", page, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^- (`tests|mutants:|the adversary).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def test_no_text_uses_words_of_our_own() -> None:
    """No pattern of words.yaml is in any text; the message says what to write instead."""
    pages = ((place, problem) for place, text in on_pages() for problem in found(text))
    assert [*in_code(found, CODE), *pages] == []


def test_no_duration_is_put_together_by_hand() -> None:
    """No text has a value followed by a unit: `90 s ago` would be `1m30s ago`."""
    assert list(in_code(hand_made, CODE[:3])) == []


@pytest.mark.parametrize("entry", WORDS, ids=lambda entry: entry["never"])
def test_each_pattern_finds_its_example(entry: dict[str, str]) -> None:
    """A pattern that finds nothing guards nothing."""
    assert any(said.endswith(f"say {entry['say']}") for said in found(f"It says:\n{entry['as in']}."))


def test_a_text_in_two_halves_is_one() -> None:
    """A phrase is found across the lines of a literal, not in a docstring."""
    source = '"""The red button."""\nX = (\n    "the red "\n    f"button of {name}"\n)\n'
    assert list(literals(ast.parse(source))) == [(3, "the red button of {}")]
    assert found(_JOINT.sub("", source.partition("\n")[2]))


def test_pages_lose_their_code_only() -> None:
    """Code and lists of tests are taken out; a sentence stays."""
    page = "A red button.\n```sh\ngive a node back\n```\n- `tests/a.py`: test_shown_out\nsee `our marks` here\n"
    assert prose(page) == "A red button.\n\n\nsee  here\n"
