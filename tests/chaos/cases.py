"""Small schedules that have broken rules, as campaigns found and shrank them, by rule; a word tells two apart."""

from __future__ import annotations

from collections.abc import Mapping

from tests.chaos.schedule import Act, Schedule, act
from tests.chaos.world import Setup


def _story(*acts: Act, **setup: object) -> Schedule:
    """Return the schedule of these acts; the first faults are evaluated before it goes on."""
    first = next(i for i, a in enumerate(acts) if a.name == "break_gpu")
    after = next((i for i, a in enumerate(acts) if i > first and a.name != "break_gpu"), len(acts))
    seen = act("pass_time", seconds=5)
    return Schedule(Setup(**setup), (*acts[:after], seen, *acts[after:]))  # type: ignore[arg-type]


def _breaks(node: int = 0, gpu: int = 0, fault: str = "bus") -> Act:
    return act("break_gpu", node=node, gpu=gpu, fault=fault)


def _run(rounds: int, every: int = 1) -> Act:
    return act("run", rounds=rounds, every=every)


_AWAY = (_breaks(), act("hold", node=0, on=True), _run(1), act("darken", node=0, on=True), _run(1))
_LATE = (
    _breaks(fault="gsp"),
    act("run", rounds=15, every=2.3),
    act("pass_time", seconds=1.9),
    _breaks(gpu=1, fault="gsp"),
    act("run", rounds=1, every=0.4),
)
_DRAIN = (act("deploy", name="app-1", nodes=[0], minimum=1), _breaks(), _run(3))
_BURST = (_breaks(0, fault="gsp"), _breaks(1, fault="gsp"), _breaks(2, fault="gsp"))

CASES: Mapping[str, Schedule] = {
    "S09-rebooted-well (dark)": Schedule(
        Setup(reboots=2),
        (
            _breaks(),
            _run(8, 2),
            act("darken", node=0, on=True),
            *(_run(rounds, every) for rounds, every in ((5, 5), (8, 5), (3, 9), (6, 2))),
        ),
    ),
    "E-sick-untold": _story(*_LATE),
    "L-never-contained": _story(*_LATE),
    "E-standing-still": _story(
        act("forbid", method="set_conditions"),
        _breaks(fault="memory"),
        _run(1),
        act("delete_case", node=0),
        act("cure", node=0),
        act("stand"),
    ),
    "E-sick-untold (silence)": _story(*_AWAY),
    "E-sick-untold (no policy)": _story(_breaks(fault="relapse"), act("set_policy", state="gone"), act("stand")),
    "E-sick-untold (dark)": _story(act("darken", node=3, on=True), _breaks(3, 1), act("stand")),
    "E-standing-still (record)": _story(_breaks(), _run(1), act("damage_undo", node=0, how="cut")),
    "E-unbounded-attempts": _story(_breaks(), _run(1), act("forbid", method="mark"), act("stand")),
    "E-unbounded-tries": _story(_breaks(), act("forbid", method="unlock"), act("stand")),
    "S07-against-frozen": _story(
        _breaks(),
        act("freeze", on=True),
        _run(1),
        act("uncordon", node=0),
        act("stall", crossing=0, seconds=4, lose=True),
        _run(2),
        _breaks(gpu=1),
        _run(2),
        replicas=2,
    ),
    "S07-against-opted-out": _story(
        act("lag", what="nodes"), act("autoscaler", node=0, on=True), _run(1), _breaks(), _run(2)
    ),
    "S07-against-silenced": _story(
        *_DRAIN,
        act("silence", node=0, on=True),
        act("darken", node=0, on=True),
        act("relax", name="app-1"),
        _run(2),
    ),
    "S08-restored-sick": _story(
        _breaks(fault="gsp"), _run(13, 2), act("freeze", on=True), _run(1, 10), _breaks(gpu=1), _run(1, 5)
    ),
    "S09-rebooted-well": _story(*_DRAIN, act("reboot", node=0)),
    "S11-burst-pool": _story(*(_breaks(node, fault="gsp") for node in (0, 1, 4, 5, 6))),
    "S11-burst-rack": _story(*_BURST),
    "S11-burst-rack (dark)": _story(
        *(_breaks(node, fault="relapse") for node in (2, 1, 3)),
        _run(1),
        act("darken", node=2, on=True),
        _run(3, 6),
    ),
    "S14-last-of-pool": _story(
        _breaks(),
        _run(3),
        act("approve_wrongly", node=0),
        _run(1),
        act("approve_wrongly", node=0),
        nodes=1,
    ),
    "S14-mark-budget": _story(_breaks(0), _breaks(1)),
    "S14-pool-budget": _story(_breaks(1), act("cordon", node=1), _breaks(0)),
    "S14-rack-budget": _story(_breaks(1), act("cordon", node=1), _breaks(0)),
    "S15-attempts": _story(_breaks(fault="relapse"), _run(3), act("remove_taint", node=0), _run(4, 5)),
    "S16-operation-repeats": _story(
        _breaks(fault="relapse"), _run(6, 2), act("delete_case", node=0), _breaks(gpu=1, fault="faint")
    ),
    "S18-left-behind": _story(
        _breaks(fault="gsp"),
        _run(1),
        act("uncordon", node=0),
        act("stall", crossing=1, seconds=5, lose=True),
        _run(1),
        _breaks(gpu=1, fault="memory"),
        _run(1),
        act("restart_prometheus"),
        _run(2),
        replicas=2,
    ),
    "S18-take-back (refused)": _story(
        _breaks(fault="relapse"),
        act("provider", trouble="refuses"),
        _run(3),
        act("uncordon", node=0),
        _run(2),
        reboots=2,
    ),
    "S18-unacknowledged (unstored)": _story(
        act("forbid", method="create"), _breaks(fault="gsp"), _run(1), act("uncordon", node=0), _run(2)
    ),
    "E-standing-still (incident)": _story(*_BURST),
    "E-unbounded-tries (unsaved)": _story(_breaks(fault="memory"), act("forbid", method="save"), act("stand")),
    "E-standing-still (unsaved)": _story(_breaks(fault="memory"), act("forbid", method="save"), act("stand")),
    "S22-not-leader (create)": _story(_breaks(), act("stall", crossing=2, seconds=5, lose=True), _run(3)),
    "S18-take-back": _story(act("cordon", node=0), _breaks(fault="relapse"), _run(1), act("uncordon", node=0)),
    "S18-unacknowledged": _story(_breaks(fault="dead"), _run(7, 2), act("uncordon", node=0)),
    "S19-protected": _story(*_DRAIN, act("pod", name="app-2", node=0, protected=True), _run(1)),
    "S22-not-leader": _story(
        _breaks(), _run(1), act("uncordon", node=0), act("stall", crossing=1, seconds=5, lose=True), _run(8), replicas=2
    ),
}
