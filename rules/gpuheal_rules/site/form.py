"""Takes values out of a site's file and gathers everything that is wrong with it, so that one run shows all of it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from gpuheal_rules.catalogue.reader import format_duration, parse_duration
from gpuheal_rules.errors import ConfigError, ConfigErrors

MOST_LISTED = 20
"""Known words that a message lists; of more, only the nearest one is named."""


class Form:
    """One parsed file; methods return the typed value, or None after noting what is wrong with it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[ConfigError] = []

    def wrong(self, path: str, problem: str, hint: str = "") -> None:
        """Note a mistake at `path`."""
        self.problems.append(ConfigError(self.file, path, problem, hint))

    def unknown(self, path: str, what: str, given: object, known: Collection[str]) -> None:
        """Note a word that is none of `known`, with the one that was probably meant."""
        near = nearest(str(given), known)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(known)}" if len(known) <= MOST_LISTED else ""
        self.wrong(path, f"unknown {what} {str(given)[:80]!r}" if what != "key" else "unknown key", hint)

    def end(self) -> None:
        """Raise ConfigErrors when anything was wrong."""
        if self.problems:
            raise ConfigErrors(self.problems)

    def mapping(
        self, value: object, path: str, known: Collection[str] | None = None, what: str = "key"
    ) -> Mapping[str, Any]:
        """Return the entries of a mapping whose keys are known; a section of nothing but comments is empty."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.wrong(path, f"expected a mapping, got {said(value)}")
            return {}
        found = {}
        for key, item in value.items():
            where = f"{path}.{key}" if path else str(key)
            if not isinstance(key, str):
                self.wrong(where, f"expected a string as key, got {said(key)}")
            elif known is not None and key not in known:
                self.unknown(where, what, key, known)
            else:
                found[key] = item
        return found

    def texts(self, value: object, path: str) -> Sequence[str]:
        """Return the texts of a list, each once; None is empty."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(path, f"expected a list, got {said(value)}")
            return []
        found: list[str] = []
        for index, item in enumerate(value):
            text = self.text(item, f"{path}[{index}]")
            if text in found:
                self.wrong(f"{path}[{index}]", f"duplicate {text!r}")
            elif text is not None:
                found.append(text)
        return found

    def text(self, value: object, path: str) -> str | None:
        """Return a text that is not empty."""
        if isinstance(value, str) and value.strip():
            return value.strip()
        self.wrong(path, f"expected a string, got {said(value)}")
        return None

    def choice(self, value: object, path: str, known: Collection[str]) -> str | None:
        """Return a text that is one of `known`."""
        text = self.text(value, path)
        if text is not None and text not in known:
            self.wrong(path, f"expected one of {', '.join(known)}, got {text[:80]!r}")
            return None
        return text

    def number(self, value: object, path: str, unit: str) -> float | None:
        """Return a number; a flag is none."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(path, f"expected a number ({unit}), got {said(value)}")
            return None
        return float(value)

    def span(self, value: object, path: str, least: timedelta, most: timedelta) -> timedelta | None:
        """Return a span of time from `least` to `most`."""
        try:
            found = parse_duration(value if isinstance(value, str) else "")
        except (ValueError, OverflowError):
            hint = (
                "expected a number with a unit"
                if isinstance(value, int | float) and not isinstance(value, bool)
                else ""
            )
            self.wrong(path, f"expected a duration such as 15s, 5m or 1h30m, got {said(value)}", hint)
            return None
        if not least <= found <= most:
            bounds = f"from {format_duration(least)} to {format_duration(most)}"
            self.wrong(path, f"expected a duration {bounds}, got {said(value)}")
            return None
        return found


def nearest(given: str, known: Collection[str]) -> str:
    """Return the known word that `given` is probably meant to be, empty when none is near."""
    folded = {word.casefold(): word for word in known}
    found = difflib.get_close_matches(given[:80].casefold(), list(folded), 1, 0.7)
    return folded[found[0]] if found else ""


def said(value: object) -> str:
    """Return a value as a message shows it."""
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value)[:90]
