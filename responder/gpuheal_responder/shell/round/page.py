"""The table of guards in ROUND.md: `python -m gpuheal_responder.shell.round.page responder/ROUND.md` renews it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gpuheal_responder.core.guards import GUARDS
from gpuheal_responder.core.guards.question import Moment

BEGIN, END = "<!-- guards: begin -->\n", "<!-- guards: end -->\n"


def table() -> str:
    """Return one row per guard, in the order in which refusals are told, and one column per moment."""
    head = ["guard", *(f"{m}" for m in Moment), "reads"]
    rows = [
        [
            f"{guard.family}: {guard.name}",
            *("●" if m in guard.moments else "" for m in Moment),
            ", ".join(sorted(guard.needs)),
        ]
        for guard in GUARDS
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *rows])


def renewed(text: str) -> str:
    """Return the page with the table as it is now; ValueError when it has no place for it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the table: expected {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{table()}{END}{after}"


def main(argv: Sequence[str]) -> None:
    """Renew the table in each of these files."""
    for name in argv:
        file = Path(name)
        file.write_text(renewed(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
