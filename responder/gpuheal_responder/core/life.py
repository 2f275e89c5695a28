"""The life of a case: how looking at the world moves it and its attempts on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.alert import Fault
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import Due, Progress, ProgressState, Repeat, Step
from gpuheal_responder.core.undo import cordon_lost, has_cordon, taint_lost
from gpuheal_responder.core.world import OperationState, World

MOST_ATTEMPTS = 96
"""A case keeps no more; the schema of Remediations allows 128."""
MOST_REPEATS = 5
"""So often a mark that others take away is put back."""
MOST_FAULTS = 64
FOREIGN_REBOOT = "foreign-reboot"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def stamp(at: datetime) -> str:
    """Return a moment as a short text that sorts by time and never comes again: its milliseconds in base 36."""
    left, text = int(at.timestamp() * 1000), ""
    while left:
        left, digit = divmod(left, 36)
        text = _DIGITS[digit] + text
    return text or "0"


def begin(case: Case, due: Due, world: World) -> tuple[Case, Attempt]:
    """Return the case with an open attempt at the step: the one whose outcome is unknown, else a new one.

    Taking up the unknown attempt keeps its operation id, so a provider that got the call recognises it. A new id holds
    the time, so it never repeats, whatever became of earlier attempts' records.
    """
    latest = case.latest(due.step.key, due.target)
    if latest is not None and latest.open:
        return case, latest
    where = f"-{due.target.lower()}" if due.target else ""
    attempt = Attempt(
        step=due.step.key,
        action=due.action,
        phase=due.spec.phase,
        target=due.target,
        operation=f"{case.name}-{due.step.key}{where}-{stamp(world.now)}",
        state=AttemptState.INTENT,
        started_at=world.now,
        boot_id=world.node.boot_id if world.node else "",
        provider=provider_of(due, None, world),
        deadline_at=world.now + due.deadline if due.spec.repeat is Repeat.ONCE else None,
    )
    return replace(case, attempts=(*_room(case.attempts), attempt)), attempt


def provider_of(due: Due, attempt: Attempt | None, world: World) -> str:
    """Return who was asked to perform the step, or would be asked now; empty if no provider has part in it.

    An attempt of an earlier version does not tell: then it is whoever the policy and the site's settings name today.
    """
    if attempt is not None and attempt.provider:
        return attempt.provider
    named = due.spec.provider(due) if due.spec.provider is not None else None
    if named is None or world.providers is None:
        return ""
    return world.providers.get(named, named)


def provider_lost(due: Due, attempt: Attempt | None, world: World) -> str:
    """Return what is wrong with the provider of the step, empty if it can be asked.

    One that keeps its operations elsewhere now is another: its "not found" would say nothing.
    """
    asked = provider_of(due, attempt, world)
    if world.providers is None or due.spec.provider is None or asked in world.providers.values():
        return ""
    known = ", ".join(sorted(set(world.providers.values()))) or "none"
    return f"provider {asked or due.spec.provider(due) or 'default'} is not configured; configured: {known}"


def _room(attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """Return the attempts with room for one more; what goes first is neither a cure nor the newest of its key."""
    excess = len(attempts) + 1 - MOST_ATTEMPTS
    if excess <= 0:
        return attempts
    newest = {a.key: a.operation for a in attempts}
    kept = []
    for attempt in attempts:
        if excess > 0 and not attempt.cure and not attempt.open and newest[attempt.key] != attempt.operation:
            excess -= 1
        else:
            kept.append(attempt)
    return tuple(kept[max(0, excess) :])


def update(case: Case, attempt: Attempt) -> Case:
    """Return the case with the attempt of the same operation replaced."""
    return replace(case, attempts=tuple(attempt if a.operation == attempt.operation else a for a in case.attempts))


def settle(case: Case, policy: Policy | None, world: World) -> Case:
    """Return the case moved on to what the world shows: open attempts, GPUs, reboots by others, gangs, faults.

    The intent of a call that must not be repeated stays an intent until the other side says that it got the call. An
    operation whose provider cannot be asked any more does not fail: it may still happen.
    """
    case = _rebooted_by_others(case, world)
    steps = {s.key: s for s in policy.steps} if policy is not None else {}
    for step in policy.of(Phase.CONTAIN) if policy is not None else ():
        if case.latest(step.key) is None:
            case = _recognise(case, step, world)
    for attempt in case.attempts:
        if attempt.open and attempt.step in steps:
            due = Due(step=steps[attempt.step], target=attempt.target)
            progress = due.spec.progress(due, case, world)
            if progress.state is ProgressState.DONE or not provider_lost(due, attempt, world):
                case = _moved_on(case, attempt, due, progress, world)
    return _quieted(_joined(case, world), world)


def _moved_on(case: Case, attempt: Attempt, due: Due, progress: Progress, world: World) -> Case:
    match progress.state:
        case ProgressState.DONE | ProgressState.FAILED:
            done = progress.state is ProgressState.DONE
            attempt = replace(
                attempt,
                state=AttemptState.SUCCEEDED if done else AttemptState.FAILED,
                ended_at=world.now,
                reason=progress.reason,
                detail=progress.detail,
                blamed=progress.blamed,
            )
        case ProgressState.RUNNING:
            heard = world.operations.get(attempt.operation) in {OperationState.ACCEPTED, OperationState.SUCCEEDED}
            sure = due.spec.repeat is Repeat.SAFE or heard
            state = AttemptState.RUNNING if sure else attempt.state
            attempt = replace(attempt, state=state, reason=progress.reason, detail=progress.detail)
        case ProgressState.TODO:
            return case
    return update(case, attempt)


def _recognise(case: Case, step: Step, world: World) -> Case:
    """Return the case with a mark of ours on the node counted as made: its answer was lost, or its maker died."""
    due = Due(step=step)
    progress = step.spec.progress(due, case, world)
    record = world.node.record if world.node else None
    if progress.state is not ProgressState.DONE or record is None or record.case != case.name:
        return case
    case, attempt = begin(case, due, world)
    made = replace(
        attempt, state=AttemptState.SUCCEEDED, started_at=record.at, ended_at=world.now, reason=progress.reason
    )
    return update(case, made)


def _rebooted_by_others(case: Case, world: World) -> Case:
    """Return the case with the boot that the node is in; a boot that no cure of ours brought about is an attempt too.

    What a reboot by others did is then looked at before we reboot once more.
    """
    node = world.node
    if node is None or not node.boot_id or node.boot_id == case.boot_id or absent(case, world):
        return case
    before = case.boot_id or (node.record.boot_id if node.record is not None else "")
    case = replace(case, boot_id=node.boot_id)
    if before == node.boot_id:
        return case
    ours = any(
        a.cure and not a.foreign and not a.target and a.boot_id == before and a.state is not AttemptState.FAILED
        for a in case.attempts
    )
    if not before or ours or node.record is None or node.record.case != case.name:
        return case
    attempt = Attempt(
        step="",
        action=FOREIGN_REBOOT,
        phase=Phase.CURE,
        operation=f"{case.name}-{FOREIGN_REBOOT}-{stamp(world.now)}",
        state=AttemptState.SUCCEEDED,
        started_at=world.now,
        ended_at=world.now,
        reason=Reason.REBOOTED_BY_OTHERS,
        detail=f"boot ID {before} → {node.boot_id}",
        boot_id=before,
        foreign=True,
    )
    return replace(case, attempts=(*_room(case.attempts), attempt))


def _joined(case: Case, world: World) -> Case:
    """Return the case with what this look adds: faults, GPUs and their slots, gangs."""
    faults, gpus, slots, gangs = case.faults, set(case.gpus), dict(case.gpu_slots), set(case.gangs)
    if world.faults and case.closed_at is None:
        faults = _faults(case.faults, world.faults)
    node = world.node
    gpus |= {f.target.gpu_uuid for f in faults if f.target.gpu_uuid}
    gpus |= set(node.record.gpus) if node is not None and node.record is not None and contained(case, node) else set()
    exchanged = ev.exchanged(case, world.evidence)
    for identity in world.evidence.identities if world.evidence is not None else ():
        if not identity.gone:  # one that people took out days ago is not to be proven
            gpus.add(identity.gpu_uuid)
        if identity.slot:
            slots.setdefault(identity.gpu_uuid, identity.slot)  # the first known place: cards that move replace nobody
    gangs |= {p.gang for p in world.pods or () if p.gang}
    return replace(
        case,
        faults=faults,
        gpus=tuple(sorted(gpus - exchanged)),
        gpu_slots=_same_or(case.gpu_slots, slots),  # of exchanged ones too: who filled their place is asked every time
        gpu_capacity=case.gpu_capacity or (node.gpu_capacity if node is not None else 0),
        gangs=tuple(sorted(gangs)),
    )


def _same_or(before: Mapping[str, str], after: Mapping[str, str]) -> Mapping[str, str]:
    return before if before == after else after


def _faults(known: Sequence[Fault], seen: Sequence[Fault]) -> tuple[Fault, ...]:
    """Return the faults known and seen; one read from an undo record, which names no GPU, gives way to those that do.

    Else the node itself would count as faulty, and be cured by wider steps than its GPUs need.
    """
    began = {(f.slug, f.target): f.since for f in known}
    current = {
        (f.slug, f.target): replace(f, suppressions=(), since=min(f.since, began.get((f.slug, f.target), f.since)))
        for f in seen
    }
    named = {f.slug for f in seen if f.target.gpu_uuid}
    told = [f for f in known if f.alertname or f.target.gpu_uuid or f.slug not in named]
    kept = [current.pop((f.slug, f.target), f) for f in told]
    return (*kept, *current.values())[:MOST_FAULTS]


def _quieted(case: Case, world: World) -> Case:
    """Return the case with since when its faults are provably witnessed by nobody; one doubtful look starts anew."""
    if not ev.unwitnessed(case, world):
        return replace(case, quiet_since=None) if case.quiet_since is not None else case
    return case if case.quiet_since is not None else replace(case, quiet_since=world.now)


def last_cure_end(case: Case) -> datetime | None:
    """Return when the last cure ended, however it ended and whosever it was, or None before the first."""
    return max((a.ended_at for a in case.attempts if a.cure and a.ended_at), default=None)


def proof_since(case: Case, step: str) -> datetime:
    """Return the moment after which only evidence counts as proof: the last cure's end, else when proving began."""
    cured = last_cure_end(case)
    if cured is not None:
        return cured
    attempt = case.latest(step)
    return attempt.started_at if attempt is not None else case.opened_at


