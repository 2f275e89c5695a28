"""The engine: look, decide, perform, look again. Woken by deliveries, and by itself at least every `tick`.

One round goes through all cases: first everything is decided, budgets counting along; then nodes are contained, for
that is what is urgent; then the rest is performed; last, what changed is stored and told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from gpuheal_responder.core import life
from gpuheal_responder.core.budget import DEFAULT_KEYS, Ledger
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.decide import decide
from gpuheal_responder.core.guards.permission import APPROVALS
from gpuheal_responder.core.guards.workload import UNREAD
from gpuheal_responder.core.life import started
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.step import Phase
from gpuheal_responder.core.verdict import Act, Done, Escalate, Hold, Verdict, Wait
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import ActionError, ObserveError
from gpuheal_responder.ports import Recorder, Stored
from gpuheal_responder.shell.process.slices import sliced
from gpuheal_responder.shell.record import decision
from gpuheal_responder.shell.round.agenda import Subject, subjects
from gpuheal_responder.shell.round.close import finish, surplus
from gpuheal_responder.shell.round.notes import note_of
from gpuheal_responder.shell.round.observe import Details, Look, Ports, details, observe, standing_of, world_of
from gpuheal_responder.shell.round.perform import Performer

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the engine looks and how much it does at once."""

    tick: timedelta = timedelta(seconds=30)
    """Longest time between two looks."""
    poll: timedelta = timedelta(seconds=2)
    """Time to the next look while a step is under way."""
    gap: timedelta = timedelta(milliseconds=200)
    """Shortest time between two looks, however often we are woken."""
    concurrency: int = 32
    """Steps performed and writes made at the same time."""


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """One node's part of a round."""

    node: str
    origin: Case
    case: Case
    policy: Policy
    stored: Stored | None
    world: World
    verdict: Verdict
    judged: Case
    """The case that the verdict was made on."""

    def record(self) -> Mapping[str, object]:
        """Return the decision in the form that can be replayed."""
        return decision(self.world.now, self.verdict, self.world, self.judged)


@dataclass(slots=True, kw_only=True)
class Board:
    """What decisions of one round count against each other: budgets, and gangs that already lose a member."""

    ledger: Ledger
    gangs: dict[str, tuple[str, ...]]


