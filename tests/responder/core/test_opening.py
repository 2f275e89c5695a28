"""Whether a fault without a case opens one, rule by rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.history import KEPT_FOR, Escalation, History, TakenFault
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.node import Node, UndoRecord, Unreadable
from gpuheal_responder.core.opening import Ignore, Open, case_from_undo, opening
from gpuheal_responder.core.policy import Policy, Requirement
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.sighting import Evidence, Identity, Witness, WitnessClass
from gpuheal_responder.core.world import World

NOW = datetime(2026, 1, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
NODE = Node(name="n1", uid="u1", system_uuid="s1", boot_id="b1", gpu_capacity=8, labels={"tier": "gold"})


def fault(slug: str = "lost", since: datetime = NOW - HOUR, gpu: str | None = "GPU-1") -> Fault:
    """Return a fault of the node since a moment."""
    return Fault(slug=slug, target=Target(node="n1", gpu_uuid=gpu), severity=Severity.CRITICAL, since=since)


def policy(name: str, *faults: str, nodes: tuple[Requirement, ...] = ()) -> Policy:
    """Return a policy of no steps for these faults."""
    return Policy(name=name, mode=Mode.ENFORCE, faults=faults, nodes=nodes, steps=())


def seen(at: datetime, of: str = "lost", gpu: str | None = "GPU-1", by: WitnessClass = WitnessClass.NVML) -> Witness:
    """Return a witness that last saw a fault at a moment."""
    return Witness(fault=of, gpu_uuid=gpu, witness_class=by, last_seen_at=at)


def world(
    *faults: Fault, witnesses: Sequence[Witness] = (), node: Node | None = NODE, history: History | None = None
) -> World:
    """Return what is known of the node at this moment."""
    evidence = Evidence(at=NOW, witnesses=tuple(witnesses)) if witnesses else None
    return World(now=NOW, node=node, faults=faults, evidence=evidence, history=history or History())


def outcome(found: Open | Ignore) -> str:
    """Return the reason of an Ignore, or the name of the policy that a case was opened under."""
    return str(found.reason) if isinstance(found, Ignore) else found.policy.name


LOST = policy("first", "lost", "hot")


def test_a_node_that_is_not_there_gets_no_case() -> None:
    """It is told by the name that its faults give it."""
    found = opening(world(fault(), node=None), (LOST,))
    assert isinstance(found, Ignore)
    assert (found.node, found.reason, [f.slug for f in found.faults]) == ("n1", Reason.UNKNOWN_NODE, ["lost"])
    assert isinstance(nothing := opening(world(node=None), (LOST,)), Ignore)
    assert nothing.node == ""


def test_marks_that_cannot_be_read_come_first() -> None:
    """Something of ours is on the node: what it was must be known before anything new begins."""
    node = replace(NODE, undo=Unreadable(problem="no JSON", text="{"))
    found = opening(world(fault(), node=node), (LOST,))
    assert isinstance(found, Ignore)
    assert found.reason == Reason.UNDO_UNREADABLE
    assert "no JSON" in found.message


GOLD, SILVER = (Requirement(key="tier", operator="In", values=(tier,)) for tier in ("gold", "silver"))


@pytest.mark.parametrize(
    ("policies", "faults", "said"),
    [
        ((), ("lost",), "no-policy"),
        ((policy("a", "hot"),), ("lost",), "no-policy"),
        ((policy("a", "lost"),), (), "no-policy"),
        ((policy("a", "lost"), policy("b", "lost")), ("lost",), "a"),
        ((policy("a", "hot"), policy("b", "lost")), ("lost",), "b"),
        ((policy("a", "hot"), policy("b", "lost")), ("lost", "hot"), "a"),
        ((policy("a", "lost", nodes=(SILVER,)), policy("b", "lost")), ("lost",), "b"),
        ((policy("a", "lost", nodes=(GOLD,)), policy("b", "lost")), ("lost",), "a"),
        ((policy("a", "lost", nodes=(GOLD, SILVER)),), ("lost",), "no-policy"),
    ],
)
def test_the_first_policy_that_answers_counts(policies: Sequence[Policy], faults: Sequence[str], said: str) -> None:
    """File order is priority; a node selector narrows, and all of its requirements have to be met."""
    found = opening(world(*(fault(slug) for slug in faults)), policies)
    assert outcome(found) == said
    assert (found.node if isinstance(found, Ignore) else found.case.node) == "n1"


@pytest.mark.parametrize(
    ("since", "last_seen", "said"),
    [
        (-HOUR, None, "evidence-settled"),
        (0 * HOUR, None, "evidence-settled"),
        (TICK, None, "first"),
        (HOUR, -TICK, "evidence-settled"),
        (HOUR, 0 * HOUR, "evidence-settled"),
        (-HOUR, TICK, "first"),
    ],
)
def test_evidence_from_before_the_node_was_given_back_opens_nothing(
    since: timedelta, last_seen: timedelta | None, said: str
) -> None:
    """When a witness last saw it counts; only where nobody tells, the beginning of the alert does."""
    settled = NOW - 2 * HOUR
    witnesses = () if last_seen is None else (seen(settled + last_seen), seen(NOW, of="other"), seen(NOW, gpu="GPU-2"))
    found = opening(
        world(fault(since=settled + since), witnesses=witnesses, history=History(settled_at=settled)), (LOST,)
    )
    assert outcome(found) == said


def test_the_newest_of_several_faults_counts() -> None:
    """One new fault is enough, and the case has all that the policy answers for."""
    settled = NOW - 2 * HOUR
    many = world(fault(since=settled), fault("hot", settled + TICK), fault("odd"), history=History(settled_at=settled))
    found = opening(many, (LOST,))
    assert isinstance(found, Open)
    assert [f.slug for f in found.case.faults] == ["lost", "hot"]


TAKEN = History(taken_at=NOW - HOUR, taken=(TakenFault(slug="lost", gpu_uuid="GPU-1"),))


@pytest.mark.parametrize(
    ("what", "witnesses", "said"),
    [
        (fault(), (), "taken-back"),
        (fault(since=NOW), (), "taken-back"),
        (fault(), (seen(NOW),), "taken-back"),
        (fault(), (seen(NOW - HOUR - TICK, by=WitnessClass.KERNEL),), "taken-back"),
        (fault(), (seen(NOW - HOUR, by=WitnessClass.KERNEL),), "first"),
        (fault(gpu="GPU-2", since=NOW - HOUR - TICK), (), "taken-back"),
        (fault(gpu="GPU-2", since=NOW - HOUR), (), "first"),
        (fault("hot", since=NOW - HOUR), (), "first"),
    ],
)
def test_what_stood_when_a_person_took_the_node_is_no_news(
    what: Fault, witnesses: Sequence[Witness], said: str
) -> None:
    """A level that goes on and an alert that begins anew are none; a kernel line and another fault are."""
    assert outcome(opening(world(what, witnesses=witnesses, history=TAKEN), (LOST,))) == said


@pytest.mark.parametrize(
    ("age", "began", "said"),
    [
        (KEPT_FOR - TICK, KEPT_FOR - 2 * TICK, "taken-back"),
        (KEPT_FOR, KEPT_FOR - TICK, "first"),
        (KEPT_FOR, KEPT_FOR + TICK, "taken-back"),
        (20 * KEPT_FOR, 21 * KEPT_FOR, "taken-back"),
    ],
)
def test_s18_a_persons_taking_lasts_as_long_as_the_fault_stands(age: timedelta, began: timedelta, said: str) -> None:
    """An alert of before that never ended is no news, however old; one that began anew is none for a week."""
    taken = replace(TAKEN, taken_at=NOW - age)
    assert outcome(opening(world(fault(since=NOW - began), history=taken), (LOST,))) == said


@pytest.mark.parametrize(
    "history", [TAKEN, History(settled_at=NOW - HOUR, taken_at=None)], ids=["taken back", "settled"]
)
def test_a_past_fault_keeps_no_other_policy_from_a_new_one(history: History) -> None:
    """A broken GPU that a person lives with must not hide, for as long as it stands, what another policy handles."""
    both = (policy("one", "lost"), policy("two", "hot"))
    old = fault(since=NOW - 2 * HOUR)
    assert outcome(opening(world(old, history=history), both)) in {"taken-back", "evidence-settled"}
    found = opening(world(old, fault("hot", NOW, "GPU-5"), history=history), both)
    assert outcome(found) == "two"
    assert isinstance(found, Open)
    assert [f.slug for f in found.case.faults] == ["hot"]


def test_the_reason_told_is_that_of_the_first_policy() -> None:
    """Where all is past, people read why the policy that would have acted does not."""
    both = (policy("one", "lost"), policy("two", "hot"))
    history = replace(TAKEN, settled_at=NOW - 3 * HOUR)
    found = opening(world(fault("lost"), fault("hot", NOW - 4 * HOUR), history=history), both)
    assert isinstance(found, Ignore)
    assert found.reason == Reason.TAKEN_BACK
    assert [f.slug for f in found.faults] == ["lost", "hot"]


def test_a_case_knows_its_machine_gpus_and_domains() -> None:
    """All GPUs of the node must be proven later, those of the alerts and those that any source knows."""
    identities = (
        Identity(gpu_uuid="GPU-2", source="exporter", slot="0000:03"),
        Identity(gpu_uuid="GPU-0", source="dcgm"),
    )
    here = replace(world(fault(), fault("hot", gpu=None)), evidence=Evidence(at=NOW, identities=identities))
    found = opening(here, (LOST,), {"rack": "r1"})
    assert isinstance(found, Open)
    assert found.case == Case(
        name=found.case.name,
        node="n1",
        opened_at=NOW,
        policy="first",
        faults=(fault(), fault("hot", gpu=None)),
        node_uid="u1",
        system_uuid="s1",
        boot_id="b1",
        gpus=("GPU-0", "GPU-1", "GPU-2"),
        gpu_slots={"GPU-2": "0000:03"},
        gpu_capacity=8,
        domains={"rack": "r1"},
    )


@settings(max_examples=60, deadline=None)
@given(
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", fullmatch=True),
    st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_a_case_has_a_name_that_kubernetes_takes(name: str, now: datetime) -> None:
    """Whatever the node is called: the name begins as the node's does, ends with the moment, and is not too long."""
    found = opening(replace(world(fault(), node=replace(NODE, name=name)), now=now), (LOST,))
    assert isinstance(found, Open)
    made = found.case.name
    assert len(made) <= 253
    assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", made)
    assert made.startswith(name[:200].rstrip("-."))
    later = opening(
        replace(world(fault(), node=replace(NODE, name=name)), now=now + timedelta(milliseconds=2)), (LOST,)
    )
    assert isinstance(later, Open)
    assert later.case.name != made


