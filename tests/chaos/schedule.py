"""A schedule: a setup and acts with plain arguments. It is played, printed as a script, and made smaller."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from tests.chaos import loop
from tests.chaos.ending import Ending
from tests.chaos.observer import Violation
from tests.chaos.world import Setup


@dataclass(frozen=True, slots=True)
class Act:
    """One act: the name of a method of the world, and its arguments."""

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"await w.{self.name}({', '.join(f'{k}={v!r}' for k, v in self.arguments)})"


def act(name: str, /, **arguments: Any) -> Act:
    """Return an act."""
    return Act(name, tuple(arguments.items()))


@dataclass(frozen=True, slots=True)
class Schedule:
    """What happens in one world, from its first to its last moment."""

    setup: Setup
    acts: tuple[Act, ...]

    def script(self, violations: Iterable[Violation] = ()) -> str:
        """Return a Python program that plays the schedule and prints what it breaks."""
        changed = [f"{f.name}={getattr(self.setup, f.name)!r}" for f in fields(Setup) if _differs(self.setup, f.name)]
        return "\n".join(
            (
                *(f"# {violation}" for violation in violations),
                "from tests.chaos.schedule import Setup, main",
                "",
                "",
                "async def story(w):",
                *(f"    {a}" for a in self.acts),
                "    await w.calm()",
                "",
                "",
                f"main(story, Setup({', '.join(changed)}))",
                "",
            )
        )


def _differs(setup: Setup, name: str) -> bool:
    return bool(getattr(setup, name) != getattr(Setup(), name))


def play(schedule: Schedule) -> list[Violation]:
    """Return every promise that is broken while the schedule is played."""

    async def story(world: Ending) -> None:
        for each in schedule.acts:
            await getattr(world, each.name)(**dict(each.arguments))
        await world.calm()

    return told(story, schedule.setup)


def told(story: Any, setup: Setup) -> list[Violation]:
    """Return every promise that is broken while the story goes on in a world of this setup."""

    async def whole(made: loop.VirtualLoop) -> list[Violation]:
        world = Ending(made, setup)
        with world.listening():
            await story(world)
        return world.observer.found

    return loop.run(whole)


def main(story: Any, setup: Setup) -> None:
    """Play a script and print what it breaks."""
    for violation in told(story, setup) or ("nothing is broken",):
        print(violation)