@dataclass(slots=True, kw_only=True)
class Engine:
    """Holds the ports and policies; all it remembers is what it said last, so a restart repeats nothing but words."""

    ports: Ports
    policies: Callable[[], Sequence[Policy]]
    cluster: str
    owner: str
    known_faults: frozenset[str]
    recorder: Recorder
    may_act: Callable[[], bool]
    heartbeat: Callable[[datetime], None] = lambda _: None
    pace: Pace = field(default_factory=Pace)
    budget_keys: Mapping[str, Sequence[str]] = field(default_factory=lambda: DEFAULT_KEYS)
    looked_at: datetime | None = None
    """When the last round ended well."""
    _stored: dict[str, tuple[object, ...]] = field(default_factory=dict)
    _told: dict[str, tuple[object, ...]] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _soon: bool = False
    _turn: int = 0
    _pause: timedelta = timedelta(0)

    def wake(self, nodes: Collection[str]) -> None:
        """Make the next look happen now; which nodes a delivery named does not matter, for every look sees all."""
        del nodes
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop` is set; a failed look is recorded and tried again."""
        while not stop.is_set():
            began = asyncio.get_running_loop().time()
            self._wake.clear()
            ok = await self._safe_round()
            self.recorder.ticked(asyncio.get_running_loop().time() - began, ok)
            await asyncio.sleep(self.pace.gap.total_seconds())
            pause = self.pace.poll if self._soon else min(self._pause, self.pace.tick)
            waits = [asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(stop.wait())]
            await asyncio.wait(waits, timeout=pause.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
            for waiting in waits:
                waiting.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _safe_round(self) -> bool:
        try:
            await self.round()
        except ObserveError as problem:
            log.warning("cannot look: %s", problem)
            self.recorder.looked((str(problem),), ())
            self._soon = True
            return False
        except Exception:
            log.exception("round failed")
            self._soon = True
            return False
        self.looked_at = self.ports.clock.now()
        return True

    async def round(self) -> tuple[Work, ...]:
        """Look once, decide about every case, perform what is due; return what was done."""
        self._soon = False
        self._pause = self.pace.tick
        if not self.may_act():
            self._soon = True  # the round after an election must not wait for a whole tick
            return ()
        look = await observe(self.ports, cluster=self.cluster, known_faults=self.known_faults)
        self.recorder.looked(look.problems, look.intake.dead)
        if look.intake.watchdog_at is not None:
            self.heartbeat(look.intake.watchdog_at)
        board = await self._board(look)
        cases_due = await subjects(look, self.policies(), self.owner)
        works = [w async for s in sliced(cases_due) if (w := self._decide(look, board, s, Details())) is not None]
        urgent = [w for w in works if _contains(w.verdict)]
        await self._each(urgent, self._perform)
        await self._each(self._in_turn(works), lambda work: self._go_on(look, board, work), until_woken=True)
        await self._each(surplus(look.closed, look.now), self.ports.remediations.delete)
        self._report(look, works)
        return tuple(works)

    def _in_turn(self, works: Sequence[Work]) -> Sequence[Work]:
        """Return the works from another one on in every round, so that a round cut short starves nobody."""
        self._turn = (self._turn + self.pace.concurrency) % max(1, len(works))
        return [*works[self._turn :], *works[: self._turn]]

    async def _go_on(self, look: Look, board: Board, work: Work) -> None:
        """Do for one case what is not urgent: look closer, perform or store, tell."""
        contained = _contains(work.verdict)
        if not contained:
            await self._look_closer(look, board, work)
        if not contained and work.stored is not None and isinstance(work.verdict, Act):
            await self._perform(work)
        else:
            await self._store(work)
        await self._tell(work)

    def _report(self, look: Look, works: Sequence[Work]) -> None:
        closed = [s.case for s in look.closed] + [w.case for w in works if w.case.closed_at is not None]
        self.recorder.standing([(w.case, w.verdict) for w in works if w.case.closed_at is None], closed)
        names = {w.case.name for w in works}
        self._stored = {name: said for name, said in self._stored.items() if name in names}
        self._told = {name: said for name, said in self._told.items() if name in names}

    async def _each(
        self, items: Sequence[T], do: Callable[[T], Awaitable[object]], *, until_woken: bool = False
    ) -> None:
        """Do something for each, at most `concurrency` at a time; one failure is logged and stops no other.

        With `until_woken` no more than a first batch is begun once a delivery has woken us: what is left over will be
        done by a later round, and a node that has just become faulty is contained before.
        """
        gate, starting = asyncio.Semaphore(self.pace.concurrency), asyncio.Lock()

        async def one(index: int, item: T) -> None:
            async with gate:
                async with starting:
                    await asyncio.sleep(0)  # as many as start at once would hold the loop in a row
                if until_woken and index >= self.pace.concurrency and self._wake.is_set():
                    self._soon = True
                    return
                try:
                    await do(item)
                except (ActionError, ObserveError) as problem:
                    log.warning("%s", problem)
                    self._soon = True
                except Exception:
                    log.exception("case failed")
                    self._soon = True

        await asyncio.gather(*(one(index, item) for index, item in enumerate(items)))

    async def _board(self, look: Look) -> Board:
        held = {name: stored.case for name, stored in look.open.items()}
        ledger = Ledger(())
        async for name, node in sliced(look.nodes.items()):
            faults = look.intake.faults.get(name, ())
            ledger.put(standing_of(node, held.get(name), faults, look.now, self.budget_keys))
        return Board(ledger=ledger, gangs={name: case.gangs for name, case in held.items() if started(case)})

    async def _look_closer(self, look: Look, board: Board, work: Work) -> None:
        """Read pods, lock and operation of a contained node and decide again, unless that could change nothing."""
        node = work.world.node
        if node is None or node.undo is None or isinstance(work.verdict, Done | Escalate):
            return
        if isinstance(work.verdict, Hold) and any(r.reason not in {UNREAD, *APPROVALS} for r in work.verdict.refusals):
            return
        seen = await details(self.ports, work.case, work.policy, node)
        again = self._decide(look, board, (work.node, work.origin, work.policy, work.stored), seen)
        if again is not None:
            work.case, work.world, work.verdict, work.judged = again.case, again.world, again.verdict, again.judged

    def _count(self, board: Board, work: Work) -> None:
        """Let what was just decided count in the budgets of those that are decided next."""
        standing = board.ledger.get(work.node)
        if standing is None or not isinstance(work.verdict, Act):
            return
        if work.verdict.step.spec.phase is Phase.CONTAIN:
            board.ledger.put(replace(standing, marked_recently=True))
        elif work.verdict.step.spec.disruptive:
            board.ledger.put(replace(standing, unavailable=True, disrupting=True, queued_at=None))
            board.gangs[work.node] = tuple({*work.case.gangs, *(p.gang for p in work.world.pods or () if p.gang)})

    def _decide(self, look: Look, board: Board, subject: Subject, seen: Details) -> Work | None:
        node, case, policy, stored = subject
        if policy is None:
            log.error("case %s: policy %s does not exist any more; nothing is done", case.name, case.policy)
            return None
        others = sorted({g for name, held in board.gangs.items() if name != node for g in held})
        world = world_of(look, node, policy, domains=board.ledger, seen=seen, gangs=others)
        settled = life.settle(case, policy, world)
        verdict = decide(settled, policy, world)
        judged = settled
        if isinstance(verdict, Escalate) and not settled.escalated:
            settled = replace(settled, escalated=verdict.reason)
        work = Work(
            node=node,
            origin=case,
            case=settled,
            policy=policy,
            stored=stored,
            world=world,
            verdict=verdict,
            judged=judged,
        )
        self._count(board, work)
        return work

    async def _perform(self, work: Work) -> None:
        assert isinstance(work.verdict, Act)
        began = self.ports.clock.now()
        self._soon = True
        done = await self._performer().perform(
            work.case, work.stored, work.policy, work.verdict.step, work.world, work.record()
        )
        work.case, work.stored = done.case, done.stored
        spent = (self.ports.clock.now() - began).total_seconds()
        self.recorder.performed(work.verdict.step.action, done.outcome, spent)
        if done.outcome not in {"marked", "published", "begun", "rebooting", "pods-leaving", "empty", "restored"}:
            log.info("%s %s: %s %s", work.case.name, work.verdict.step.key, done.outcome, done.detail)

    def _performer(self) -> Performer:
        return Performer(ports=self.ports, owner=self.owner, may_act=self.may_act)

    async def _store(self, work: Work) -> None:
        """Write the case if it is new, if it moved, or if the verdict is news."""
        if isinstance(work.verdict, Done):
            await finish(self.ports, work.world.node, work.case)
            work.case = replace(work.case, closed_at=self.ports.clock.now(), result=work.verdict.result)
        if not self.may_act():
            return
        if work.stored is None:
            work.stored = await self.ports.remediations.create(work.case, work.record())
        elif work.case != work.stored.case or self._stored.get(work.case.name) != signature(work.verdict):
            work.stored = await self.ports.remediations.save(
                Stored(case=work.case, version=work.stored.version), work.record()
            )
        self._stored[work.case.name] = signature(work.verdict)
        self._plan_next_look(work)

    def _plan_next_look(self, work: Work) -> None:
        if isinstance(work.verdict, Wait):
            self._soon = True
        if isinstance(work.verdict, Hold):
            for refusal in work.verdict.refusals:
                self._pause = min(self._pause, refusal.retry_in or self._pause)

    async def _tell(self, work: Work) -> None:
        if self._told.get(work.case.name) == signature(work.verdict):
            return
        self._told[work.case.name] = signature(work.verdict)
        self.recorder.decided(work.case, work.verdict)
        observe_only = isinstance(work.verdict, Hold) and any(r.reason == "mode-observe" for r in work.verdict.refusals)
        untouched = isinstance(work.verdict, Done) and not work.case.attempts
        if not observe_only and not untouched:
            await self.ports.cluster.publish(note_of(work.case, work.verdict))


def _contains(verdict: Verdict) -> bool:
    return isinstance(verdict, Act) and verdict.step.spec.phase is Phase.CONTAIN


def signature(verdict: Verdict) -> tuple[object, ...]:
    """Return what makes a verdict different from the last one told: kind, step, reasons and blockers, but no times."""
    match verdict:
        case Act():
            return ("act", verdict.step.key, verdict.reason)
        case Wait():
            return ("wait", verdict.step.key, verdict.reason)
        case Hold():
            return ("hold", verdict.step.key, tuple((r.reason, r.blockers) for r in verdict.refusals))
        case Escalate():
            return ("escalate", verdict.reason)
        case Done():
            return ("done", verdict.result)
