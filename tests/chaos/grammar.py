"""From a seed to a schedule. A theme sets the scene of one kind of failure; acts of every other kind are mixed in.

The themes carry the letters of the kinds of harm in the safety review (A: silence taken for an acknowledgement … K:
fleet events taken for node faults). `L` is late news, `P` a change of providers, `S` kills the responder at every
boundary, `W` is wild: any act at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from tests.chaos.draft import ERRORS, HOUR, METHODS, Draft, any_act
from tests.chaos.schedule import Schedule
from tests.chaos.world import Setup

# Stages of a story with the usual ladder and a look every two seconds: 2–3 contained, 4 draining or rebooting,
# 7 verifying, 13 on probation, 19 restored.
STAGES = ((1, 3), (3, 5), (5, 8), (8, 13), (13, 18))


def _to_stage(d: Draft) -> None:
    low, high = d.rng.choice(STAGES)
    d.add("run", rounds=d.rng.randint(low, high), every=2)


def acknowledgement(d: Draft) -> None:
    """A: alerts stop coming although the fault goes on."""
    if d.maybe(0.4):
        d.setup["mode"] = "observe" if d.maybe(0.5) else "propose"
    if d.maybe(0.3):
        d.add("silence", node=d.here, on=True)
    d.breaks(fault=d.one("bus", "dead", "gsp"))
    if d.maybe(0.5):
        d.add("hold", node=d.here, on=True)
    d.run(1, 4)
    how = d.one("peers", "away", "blind", "dark", "frozen")
    if d.maybe(0.5):
        d.add("freeze", on=True)
    if how == "peers":
        for peer in range(d.one(1, 2, 2)):
            d.add("set_peer", peer=peer, state="empty")
    elif how == "dark":
        d.add("darken", node=d.here, on=True)
    else:
        d.add("set_prometheus", state=how)
    d.add("run", rounds=d.rng.randint(1, 4), every=d.one(1, 5, 200))
    for peer in range(2):
        d.add("set_peer", peer=peer, state="ok")
    d.add("set_prometheus", state="ok")
    d.add("darken", node=d.here, on=False)
    d.run(1, 4)


def late(d: Draft) -> None:
    """L: something happens after the last evaluation that a decision was made on, and before it is carried out."""
    every = d.one(1.7, 2.3, 3.1, 4.3)
    d.breaks(fault=d.one("bus", "gsp", "memory"))
    d.add("run", rounds=d.rng.randint(6, int(60 / every)), every=every)
    d.add("run", rounds=1, every=round(d.rng.uniform(0.1, every), 1))
    match d.one("fault", "fault", "person", "reboot"):
        case "fault":
            d.breaks(fault=d.one("bus", "gsp", "gsp", "dead"))
        case "person":
            d.add(d.one("uncordon", "remove_taint", "cordon"), node=d.here)
        case _:
            d.add("reboot", node=d.here)
    d.add("run", rounds=2, every=0.3)


def old_gates(d: Draft) -> None:
    """B: something changes between the moment a gate was asked and the moment it matters."""
    match d.one("held", "held", "foreign-reboot", "protected", "both"):
        case "held":
            d.breaks(fault=d.one("bus", "gsp", "memory"))
            d.add("run", rounds=d.rng.randint(10, 18), every=2)
            stop = d.one("pause", "hold", "freeze")
            more = {"node": d.here} if stop == "hold" else {}
            d.add(stop, **more, on=True)
            d.run(1, 5, every=10)
            d.breaks()
            d.add("run", rounds=d.rng.randint(2, 5), every=d.one(10, 60))
            d.add(stop, **more, on=False)
            d.run(2, 6)
        case "foreign-reboot":
            name = d.name()
            d.add("deploy", name=name, nodes=[d.here], minimum=1)
            d.breaks(fault=d.one("bus", "gsp", "dead"))
            d.add("run", rounds=d.rng.randint(3, 8), every=2)
            d.add("reboot", node=d.here)
            d.add("relax", name=name)
            d.run(3, 12, every=2)
        case "protected":
            name = d.name()
            d.add("deploy", name=name, nodes=[d.here], minimum=1)
            d.breaks()
            d.add("run", rounds=d.rng.randint(3, 8), every=2)
            d.add("pod", name=d.name(), node=d.here, protected=True)
            d.run(1, 4)
            d.add("relax", name=name)
            d.run(2, 6)
        case _:
            d.add("deploy", name=d.name(), nodes=[d.here, d.there], minimum=1)
            d.breaks()
            d.breaks(d.there)
            d.run(5, 15)


def forgotten_history(d: Draft) -> None:
    """C: what was done before is forgotten, by flaps, by deletions, by time."""
    for _ in range(d.rng.randint(1, 4)):
        d.breaks(fault=d.one("bus", "relapse", "dead", "gsp"))
        d.add("run", rounds=d.rng.randint(8, 25), every=2)
        if d.maybe(0.5):
            d.add("delete_case", node=d.here)
        if d.maybe(0.3):
            for _ in range(d.rng.randint(5, 22)):
                d.breaks(fault="faint")
                d.add("run", rounds=2, every=1)
                d.add("cure", node=d.here)
                d.add("run", rounds=2, every=1)
        if d.maybe(0.6):
            d.add("run", rounds=1, every=d.one(300, 700, HOUR // 2 + 60))


def whose_act(d: Draft) -> None:
    """D: people and controllers do the same things for different reasons."""
    match d.one("operator", "uncordon", "uncordon", "prior", "button", "mode"):
        case "operator":
            d.add("set_operator", on=True)
            d.breaks(fault=d.one("dead", "bus", "relapse"))
            d.run(8, 20, every=2)
        case "uncordon" | "prior" as how:
            if how == "prior":
                d.setup["first"] = d.one("cordon", "taint")
                d.add("cordon", node=d.here)
            d.breaks()
            _to_stage(d)
            d.add(d.one("uncordon", "uncordon", "remove_taint"), node=d.here)
            d.run(1, 6)
            if d.maybe(0.5):
                d.add(d.one("restart_prometheus", "crash", "change_leader"))
            if d.maybe(0.3):
                d.breaks()
            d.run(1, 8)
        case "button":
            name = d.name()
            d.add("deploy", name=name, nodes=[d.here], minimum=1)
            d.breaks()
            d.add("run", rounds=d.rng.randint(3, 8), every=2)
            d.add("silence", node=d.one(-1, d.here), on=True)
            if d.maybe(0.6):
                d.add("darken", node=d.here, on=True)
            d.run(1, 4)
            d.add("relax", name=name)
            d.run(1, 8)
        case _:
            d.breaks()
            _to_stage(d)
            d.add("set_mode", mode=d.one("observe", "propose"))
            d.run(2, 6)
            d.add("stand")


def no_end(d: Draft) -> None:
    """E: something fails for good, and somebody has to be told."""
    if d.maybe(0.4):
        d.add("forbid", method=d.one(*METHODS))
    d.breaks()
    _to_stage(d)
    match d.one("policy", "forbid", "undo", "condition", "half", "provider", "gang"):
        case "policy":
            d.add("set_policy", state=d.one("gone", "renamed", "observe"))
        case "forbid":
            d.add("forbid", method=d.one(*METHODS))
        case "undo":
            d.add("damage_undo", node=d.here, how=d.one("cut", "version", "empty"))
        case "condition":
            for _ in range(d.rng.randint(3, 40)):
                d.add("foreign_condition", node=d.here)
                d.add("run", rounds=1, every=2)
        case "half":
            d.add("fail", method="set_conditions", error="server-error", times=d.rng.randint(1, 5))
            d.add("run", rounds=d.rng.randint(1, 4), every=2)
            d.add("cure", node=d.here)
        case "provider":
            d.add("provider", trouble=d.one("refuses", "loses", "forgets"))
            if d.maybe(0.5):
                d.add("hang_at_boot", node=d.here, on=True)
        case _:
            d.add("gang", name=d.name(), nodes=[d.here, d.there])
            d.breaks(d.there)
    d.run(1, 6)
    if d.maybe(0.7):
        d.add("stand")


def fencing(d: Draft) -> None:
    """F: another replica leads, and the first one does not know."""
    d.setup["replicas"] = d.one(2, 2, 1)
    d.breaks()
    _to_stage(d)
    for _ in range(d.rng.randint(1, 3)):
        match d.one("stall", "slow", "stall-uncordon", "lag", "leader", "skew"):
            case "stall":
                d.add("stall", crossing=d.rng.randrange(6), seconds=d.one(5, 20, 60, 400), lose=d.maybe(0.7))
            case "slow":
                d.add("slow", crossing=d.rng.randrange(8), seconds=d.one(5, 10, 60))
                d.run(1, 4)
                d.breaks(d.there)
            case "stall-uncordon":
                d.add("uncordon", node=d.here)
                d.add("stall", crossing=d.rng.randrange(4), seconds=d.one(20, 60), lose=True)
                d.run(1, 4)
                d.breaks()
            case "lag":
                d.add("lag", what=d.one("nodes", "cases"))
                d.run(1, 4)
                d.add(d.one("change_leader", "crash"))
                d.run(1, 4)
                if d.maybe(0.6):
                    d.add("lag", what="")
            case "leader":
                d.add(d.one("change_leader", "crash"))
            case _:
                d.add("skew", replica=d.one("a", "b"), seconds=d.one(-60, -4, 4, 60, 600))
        d.run(1, 8)


def forged(d: Draft) -> None:
    """G, I: somebody says what is not true, or nothing that can be understood."""
    if d.maybe(0.3):
        d.setup |= {"nodes": 1, "mode": "propose"} if d.maybe(0.5) else {"nodes": 1}
        d.here = d.there = 0
    if d.maybe(0.5):
        d.breaks()
    for _ in range(d.rng.randint(1, 4)):
        match d.one("alert", "alert", "approval", "watchdog", "doubt"):
            case "doubt":
                if d.maybe(0.5):
                    d.add("identities", sources=d.one(0, 1))
                else:
                    d.add("witnesses", classes=1)
                d.breaks()
            case "alert":
                d.add("forge", node=d.here, how=d.one("plain", "foreign", "nobody", "junk", "junk"))
            case "approval":
                d.add(d.one("approve_wrongly", "approve"), node=d.here)
            case _:
                d.add("set_watchdog", whose=d.one("foreign", "none"))
        d.run(2, 8, every=2)
        if d.maybe(0.4):
            d.add("approve_wrongly", node=d.here)
            d.run(1, 6, every=2)


def large(d: Draft) -> None:
    """J: a busy node, whose decisions are large."""
    for _ in range(d.rng.randint(1, 3)):
        d.add("deploy", name=d.name(), nodes=[d.here] * d.rng.randint(10, 60), minimum=d.one(0, 1))
    d.breaks()
    d.run(4, 12, every=2)


def burst(d: Draft) -> None:
    """K: many nodes at once: a rack, or all over the fleet."""
    d.setup["nodes"] = d.one(8, 16)
    rack = d.one(True, False)
    many = [d.here - d.here % 4 + i for i in range(4)] if rack else list(range(d.setup["nodes"]))
    fault = d.one("bus", "gsp", "memory", "relapse")
    for node in d.rng.sample(many, min(len(many), d.rng.randint(3, 6))):
        d.breaks(node, fault)
        if d.maybe(0.3):
            d.run(1, 2, every=2)
    d.run(4, 12, every=2)
    d.add("run", rounds=d.rng.randint(1, 4), every=d.one(60, 200))


def boundaries(d: Draft) -> None:
    """S: the responder dies at any boundary, also again while it recovers, or its call's answer is lost."""
    d.breaks()
    for _ in range(d.rng.randint(1, 4)):
        if d.maybe(0.7):
            d.add("kill", crossing=d.rng.randrange(14))
        else:
            d.add("fail", method=d.one(*METHODS), error=d.one(*ERRORS), times=d.one(1, 1, 2, 4), applied=d.maybe(0.6))
        _to_stage(d)


