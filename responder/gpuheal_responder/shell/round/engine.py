"""The engine: look, decide, perform, look again. Woken by deliveries, and by itself at least every `tick`.

One round goes through all cases: first everything is decided, budgets counting along; then nodes are contained, for
that is what is urgent; then the rest is begun and what changed is stored and told. A step that takes long goes on by
itself: later rounds leave its case alone until it has ended, and look at all others meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from gpuheal_responder.actions.turns import Turns
from gpuheal_responder.core import life
from gpuheal_responder.core.budget import DEFAULT_KEYS
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.decide import decide
from gpuheal_responder.core.history import absorb
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.verdict import Act, Done, Escalate, Inspect, Wait
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import ActionError, ObserveError, Permanent, Transient
from gpuheal_responder.ports import Recorder, Stored
from gpuheal_responder.shell.process.slices import sliced
from gpuheal_responder.shell.round.agenda import Subject, agenda
from gpuheal_responder.shell.round.board import Board, board_of
from gpuheal_responder.shell.round.close import closed, finish, supersede, surplus
from gpuheal_responder.shell.round.conclude import conclude
from gpuheal_responder.shell.round.drafts import Drafts
from gpuheal_responder.shell.round.locks import Locks
from gpuheal_responder.shell.round.notes import note_of, unsaid
from gpuheal_responder.shell.round.observe import Details, Look, Ports, details, history_of, observe
from gpuheal_responder.shell.round.pace import Pace, pause_after
from gpuheal_responder.shell.round.perform import ERRORS, EXPECTED, FOR_GOOD, Order, Performed, Performer
from gpuheal_responder.shell.round.refusals import Refusals
from gpuheal_responder.shell.round.steps import Steps
from gpuheal_responder.shell.round.work import Work, contains, failed, signature, to_remember, unread

log = logging.getLogger(__name__)
T = TypeVar("T")
MOST_LOOKS = 4  # a decision may ask for a closer look so often in one round


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
    _steps: Steps = field(default_factory=Steps)
    _turns: Turns = field(default_factory=Turns)
    _begun: dict[str, Work] = field(default_factory=dict)
    _stored: dict[str, tuple[object, ...]] = field(default_factory=dict)
    _decided: dict[str, tuple[object, ...]] = field(default_factory=dict)
    _told: dict[str, tuple[object, ...]] = field(default_factory=dict)
    _led_at: datetime | None = None
    _over: dict[str, datetime | None] = field(default_factory=dict)  # our last look before we saw that it is over
    _locks: Locks = field(default_factory=Locks)
    _drafts: Drafts = field(default_factory=Drafts)
    _refusals: Refusals = field(default_factory=Refusals)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _soon: bool = False
    _turn: int = 0
    _pause: timedelta = timedelta(0)

    def wake(self) -> None:
        """Make the next look happen now; whom a delivery was about does not matter, for every look sees all."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop` is set; a failed look is recorded and tried again."""
        try:
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
        finally:
            await self._steps.cancel()

    async def _safe_round(self) -> bool:
        try:
            await self.round()
        except ObserveError as problem:
            log.warning("cannot read the cluster state: %s", problem)
            self.recorder.looked((str(problem),), ())
            self._soon = True
            return False
        except Exception:
            log.exception("round failed")
            self._soon = True
            return False
        return True

    async def round(self) -> tuple[Work, ...]:
        """Look once, decide about every case, perform what is due; return what was done."""
        try:
            return await self._round()
        except Exception:
            raise
        except BaseException:  # we are being ended: no step of ours may outlive us
            await self._steps.cancel()
            raise

    async def _round(self) -> tuple[Work, ...]:
        self._soon = False
        self._pause = self.pace.tick
        if not self.may_act():
            self._soon = True  # the round after an election must not wait for a whole tick
            self._led_at = None
            self.looked_at = self.ports.clock.now()
            return ()
        look = await observe(self.ports, cluster=self.cluster, known_faults=self.known_faults)
        if self.may_act():
            self.recorder.looked(look.problems, look.intake.dead)
        if look.intake.watchdog_at is not None:
            self.heartbeat(look.intake.watchdog_at)
        board = await board_of(look, self.budget_keys, self.policies())
        for begun in self._begun.values():
            if self._steps.busy(begun.case.name):  # its intent may not be stored yet
                self._count(board, begun)
        plan = await agenda(look, board, self.policies(), self.owner)
        free = [s for s in self._drafts.named(plan.subjects) if not self._steps.busy(s.case.name)]
        works = [self._judge(look, board, subject) async for subject in sliced(free)]
        urgent = [w for w in works if contains(w.verdict)]
        await self._each(urgent, lambda work: self._mark(look, work))
        await self._each(self._in_turn(works), lambda work: self._go_on(look, board, work), until_woken=True)
        await self._each(surplus(look.closed, look.now), self._forget)
        await self._each(look.twins, lambda twin: supersede(self.ports, twin, self.may_act))
        await self._steps.settle(self.pace.patience, self._wake)
        self._soon = self._soon or self._steps.any()
        if self.may_act():  # a replica deposed during the round would show what it saw for as long as it runs
            self.recorder.passed_over(plan.ignored, plan.unreadable, board.incidents.all())
            self._report(look, works)
        self.looked_at = self._led_at = look.now
        return tuple(works)

    async def _forget(self, name: str) -> None:
        if self.may_act():
            await self.ports.remediations.delete(name)

    def _in_turn(self, works: Sequence[Work]) -> Sequence[Work]:
        """Return the works from another one on in every round, so that a round cut short starves nobody."""
        self._turn = (self._turn + self.pace.concurrency) % max(1, len(works))
        return [*works[self._turn :], *works[: self._turn]]

    async def _go_on(self, look: Look, board: Board, work: Work) -> None:
        """Do for one case what is not urgent; what is refused again and again is tried ever more slowly, and told."""
        write = f"write {work.case.name}"
        if self._refusals.waits(write, look.now):
            self._soon = True
            if (hold := self._refusals.hold(write, look.now)) is not None:  # what has not happened is not told
                work.verdict = hold
                await self._tell(look, work)
            return
        try:
            await self._advance(look, board, work)
        except ActionError as problem:
            self._refusals.failed(write, problem, look.now)
            work.verdict = self._refusals.hold(write, look.now) or work.verdict
            raise
        if not self._steps.busy(work.case.name):
            self._refusals.succeeded(write)

    async def _advance(self, look: Look, board: Board, work: Work) -> None:
        """Look closer, begin the case's step or store it, tell."""
        contained = contains(work.verdict)
        if not contained:
            await self._look_closer(look, board, work)
            await self._locks.renew(work, self.ports.cluster, self.recorder, look.now)
        await conclude(self.ports, work, self.may_act)
        if not contained and work.stored is not None and isinstance(work.verdict, Act):
            self._begun[work.case.name] = work
            self._steps.begin(work.case.name, self._carry_out(look, work))
        else:
            await self._store(look, work)
            await self._tell(look, work)

    async def _carry_out(self, look: Look, work: Work) -> None:
        write = f"write {work.case.name}"
        try:
            await self._tell(look, work)
            done = await self._perform(look, work)
            if work.stored is not None and work.case != work.stored.case:
                await self._store(look, work)
            self._note(write, done, look)
        except ActionError as problem:
            self._refusals.failed(write, problem, look.now)
            log.warning("%s", problem)
        except ObserveError as problem:
            log.warning("%s", problem)
        except Exception:
            log.exception("case failed")

    def _report(self, look: Look, works: Sequence[Work]) -> None:
        self._begun = {name: work for name, work in self._begun.items() if self._steps.busy(name)}
        decided = {w.case.name for w in works}
        works = [*works, *(w for name, w in self._begun.items() if name not in decided)]
        over = [s.case for s in look.closed] + [w.case for w in works if w.case.closed_at is not None]
        still_open = [w for w in works if w.case.closed_at is None]
        refused = {w.case.name: self._refusals.first_hold(("write", "mark"), w.case.name, look.now) for w in still_open}
        self.recorder.standing([(w.case, refused[w.case.name] or w.verdict) for w in still_open], over)
        names = {w.case.name for w in works} | {s.case.name for s in look.open.values()}
        self._stored = {name: said for name, said in self._stored.items() if name in names}
        self._told = {name: said for name, said in self._told.items() if name in names}
        self._decided = {name: said for name, said in self._decided.items() if name in names}
        self._over = {name: at for name, at in self._over.items() if name in names}
        self._locks.keep(names)
        self._refusals.keep(names)

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

    async def _look_closer(self, look: Look, board: Board, work: Work) -> None:
        """Read what the decision asks for and decide again."""
        seen = Details()
        for _ in range(MOST_LOOKS):
            if not isinstance(work.verdict, Inspect) or work.policy is None:
                return
            needs = work.verdict.needs | seen.seen
            seen = await details(self.ports, work.case, work.policy, work.world.node, needs)
            subject = Subject(node=work.node, case=work.origin, policy=work.policy, stored=work.stored)
            again = self._decide(look, board, subject, seen)
            work.case, work.world, work.verdict, work.judged = again.case, again.world, again.verdict, again.judged

    def _count(self, board: Board, work: Work) -> None:
        """Let what was just decided count in the budgets of those that are decided next."""
        standing = board.ledger.get(work.node)
        if standing is None or not isinstance(work.verdict, Act):
            return
        if work.verdict.due.spec.phase is Phase.CONTAIN:
            board.ledger.put(replace(standing, marked_recently=True))
        elif work.verdict.due.spec.phase in {Phase.EMPTY, Phase.CURE}:
            board.ledger.put(replace(standing, unavailable=True, disrupting=True, queued_at=None))
            board.gangs[work.node] = tuple({*work.case.gangs, *(p.gang for p in work.world.pods or () if p.gang)})

    def _decide(self, look: Look, board: Board, subject: Subject, seen: Details) -> Work:
        world = board.world(look, subject.node, subject.policy, seen)
        settled = life.settle(subject.case, subject.policy, world)
        verdict = unread(subject) or decide(settled, subject.policy, world)
        judged = settled
        if isinstance(verdict, Escalate) and not settled.escalated:
            settled = replace(settled, escalated=verdict.reason)
        work = Work(
            node=subject.node,
            origin=subject.case,
            case=settled,
            policy=subject.policy,
            stored=subject.stored,
            world=world,
            verdict=verdict,
            judged=judged,
        )
        self._count(board, work)
        return work

    def _judge(self, look: Look, board: Board, subject: Subject) -> Work:
        """Decide about one case; what nobody foresaw about it must not keep all others from being decided about."""
        try:
            return self._decide(look, board, subject, Details())
        except Exception as problem:
            log.exception("cannot decide about case %s", subject.case.name)
            return failed(subject, World(now=look.now, node=look.nodes.get(subject.node)), problem)

    async def _mark(self, look: Look, work: Work) -> None:
        """Mark a node; a mark that does not succeed is tried on and on, and people are told that it does not."""
        mark = f"mark {work.case.name}"
        if self._refusals.waits(mark, look.now):
            self._soon = True
        else:
            self._note(mark, await self._perform(look, work), look)
        work.verdict = self._refusals.hold(mark, look.now) or work.verdict

    def _note(self, write: str, done: Performed, look: Look) -> None:
        """Take note of whether the other side refused what was done, so that it is told, and tried more slowly."""
        if done.outcome in ERRORS:
            kind = Permanent if done.outcome in FOR_GOOD else Transient
            self._refusals.failed(write, kind(done.outcome, done.detail or done.outcome), look.now)
        else:
            self._refusals.succeeded(write)

    async def _perform(self, look: Look, work: Work) -> Performed:
        assert isinstance(work.verdict, Act)
        assert work.policy is not None
        began = self.ports.clock.now()
        self._soon = True
        performer = Performer(
            ports=self.ports,
            owner=self.owner,
            may_act=self.may_act,
            remember=lambda case: self._remember(look, case),
            turns=self._turns,
        )
        due = work.verdict.due
        order = Order(
            case=work.case, stored=work.stored, policy=work.policy, due=due, world=work.world, record=work.record()
        )
        done = await performer.perform(order)
        work.case, work.stored = done.case, done.stored
        self.recorder.performed(due.action, done.outcome, (self.ports.clock.now() - began).total_seconds())
        if done.outcome not in EXPECTED:
            log.info("%s %s: %s %s", work.case.name, due.key, done.outcome, done.detail)
        return done

    async def _remember(self, look: Look, case: Case) -> None:
        """Put what the case adds to its machine's history where people's deletions of cases do not reach."""
        history = absorb(history_of(look, case.node, case.system_uuid), case, self.ports.clock.now())
        if history != look.histories.get(history.machine):
            await self.ports.histories.save(history)

    async def _store(self, look: Look, work: Work) -> None:
        """Write the case if it is new, if it moved, or if the verdict is news."""
        if isinstance(work.verdict, Done):
            before = self._over.setdefault(work.case.name, self._led_at)
            await finish(self.ports, work.case, work.policy, work.world, work.verdict, self.may_act)
            work.case = closed(work.case, work.origin, work.verdict, work.world, self.ports.clock.now(), before)
        else:
            self._over.pop(work.case.name, None)
        if not self.may_act() or (work.stored is not None and work.stored.unread):
            return
        if to_remember(work):
            await self._remember(look, work.case)
        if isinstance(work.verdict, Done):
            await self._tell(look, work)  # it has happened, whether or not it can be stored
        if not self.may_act():
            return
        if work.stored is None:
            work.stored = await self.ports.remediations.create(work.case, work.record())
        elif work.case != work.stored.case or self._stored.get(work.case.name) != signature(work.verdict):
            work.stored = await self.ports.remediations.save(
                Stored(case=work.case, version=work.stored.version), work.record()
            )
        self._stored[work.case.name] = signature(work.verdict)
        self._soon = self._soon or isinstance(work.verdict, Wait | Inspect)
        self._pause = pause_after(work.verdict, self._pause)

    async def _tell(self, look: Look, work: Work) -> None:
        """Tell people what is news; what could not be told is told again at the next look."""
        said = signature(work.verdict)
        if isinstance(work.verdict, Inspect) or self._told.get(work.case.name) == said:
            return
        if self._decided.get(work.case.name) != said:
            self._decided[work.case.name] = said
            self.recorder.decided(work.case, work.verdict)
        untouched, tell = unsaid(work.case, work.verdict), f"tell {work.case.name}"
        if not untouched and self._refusals.waits(tell, look.now):
            return
        if untouched or await self.ports.cluster.publish(note_of(work.case, work.verdict)):
            self._told[work.case.name] = said
            self._refusals.succeeded(tell)
        else:
            self._refusals.failed(tell, Transient(Reason.API_UNAVAILABLE, "the Event was not recorded"), look.now)
