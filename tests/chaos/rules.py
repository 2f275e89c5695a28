"""All rules of the adversary: what each promises, and which kinds of harm break it (letters of the safety review)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """A promise, and the kinds of mistake that break it."""

    kinds: str
    promise: str


RULES: Mapping[str, Rule] = {
    "E-sick-untold": Rule("AE", "A sick node that takes pods is contained, or people are told."),
    "E-standing-still": Rule("E", "A contained node is on its way, or people are told."),
    "E-unbounded-attempts": Rule("E", "A case has far fewer attempts than the store takes."),
    "E-unbounded-tries": Rule("E", "What is refused for good is not tried for ever."),
    "L-never-contained": Rule("AF", "When everything works again, a sick node is contained in the end."),
    "S06-contained-well": Rule("G", "Only a machine with a fault is contained."),
    "S07-against-frozen": Rule("B", "Nothing disruptive begins while the alert pipeline is distrusted."),
    "S07-against-held": Rule("B", "A held node is left alone."),
    "S07-against-locked": Rule("B", "A node whose Lease another remediator holds is left alone."),
    "S07-against-mode-observe": Rule("DE", "In mode observe nothing is changed."),
    "S07-against-opted-out": Rule("B", "A node that is taken out of our care is left alone."),
    "S07-against-paused": Rule("B", "While paused nothing is changed."),
    "S07-against-policy-gone": Rule("E", "Without a policy nothing disruptive is done."),
    "S07-against-silenced": Rule("D", "A silence stops a case at its next safe point."),
    "S07-against-unconfirmed": Rule("G", "Nothing disruptive begins on the word of a single kind of witness."),
    "S07-against-unproven": Rule("G", "Nothing disruptive begins before two sources say where the GPU sits."),
    "S08-restored-sick": Rule("BF", "A node is given back on proof that holds at this moment."),
    "S09-rebooted-well": Rule("B", "A machine is rebooted only for a fault of this boot."),
    "S10-foreign-watchdog": Rule("G", "Only our own watchdog keeps us alive."),
    "S11-burst-pool": Rule("K", "Nothing disruptive begins while a fifth of a pool falls sick at once."),
    "S11-burst-rack": Rule("K", "Nothing disruptive begins while three nodes of a rack fall sick at once."),
    "S14-last-of-pool": Rule("G", "The last schedulable node of a pool is disrupted only on approval."),
    "S14-mark-budget": Rule("C", "No more nodes are contained within ten minutes than the budget says."),
    "S14-pool-budget": Rule("B", "No more nodes of a pool are out at once than the budget says."),
    "S14-rack-budget": Rule("B", "No more nodes of a rack are out at once than the budget says."),
    "S15-attempts": Rule("C", "A machine is rebooted a bounded number of times a day."),
    "S15-cooldown": Rule("C", "Between two reboots of a machine the cooldown passes."),
    "S15-gang": Rule("B", "Of a gang one member at a time is disrupted."),
    "S16-not-contained": Rule("F", "Pods are evicted from contained nodes only."),
    "S16-operation-repeats": Rule("C", "No operation is asked for in two boots, or of two providers."),
    "S17-unapproved": Rule("G", "In mode propose nothing disruptive is done without approval."),
    "S18-foreign-undone": Rule("DF", "What others did to a node stays."),
    "S18-left-behind": Rule("EF", "A node without marks of ours has nothing of ours left."),
    "S18-take-back": Rule("D", "A person who takes a node back has it until something new happens."),
    "S18-unacknowledged": Rule("D", "A take-back is acknowledged in an Event."),
    "S19-control-plane": Rule("H", "Control-plane nodes are not disrupted."),
    "S19-not-empty": Rule("B", "A machine is rebooted only when it is empty."),
    "S19-protected": Rule("B", "Protected pods are not moved, nor their node rebooted."),
    "S22-not-leader": Rule("F", "Nobody but the leader writes."),
    "S24-no-world": Rule("J", "Every decision keeps its world, so that it can be replayed."),
    "X-exception": Rule("GI", "Nothing that anybody sends makes a round or a case fail."),
}