RECORD = UndoRecord(
    case="n1-x",
    owner="gpuheal",
    at=NOW - HOUR,
    policy="p",
    faults=("lost", "hot"),
    system_uuid="s0",
    node_uid="u0",
    boot_id="b0",
    gpus=("GPU-1",),
)


@pytest.mark.parametrize(
    ("known", "escalated"),
    [
        (None, ""),
        (Escalation(case="n1-x", reason="ladder-exhausted"), "ladder-exhausted"),
        (Escalation(case="n1-y", reason="ladder-exhausted"), ""),
    ],
)
def test_a_case_is_made_again_from_the_marks_on_its_node(known: Escalation | None, escalated: str) -> None:
    """As the record tells it, not as the node is now; and with people, if that is where it was."""
    here = world(history=History(escalated=known))
    found = case_from_undo(NODE, RECORD, here)
    assert found == Case(
        name="n1-x",
        node="n1",
        opened_at=NOW - HOUR,
        policy="p",
        faults=(fault("lost", gpu=None), fault("hot", gpu=None)),
        node_uid="u0",
        system_uuid="s0",
        boot_id="b0",
        gpus=("GPU-1",),
        gpu_capacity=8,
        escalated=escalated,
    )


def test_a_gpu_that_a_source_shows_no_more_is_known_and_not_to_be_proven() -> None:
    """One that fell off the bus is told by where it was; one that was taken out days ago does not keep the node out."""
    lost = Identity(gpu_uuid="GPU-1", source="dcgm", slot="0000:01", gone=True)
    taken_out = Identity(gpu_uuid="GPU-9", source="dcgm", slot="0000:09", gone=True)
    here = replace(world(fault()), evidence=Evidence(at=NOW, identities=(lost, taken_out)))
    found = opening(here, (LOST,))
    assert isinstance(found, Open)
    assert (found.case.gpus, set(found.case.gpu_slots)) == (("GPU-1",), {"GPU-1", "GPU-9"})
