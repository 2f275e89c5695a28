"""Descriptions that name a number: filled in from the alert's wait and the numbers of rules, so that they stay true.

`{for}` is what the alert waits, `{NAME}` a number of numbers.yaml; a site that sets another one gets another text.
"""

from __future__ import annotations

import re
from dataclasses import replace

from gpuheal_rules.catalogue.model import Alert, Catalogue, Fault
from gpuheal_rules.catalogue.reader import format_duration

_WORD = re.compile(r"(?<!\{)\{([a-z_]+)\}(?!\})")
WAIT = "for"


def words(alert: Alert) -> tuple[str, ...]:
    """Return the names of the numbers that the alert's description takes."""
    return tuple(_WORD.findall(alert.template))


def told(catalogue: Catalogue) -> Catalogue:
    """Return the catalogue with its numbers in the descriptions of all alerts."""

    def alert(one: Alert) -> Alert:
        known = {WAIT: format_duration(one.wait), **{name: str(item) for name, item in catalogue.numbers.items()}}
        template = one.template or one.description
        return replace(one, description=_WORD.sub(lambda word: known.get(word[1], word[0]), template))

    def fault(one: Fault) -> Fault:
        return replace(one, alerts=tuple(map(alert, one.alerts)))

    return replace(catalogue, faults={slug: fault(one) for slug, one in catalogue.faults.items()})