def settled_until(case: Case) -> datetime:
    """Return until when a proven case settles evidence: the moment from which on its proof has seen no fault.

    Not the moment of giving back: what happened between the last evaluation of the rules and then was seen by nobody.
    """
    proofs = [a.started_at for a in case.attempts if a.phase is Phase.PROVE]
    return last_cure_end(case) or max(proofs, default=case.opened_at)


def contained(case: Case, node: Node | None) -> bool:
    """Return whether the node carries this case's marks."""
    return node is not None and node.record is not None and node.record.case == case.name


def started(case: Case) -> bool:
    """Return whether a disruptive step of ours has begun."""
    return any(_disruptive(a) for a in case.attempts)


def in_flight(case: Case, node: Node | None) -> bool:
    """Return whether a disruptive step of ours has begun on this boot: what gates the start was asked then.

    A reboot by others ends the flight: what it did is looked at, and the start is asked about again. So is a step that
    is said to have begun before the node was marked, which no step of ours does.
    """
    since = max((a.started_at for a in case.attempts if a.foreign), default=None)
    record = node.record if node is not None else None
    if node is not None and (record is None or record.case != case.name):
        return False
    if record is not None and (since is None or record.at > since):
        since = record.at
    return any(_disruptive(a) and (since is None or a.started_at >= since) for a in case.attempts)


