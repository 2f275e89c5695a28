"""The first mistake in plain data that cattrs could not make a value of: where it is, what it is, and what may help."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Sequence

import cattrs

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 2, 80, 80
"""A few YAML aliases can mean a value whose whole text would fill the memory."""


class Mistake(ValueError):
    """What a value should have been, and what may help; `key` is where in the value the mistake is."""

    def __init__(self, problem: str, hint: str = "", key: str = "") -> None:
        self.hint = hint
        self.key = key
        super().__init__(problem)


def first(
    problem: BaseException, path: str, keys: Callable[[type], Sequence[str]], spell: Callable[[str], str] = str
) -> tuple[str, str | None, str]:
    """Return path, text and hint of the first mistake that cattrs has gathered; no text for what is no mistake.

    `keys` are those that a dataclass has in the data, `spell` makes one of a field's name.
    """
    match problem:
        case cattrs.BaseValidationError():
            unknown = [e for e in problem.exceptions if isinstance(e, cattrs.ForbiddenExtraKeysError)]
            inner = (unknown or problem.exceptions)[0]
            return first(inner, _place(inner, path, spell), keys, spell)
        case cattrs.ForbiddenExtraKeysError():
            key, known = sorted(map(str, problem.extra_fields))[0], keys(problem.cl)
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            return join(path, key), "unknown key", hint
        case KeyError():
            return path, "missing", ""
        case Mistake():
            return path + problem.key, str(problem), problem.hint
        case ValueError() | OverflowError():
            return path, str(problem), ""
    return path, None, ""


def _place(problem: BaseException, path: str, spell: Callable[[str], str]) -> str:
    for note in getattr(problem, "__notes__", ()):
        if isinstance(note, cattrs.AttributeValidationNote):
            return join(path, spell(note.name))
        if isinstance(note, cattrs.IterableValidationNote):
            return f"{path}[{note.index}]"
    return path


def join(path: str, key: str) -> str:
    """Return the path of a key of what stands at `path`."""
    return f"{path}.{key}" if path else key


def called(raw: object) -> str:
    """Return a value as a message shows it: in a few words, whatever it holds."""
    return _BRIEF.repr(raw)
