"""kill -9 of the responder at every boundary of every step: the same end, and nothing disruptive happens twice."""

from __future__ import annotations

import pytest
from tests.integration.story import work
from tests.integration.story.conftest import Playing
from tests.integration.story.door import Deed
from tests.integration.story.play import Play, assert_as_before, steps_of, told
from tests.integration.story.test_whole import STEPS

from gpuheal_lab.servers.process import LabError
from gpuheal_lab.servers.stack import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(700)]

CHANGES = {"mark", "open", "condition-on", "lock", "evict", "job", "save", "condition-off", "release", "unlock"}
"""Every kind of changing request that a story makes."""
MARKS = [f"{step} succeeded" for step in STEPS[:3]]
STORY_S = 600.0
"""Some 25 starts of a process: a minute on an idle machine."""


@pytest.mark.parametrize("deed", list(Deed), ids=lambda deed: str(deed.name).lower())
def test_a_responder_killed_at_every_boundary_ends_as_one_that_lives(playing: Playing, deed: Deed) -> None:
    """The process dies at the first sight of each changing request, before or after the API server has done it."""
    play = playing(door=True)
    assert play.door is not None
    name = play.node()
    namespace = work.put(play)
    before = play.settled(name)
    victims = {f"evict {namespace}/{p['metadata']['name']}" for p in work.pods(play, namespace, name)}
    seen: set[str] = set()

    def judge(label: str) -> Deed | None:
        if label in seen:
            return None
        seen.add(label)
        return deed

    play.door.judge = judge
    play.break_gpu()
    try:
        wait_for(lambda: _closed(play, name), "the case to be closed", STORY_S)
    except LabError as problem:
        case = play.case(name)
        log = play.responder.log_tail(4000)
        pytest.fail(f"{problem}\nkilled at {play.door.killed_at}\n{case and told(case)}\n{log}")

    assert {label.split()[0] for label in play.door.killed_at} == CHANGES
    assert victims <= set(play.door.killed_at)
    closed = play.wait_closed(name)
    steps = steps_of(closed)
    assert set(steps) == {f"{step} succeeded" for step in STEPS}
    # A mark whose maker died before it could say so may be made and told again; nothing else.
    assert [step for step in steps if step not in MARKS] == [f"{step} succeeded" for step in STEPS[3:]]
    assert len(play.remediations()) == 1
    assert_as_before(play, name, before)
    assert play.door.done["job"] == len(play.jobs(name)) == len(play.fleet.reboots) == 1
    assert {label: play.door.done[label] for label in play.door.done if label.startswith("evict")} == dict.fromkeys(
        victims, 1
    )


def _closed(play: Play, name: str) -> bool:
    """Whether the story is over; a responder that was killed is started again, as its kubelet would."""
    if not play.responder.running:
        play.drop_lease()
        play.responder.launch()
    case = play.case(name)
    locks = "/apis/coordination.k8s.io/v1/namespaces/medik8s-leases/leases"
    return bool(case and case.get("status", {}).get("closedAt")) and not play.plane.admin.list(locks)
