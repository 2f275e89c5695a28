"""What uses up the limit of a failure domain."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gpuheal_responder.actions import SPECS
from gpuheal_responder.core.budget import FABRIC, POOL, RACK, ZONE, Ledger, Standing, disrupted, disruption_limit
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.life import disrupting
from gpuheal_responder.core.policy import Limits
from gpuheal_responder.core.world import DomainCount

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DOMAINS = {POOL: "p", ZONE: "z"}


def count(dimension: str, nodes: int) -> DomainCount:
    """A domain with five nodes out, of which two may be rebooting."""
    return DomainCount(dimension=dimension, value="x", nodes=nodes, unavailable=5, disrupting=2)


@pytest.mark.parametrize(
    ("dimension", "used", "limit"), [(POOL, 5, 10), (RACK, 5, 10), (ZONE, 2, 5), (FABRIC, 5, 1)], ids=str
)
def test_a_zone_counts_what_may_be_rebooting_and_the_others_all_that_is_out(
    dimension: str, used: int, limit: int
) -> None:
    """Of 100 nodes: 10 % of a pool or rack out, 5 % of a zone rebooting, one of an NVLink domain out."""
    assert disrupted(count(dimension, 100)) == used
    assert disruption_limit(count(dimension, 100), Limits()) == limit


def test_the_ledger_counts_rebooting_nodes_of_each_domain_without_the_node_itself() -> None:
    """What has just been decided counts for the next decision of the round."""
    ledger = Ledger(Standing(node=name, domains=DOMAINS) for name in ("a", "b", "c"))
    ledger.put(Standing(node="a", domains=DOMAINS, unavailable=True, disrupting=True))
    assert {(d.dimension, d.unavailable, d.disrupting) for d in ledger.domains("b")} == {(POOL, 1, 1), (ZONE, 1, 1)}
    assert {d.disrupting for d in ledger.domains("a")} == {0}
    ledger.put(Standing(node="a", domains=DOMAINS, unavailable=True))
    assert {(d.unavailable, d.disrupting) for d in ledger.domains("b")} == {(1, 0)}


def attempt(action: str, state: AttemptState) -> Attempt:
    """An attempt at a step."""
    return Attempt(step=action, action=action, operation=action, state=state, started_at=NOW, phase=SPECS[action].phase)


DONE, OPEN = AttemptState.SUCCEEDED, AttemptState.INTENT


@pytest.mark.parametrize(
    ("attempts", "escalated", "expected"),
    [
        ([("taint", DONE)], "", False),
        ([("taint", DONE), ("drain", OPEN)], "", True),
        ([("drain", DONE), ("reboot", DONE), ("probation", OPEN)], "", True),
        ([("drain", DONE)], "drain-deadline", False),
        ([("drain", DONE), ("reboot", AttemptState.FAILED)], "reboot-failed", False),
        ([("drain", DONE), ("reboot", OPEN)], "operation-unknowable", True),
    ],
    ids=["contained", "draining", "proving", "gave up draining", "gave up", "outcome unknown"],
)
def test_a_node_may_be_rebooting_from_drain_to_proof(
    attempts: list[tuple[str, AttemptState]], escalated: str, expected: bool
) -> None:
    """An escalated case does nothing more, unless nobody knows what became of its reboot."""
    made = tuple(attempt(action, state) for action, state in attempts)
    case = Case(name="c", node="n", opened_at=NOW, policy="p", attempts=made, escalated=escalated)
    assert disrupting(case) is expected
