"""The election on a scripted store of Leases and clocks moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.responder.shell.kube.conftest import Told

from gpuheal_responder.shell.kube.api import Api, ApiError
from gpuheal_responder.shell.kube.election import Election, ElectionSettings


class Skewed:
    """A wall clock that is wrong by a day for each replica made: it must not matter."""

    made = 0

    def __init__(self) -> None:
        Skewed.made += 1
        self.at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=Skewed.made)

    def now(self) -> datetime:
        """The wrong time."""
        return self.at


class Hands:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.at = 50.0

    def __call__(self) -> float:
        return self.at


class Replica:
    """A candidate with clocks of its own."""

    def __init__(self, api: Api, identity: str) -> None:
        self.hands = Hands()
        self.clock = Skewed()
        self.election = Election(
            api, self.clock, namespace="gpuheal", name="lease", identity=identity, monotonic=self.hands
        )

    async def campaigns(self) -> bool:
        """One try; whether it leads now."""
        await self.election.campaign()
        return self.election.is_leader


@pytest.fixture
def pair(told: Told, told_api: Api) -> tuple[Replica, Replica]:
    """Two replicas of one deployment."""
    told.leases = {}
    return Replica(told_api, "a"), Replica(told_api, "b")


def leading(*replicas: Replica) -> tuple[bool, ...]:
    """Who believes to lead."""
    return tuple(r.election.is_leader for r in replicas)


async def test_s22_only_one_of_two_gets_the_lease(pair: tuple[Replica, Replica]) -> None:
    """The first to write leads, the other does not; however often it tries."""
    first, second = pair
    assert await first.campaigns()
    for _ in range(5):
        assert not await second.campaigns()
    assert leading(first, second) == (True, False)


async def test_s22_belief_ends_before_anyone_else_may_take_over(pair: tuple[Replica, Replica]) -> None:
    """10 s after its last renewal a leader stops; only 15 s after it saw that renewal does another take the Lease."""
    first, second = pair
    await first.campaigns()
    await second.campaigns()
    first.hands.at += 9.9
    second.hands.at += 9.9
    assert not await second.campaigns()
    assert leading(first, second) == (True, False)
    first.hands.at += 0.2
    second.hands.at += 0.2
    assert not await second.campaigns()
    assert leading(first, second) == (False, False)
    second.hands.at += 5
    assert await second.campaigns()
    assert leading(first, second) == (False, True)
    assert not await first.campaigns()


async def test_s22_a_renewal_seen_starts_the_wait_anew(pair: tuple[Replica, Replica]) -> None:
    """As long as the holder renews, another who waits far longer than any span never takes the Lease."""
    first, second = pair
    for _ in range(5):
        assert await first.campaigns()
        assert not await second.campaigns()
        first.hands.at += 8
        second.hands.at += 14


@pytest.mark.parametrize("verb", ["create", "replace"])
async def test_s22_a_race_that_was_lost_makes_no_leader(told: Told, told_api: Api, verb: str) -> None:
    """Free when it was read, taken by another when it is written: the API server's 409 leaves us a follower."""
    free = {"metadata": {"resourceVersion": "3"}, "spec": {"holderIdentity": ""}}
    found = (404, {"reason": "NotFound"}) if verb == "create" else (200, free)
    told.replies = [found, (409, {"reason": "Conflict"})]
    late = Replica(told_api, "late")
    with pytest.raises(ApiError):
        await late.campaigns()
    assert leading(late) == (False,)
    written = told.asked[-1]
    assert written.method == {"create": "POST", "replace": "PUT"}[verb]
    assert written.body["metadata"].get("resourceVersion") == (None if verb == "create" else "3")


async def test_a_leader_that_stops_gives_the_lease_back(told: Told, pair: tuple[Replica, Replica]) -> None:
    """After stop it believes nothing, the Lease names nobody, and another has it at once."""
    first, second = pair
    await first.campaigns()
    await first.election.stop()
    assert leading(first) == (False,)
    assert told.leases is not None
    assert told.leases["lease"]["spec"]["holderIdentity"] == ""
    assert await second.campaigns()
    assert told.leases["lease"]["spec"]["leaseTransitions"] == 2


async def test_a_follower_that_stops_leaves_the_lease_alone(told: Told, pair: tuple[Replica, Replica]) -> None:
    """Only what is ours is given back."""
    first, second = pair
    await first.campaigns()
    await second.campaigns()
    await second.election.stop()
    assert told.leases is not None
    assert told.leases["lease"]["spec"]["holderIdentity"] == "a"


async def test_an_unreachable_server_makes_no_leader(told: Told, told_api: Api) -> None:
    """A refused write leaves the replica a follower."""
    told.replies = [(404, {"reason": "NotFound"}), (503, {"reason": "Unavailable"})]
    alone = Replica(told_api, "a")
    with pytest.raises(ApiError):
        await alone.campaigns()
    assert leading(alone) == (False,)


@pytest.mark.parametrize(("duration", "renew", "retry"), [(15, 15, 2), (15, 10, 10), (10, 15, 2), (15, 10, 0)])
def test_spans_that_could_make_two_leaders_are_refused(duration: int, renew: int, retry: int) -> None:
    """retry < renew deadline < duration, or nothing."""
    with pytest.raises(ValueError, match="must hold"):
        ElectionSettings(
            duration=timedelta(seconds=duration),
            renew_deadline=timedelta(seconds=renew),
            retry=timedelta(seconds=retry),
        )


async def test_s22_a_suspended_machine_does_not_believe_that_it_leads_when_it_wakes(
    pair: tuple[Replica, Replica],
) -> None:
    """The monotonic clock stood still while the machine was suspended; the wall's did not, and that is enough."""
    one, _ = pair
    assert await one.campaigns()
    one.clock.at += timedelta(minutes=5)
    assert not one.election.is_leader


async def test_s22_one_that_slept_does_not_believe_when_it_wakes(pair: tuple[Replica, Replica]) -> None:
    """A jump of either clock ends the belief at once, and what follows is a new term, even if nobody else took over."""
    one, _ = pair
    assert await one.campaigns()
    assert one.election.term == 1
    one.clock.at += timedelta(seconds=11)  # the virtual machine stood still, its monotonic clock with it
    assert not one.election.is_leader
    assert await one.campaigns()
    assert one.election.term == 2
    assert await one.campaigns()
    assert one.election.term == 2
    one.hands.at += 11
    assert not one.election.is_leader
    assert await one.campaigns()
    assert one.election.term == 3