def control_plane(d: Draft) -> None:
    """H: what would take a cluster down with it falls sick: a node of the control plane."""
    join = d.one(True, True, False)
    if join:
        d.add("label", node=d.here, key="node-role.kubernetes.io/control-plane", value="true")
    d.breaks()
    d.run(2, 6, every=2)
    if not join:
        d.add("label", node=d.here, key="node-role.kubernetes.io/control-plane", value="true")
    d.breaks(fault=d.one("bus", "gsp", "dead"))
    d.run(6, 14, every=2)


def providers(d: Draft) -> None:
    """P: whom a site asks for reboots changes while one is in progress, and the responder dies beside it."""
    d.setup |= {"provider": d.one("", "", "lab"), "reboots": d.one(1, 1, 2)}
    d.add("provider", trouble="waits")
    d.breaks(fault=d.one("bus", "gsp", "memory"))
    d.add("run", rounds=d.rng.randint(1, 3), every=2)
    d.add("kill", crossing=d.rng.randrange(10))
    d.run(1, 4, every=2)
    d.add("default_provider", name=d.one("job", "job", "gone"))
    d.add("run", rounds=d.rng.randint(2, 6), every=d.one(2, 2, 60))
    if d.maybe(0.3):
        d.add("default_provider", name="lab")
    d.add("provider", trouble="")
    d.run(3, 8, every=2)