def _disruptive(attempt: Attempt) -> bool:
    return attempt.phase in {Phase.EMPTY, Phase.CURE} and not attempt.foreign


def disrupting(case: Case) -> bool:
    """Return whether the case's node is between drain and proof, or whether it was rebooted is not known.

    An escalated case does nothing more: its node is out, but it does not reboot unless a cure was left open.
    """
    return started(case) and (not case.escalated or any(a.cure and a.open for a in case.attempts))


def rebooted(case: Case, boot_id: str) -> bool:
    """Return whether the node has booted anew while the case was open, by us or by others, and is not proven since.

    A reboot that was only asked for is none yet: whoever uncordons then is no driver manager.
    """
    cures = [a for a in case.attempts if a.cure and not a.target and (a.foreign or a.boot_id != boot_id)]
    ends = [a.ended_at or a.started_at for a in cures]
    proofs = [a.started_at for a in case.attempts if a.phase is Phase.PROVE and a.state is AttemptState.SUCCEEDED]
    return bool(ends) and max(ends) > max(proofs, default=datetime.min.replace(tzinfo=UTC))


def taken_back(case: Case, node: Node) -> bool:
    """Return whether a person took the node back, told from what controllers do.

    Whoever takes our taint off means it. A lifted cordon means it too, unless the node has been rebooted meanwhile:
    driver managers and reboot daemons uncordon after every boot, whoever cordoned, and while our taint stands nothing
    is lost by putting the cordon back. Where the cordon is our only mark it is put back a few times.
    """
    record = node.record
    if record is None or record.case != case.name:
        return False
    if taint_lost(node):
        return True
    if not cordon_lost(node):
        return False
    if not rebooted(case, node.boot_id):
        return True
    put_back = sum(1 for a in case.attempts if a.reason == Reason.PUT_BACK)
    only_mark = has_cordon(record) and all(c.kind != "taint" for c in record.changes)
    return only_mark and put_back >= MOST_REPEATS


def absent(case: Case, world: World) -> bool:
    """Return whether the machine this case is about is not there: no such node, another machine, or another object."""
    node = world.node
    if node is None:
        return True
    other_machine = bool(case.system_uuid and node.system_uuid) and node.system_uuid != case.system_uuid
    return other_machine or bool(case.node_uid and node.uid != case.node_uid)
