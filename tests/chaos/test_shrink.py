"""A failing schedule is made smaller, printed as a program, and plays the same every time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.chaos import loop
from tests.chaos.ending import Ending
from tests.chaos.grammar import generate
from tests.chaos.schedule import Schedule, act
from tests.chaos.shrink import shrink
from tests.chaos.world import Setup

ROOT = Path(__file__).resolve().parents[2]


def names(schedule: Schedule) -> list[str]:
    """Return the names of the acts."""
    return [a.name for a in schedule.acts]


def test_only_what_makes_it_fail_is_left() -> None:
    """Of twenty acts the two that matter remain, in their order, with small numbers and the usual setup."""
    noise = [act("run", rounds=n + 1, every=2) for n in range(18)]
    acts = (*noise[:5], act("pause", on=True), *noise[5:12], act("delay_alerts", seconds=30), *noise[12:])
    large = Schedule(Setup(nodes=16, replicas=2), acts)
    small = shrink(
        large, lambda s: [n for n in names(s) if n in {"pause", "delay_alerts"}] == ["pause", "delay_alerts"]
    )
    assert names(small) == ["pause", "delay_alerts"]
    assert dict(small.acts[1].arguments) == {"seconds": 1}
    assert small.setup == Setup()


def test_what_never_fails_stays_as_it_is() -> None:
    """Without a failure nothing is left out."""
    schedule = generate(3)
    assert shrink(schedule, lambda _: False) == schedule


def calls_of(schedule: Schedule) -> list[str]:
    """Return every call of the responder that took effect, with its time."""

    async def whole(made: loop.VirtualLoop) -> list[str]:
        world = Ending(made, schedule.setup)
        for each in schedule.acts:
            await getattr(world, each.name)(**dict(each.arguments))
        await world.calm()
        return [f"{c.at} {c.actor} {c.method} {c.target} {c.detail}" for c in world.sim.gate.calls]

    return loop.run(whole)


def test_a_schedule_plays_the_same_every_time() -> None:
    """Two plays of one seed make the same calls at the same moments."""
    for seed in range(12):
        assert calls_of(generate(seed)) == calls_of(generate(seed))


def test_the_printed_script_is_a_program(tmp_path: Path) -> None:
    """The script of a harmless schedule runs by itself and says that nothing is broken."""
    file = tmp_path / "story.py"
    story = Schedule(Setup(gpus=1), (act("break_gpu", node=0, gpu=0, fault="bus"), act("run", rounds=3, every=2)))
    file.write_text(story.script())
    paths = [str(ROOT / p) for p in ("responder", "rules", "exporters", "deploy/lab", ".")]
    ran = subprocess.run(
        [sys.executable, str(file)], env={"PYTHONPATH": ":".join(paths)}, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "nothing is broken\n", ran.stderr
