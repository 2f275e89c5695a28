"""A campaign counts what breaks, writes a script for each way of failing, and names what has been mended."""

from __future__ import annotations

from itertools import chain, repeat
from pathlib import Path

import pytest
from tests.chaos import campaign
from tests.chaos.campaign import Outcome, report, search, stale
from tests.chaos.grammar import THEMES
from tests.chaos.reverted import REVERTED
from tests.chaos.rogue import Idle
from tests.chaos.schedule import Schedule, act
from tests.chaos.world import Setup, World
from tests.mutants.run import MUTANTS


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a responder that looks and does nothing stand before the adversary."""
    start = World.start

    def lazily(world: World, letter: str) -> object:
        replica = start(world, letter)
        replica.engine = Idle()  # type: ignore[assignment]
        return replica

    monkeypatch.setattr(World, "start", lazily)


@pytest.mark.usefixtures("lazy")
def test_a_lazy_responder_is_found_out_and_the_way_is_written_down(tmp_path: Path) -> None:
    """Whoever does nothing leaves sick nodes: one broken GPU is enough, and the script says so."""
    outcome = search(1, 6, theme="B", quiet=True, found=tmp_path)
    assert outcome.counts["L-never-contained"] >= 4
    told = (tmp_path / "BROKEN.txt").read_text().splitlines()
    assert sum("L-never-contained" in line for line in told) == outcome.counts["L-never-contained"]
    report(outcome, tmp_path, "B")
    script = (tmp_path / "AF-L-never-contained-1.py").read_text()
    assert "await w.break_gpu(" in script
    assert script.count("await w.") <= 3
    assert "L-never-contained" in (tmp_path / "INDEX.md").read_text()


def test_every_kind_of_harm_has_a_mend_to_take_back() -> None:
    """Kinds A to K but I, which is about sockets; each by a patch that is there and a theme that is played."""
    assert {mend.kind for mend in REVERTED} == set("ABCDEFGHJK")
    assert all((MUTANTS / f"{mend.mutant}.patch").exists() for mend in REVERTED)
    assert {mend.theme for mend in REVERTED} <= THEMES.keys()


def test_a_campaign_that_is_stopped_tells_what_it_found() -> None:
    """After the schedules in hand it ends, and says how many were played."""
    asked = chain([False], repeat(True))
    outcome = search(1, 100, quiet=True, stop=lambda: next(asked))
    assert outcome.schedules == 20
    assert outcome.rate > 0


def test_two_processes_find_the_same() -> None:
    """Seeds are examined alike on one process and on two."""
    one, two = (search(1, 30, jobs=jobs, quiet=True) for jobs in (1, 2))
    assert one == two
    assert one.schedules == 30


def test_a_rule_that_breaks_no_more_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule whose own schedule is harmless now, and which no schedule of the campaign broke, is to be taken off."""
    harmless = Schedule(Setup(), (act("run", rounds=1, every=1),))
    monkeypatch.setattr(campaign, "KNOWN", {"S19-control-plane": harmless})
    assert stale(Outcome()) == ["S19-control-plane"]
    found = Outcome()
    found.take(1, ["S19-control-plane"])
    assert stale(found) == []