def wild(d: Draft) -> None:
    """W: anything."""
    d.setup["replicas"] = d.one(1, 2)
    d.setup["mode"] = d.one("enforce", "enforce", "enforce", "propose")
    d.setup["reboots"] = d.one(1, 1, 2)
    d.setup["condition"] = d.maybe(0.8)
    d.setup["first"] = d.one("taint", "taint", "cordon")
    d.breaks()
    for _ in range(d.rng.randint(2, 8)):
        any_act(d)
        if d.maybe(0.7):
            d.run(1, 10)


Theme = Callable[[Draft], None]
THEMES: Mapping[str, Theme] = {
    "A": acknowledgement,
    "B": old_gates,
    "C": forgotten_history,
    "D": whose_act,
    "E": no_end,
    "F": fencing,
    "G": forged,
    "H": control_plane,
    "J": large,
    "K": burst,
    "L": late,
    "P": providers,
    "S": boundaries,
    "W": wild,
}
OFTEN = "AAABBBBCCDDDDEEEEFFFFGGHJKKLLPSSSSWWWWWW"
"""How often each theme is drawn."""


def generate(seed: int, theme: str = "") -> Schedule:
    """Return the schedule of a seed, of any theme or of the given one."""
    rng = Random(f"{seed}/{theme}")
    chosen = theme or rng.choice(OFTEN)
    draft = Draft(rng, here=rng.randrange(4), there=rng.randrange(4, 8))
    THEMES[chosen](draft)
    if chosen != "W" and rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            any_act(draft)
            draft.acts.insert(rng.randrange(len(draft.acts)), draft.acts.pop())
    return Schedule(Setup(**draft.setup), tuple(draft.acts))
