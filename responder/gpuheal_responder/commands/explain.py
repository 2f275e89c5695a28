"""`gpuheal explain`: the responder's own decision, made on files. Nothing is asked or changed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuheal_responder.errors import ConfigError

if TYPE_CHECKING:
    from gpuheal_responder.core.alert import Alert
    from gpuheal_responder.core.case import Case
    from gpuheal_responder.core.policy import Policy
    from gpuheal_responder.core.verdict import Verdict
    from gpuheal_responder.core.world import World

PEER = "file"
LARGEST_FILE = 64 * 1024 * 1024


def main(argv: Sequence[str]) -> int:
    """Print the verdict and every guard's answer; ConfigError for a file that can't be used."""
    parser = argparse.ArgumentParser(
        prog="gpuheal explain",
        description="Show what gpuheal would decide for the given alerts and cluster state, and what each guard says; "
        "or replay a recorded decision.",
    )
    parser.add_argument(
        "alert",
        nargs="?",
        type=Path,
        metavar="ALERT.json",
        help="alerts, as in Alertmanager's API v2 or a webhook message",
    )
    parser.add_argument(
        "world",
        nargs="?",
        type=Path,
        metavar="WORLD.yaml",
        help="cluster state (node, pods, evidence), as in the `world` of a decision record",
    )
    parser.add_argument("--policies", action="append", type=Path, required=True, metavar="FILE", help="policy file")
    parser.add_argument("--case", type=Path, metavar="FILE", help="state of an open case; default: a new case")
    parser.add_argument(
        "--cluster", default="", help="value of this cluster's `cluster` label; alerts with another value are rejected"
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="decision record to replay, instead of ALERT.json and WORLD.yaml"
    )
    args = parser.parse_args(argv)
    if (args.record is None) == (args.world is None):
        parser.error("give ALERT.json and WORLD.yaml, or --record")
    from gpuheal_responder.shell.policies import known_faults, read_policies

    known = known_faults(args.policies)
    policies = read_policies(args.policies, known)
    lines = _replay(args.record, policies) if args.record is not None else _explain(args, policies, known)
    print("\n".join(lines))
    return 0


def _explain(args: argparse.Namespace, policies: Sequence[Policy], known: frozenset[str]) -> Iterator[str]:
    from gpuheal_responder.config.reader import load_yaml
    from gpuheal_responder.core.decide import decide
    from gpuheal_responder.core.life import settle
    from gpuheal_responder.core.opening import Ignore, opening
    from gpuheal_responder.core.reason import Reason
    from gpuheal_responder.core.world import Need
    from gpuheal_responder.shell.record import load_case, load_world

    world = load_world(load_yaml(args.world), str(args.world))
    world, letters = with_alerts(world, read_alerts(args.alert, world.now), args.cluster, known)
    yield from letters
    for fault in world.faults:
        where = f" on {fault.target.gpu_uuid}" if fault.target.gpu_uuid else ""
        yield f"fault    {fault.slug}{where} since {fault.since.isoformat(timespec='seconds')}"
    given = {Need.PODS} if world.pods is not None else set()
    world = replace(world, seen=world.seen | given | {Need.LOCK, Need.OPERATIONS})
    case: Case
    policy: Policy | None
    if args.case is not None:
        case = load_case(load_yaml(args.case), str(args.case))
        policy = next((p for p in policies if p.name == case.policy), None)
    else:
        if world.node is None:
            raise ConfigError(str(args.world), "node", "missing: required unless --case is given")
        found = opening(world, policies)
        if isinstance(found, Ignore):
            yield f"verdict  none: {found.reason}: {found.message}"
            if found.reason == Reason.NO_POLICY and world.faults:
                yield from (f"policy   {p.name}: {_mismatch(p, world)}" for p in policies)
            return
        case, policy = found.case, found.policy
    if policy is not None:
        world = replace(world, faults=tuple(f for f in world.faults if world.node and policy.matches(f, world.node)))
        yield f"case     {case.name} under policy {policy.name} ({policy.mode})"
    case = settle(case, policy, world)
    yield from _said(decide(case, policy, world), case, policy, world)


def _mismatch(policy: Policy, world: World) -> str:
    """Return why the policy answers for none of the faults on the node."""
    slugs = {f.slug for f in world.faults}
    if not slugs & set(policy.faults):
        return f"does not list {', '.join(sorted(slugs))} under match.faults"
    labels = world.node.labels if world.node is not None else {}
    unmet = [f"{r.key} {r.operator} {' '.join(r.values)}".rstrip() for r in policy.nodes if not r.matches(labels)]
    return f"the node's labels do not match {'; '.join(unmet)}"


def _said(verdict: Verdict, case: Case, policy: Policy | None, world: World) -> Iterator[str]:
    """Yield the verdict, then the answer of each guard that is evaluated for the step."""
    from gpuheal_responder.core.guards import GUARDS
    from gpuheal_responder.core.guards.question import Question
    from gpuheal_responder.core.plan import Next, plan
    from gpuheal_responder.core.verdict import Act, Done, Escalate, Hold, Inspect, Wait, due_of

    due = due_of(verdict)
    step = f": {due.key}" if due is not None else ""
    match verdict:
        case Act():
            yield f"verdict  act{step} ({verdict.reason})"
        case Inspect():
            needs = ", ".join(sorted(verdict.needs))
            yield f"verdict  inspect{step}: more data needed: {needs}; add it to the world, and to its `seen`"
        case Wait():
            yield f"verdict  wait{step} ({verdict.reason}) {verdict.message}".rstrip()
        case Hold():
            yield f"verdict  hold{step} ({verdict.reason}) {verdict.refusals[0].message}".rstrip()
        case Escalate():
            yield f"verdict  escalate: {verdict.reason}: {verdict.message}"
        case Done():
            yield f"verdict  done: {verdict.result} ({verdict.reason}) {verdict.message}".rstrip()
    if due is None or policy is None:
        return
    stage = plan(case, policy, world)
    if not isinstance(stage, Next):
        return
    stage = next((n for n in stage.others if n.due.key == due.key), stage)
    question = Question(case=case, policy=policy, due=stage.due, world=world, before=stage.before)
    for guard in (g for g in GUARDS if question.moment in g.moments):
        refusals = tuple(guard.ask(question)) if guard.needs <= world.seen else ()
        name = f"{guard.family}: {guard.name}"
        if not guard.needs <= world.seen:
            yield f"guard    {name}: not evaluated, needs {', '.join(sorted(guard.needs - world.seen))}"
        elif not refusals:
            yield f"guard    {name}: pass"
        for refusal in refusals:
            yield f"guard    {name}: {refusal.reason}: {refusal.message}"


def _replay(file: Path, policies: Sequence[Policy]) -> Iterator[str]:
    from gpuheal_responder import __version__
    from gpuheal_responder.config.reader import load_yaml
    from gpuheal_responder.core.policy import digest
    from gpuheal_responder.shell.record import dump_verdict, replay

    record = load_yaml(file)
    if not isinstance(record, dict) or not isinstance(record.get("verdict"), dict):
        raise ConfigError(str(file), "", "not a decision record: expected the keys at, policy, verdict, case and world")
    name, then, version = (_text(record, key, str(file)) for key in ("policy", "policyDigest", "version"))
    policy = next((p for p in policies if p.name == name), None)
    decided_without = then == ""  # the digest of a decision whose policy was missing
    if policy is None and not decided_without:
        raise ConfigError(str(file), "policy", f"no policy named {name!r} in --policies")
    notes = []
    if policy is not None and decided_without:
        notes.append(f"policy {policy.name} did not exist when this was decided")
    elif policy is not None and then not in (None, digest(policy)):
        notes.append(f"policy {policy.name} has changed since this decision")
    if version not in (None, __version__):
        notes.append(f"decided by gpuheal {version}; this is {__version__}")
    now = dump_verdict(replay(record, policy, str(file)))
    yield from (f"note     {note}" for note in notes)
    yield f"recorded {_brief(record['verdict'])}"
    yield f"replayed {_brief(now)}"
    if now == record["verdict"]:
        yield "same verdict"
    elif notes:
        yield "DIFFERENT VERDICT: the policy or gpuheal's version has changed"
    else:
        yield "DIFFERENT VERDICT, although neither the policy nor gpuheal's version has changed"


def _text(record: Mapping[str, Any], key: str, file: str) -> str | None:
    """Return the text that a record has under the key, None where records are older than it."""
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(file, key, "expected a string")
    return value


def _brief(said: Mapping[str, Any]) -> str:
    step = f": {said['step']}" if said.get("step") else ""
    return f"{said.get('verdict')}{step} ({said.get('reason')})"


def with_alerts(
    world: World, alerts: Sequence[Alert], cluster: str, known_faults: frozenset[str]
) -> tuple[World, Sequence[str]]:
    """Return the world with the faults that the alerts mean, and a line per alert that is of no use."""
    from gpuheal_responder.core.alert import Peer
    from gpuheal_responder.core.faults import fold

    name = world.node.name if world.node is not None else ""
    peer = Peer(name=PEER, answered=True, alerts=tuple(alerts))
    intake = fold([peer], cluster=cluster, known_faults=known_faults, known_nodes={name})
    letters = [f"rejected {letter.alertname}: {letter.reason}: {letter.detail}" for letter in intake.dead]
    found = intake.faults.get(name, ())
    known = {(f.slug, f.target) for f in found}
    kept = [f for f in world.faults if (f.slug, f.target) not in known]
    return replace(world, faults=(*found, *kept), peers_answering=max(1, world.peers_answering)), letters


def read_alerts(file: Path, now: datetime) -> Sequence[Alert]:
    """Return the firing alerts of a file: one alert, a list as API v2 gives it, or a webhook message."""
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ConfigError(str(file), "", f"larger than the limit of {LARGEST_FILE} bytes")
        raw = json.loads(file.read_bytes())
    except OSError as problem:
        raise ConfigError(str(file), "", f"cannot be read: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise ConfigError(str(file), "", f"not JSON: {problem}") from None
    if isinstance(raw, dict) and isinstance(raw.get("alerts"), list):
        raw = raw["alerts"]
    listed = raw if isinstance(raw, list) else [raw]
    found = [_alert(str(file), f"[{index}]", entry, now) for index, entry in enumerate(listed)]
    return [alert for alert in found if alert is not None]


def _alert(file: str, path: str, raw: Any, now: datetime) -> Alert | None:
    from gpuheal_responder.core.alert import Alert

    labels = raw.get("labels") if isinstance(raw, dict) else None
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise ConfigError(file, path, "expected an alert with labels")
    status = raw.get("status", {})
    if status == "resolved":
        return None
    told: Mapping[str, Any] = status if isinstance(status, dict) else {}
    return Alert(
        fingerprint=str(raw.get("fingerprint", path)),
        labels=labels,
        starts_at=_time(file, f"{path}.startsAt", raw.get("startsAt"), now),
        updated_at=_time(file, f"{path}.updatedAt", raw.get("updatedAt"), now),
        suppressed=told.get("state") == "suppressed",
        silenced_by=_texts(file, f"{path}.status.silencedBy", told.get("silencedBy")),
        inhibited_by=_texts(file, f"{path}.status.inhibitedBy", told.get("inhibitedBy")),
        muted_by=_texts(file, f"{path}.status.mutedBy", told.get("mutedBy")),
    )


def _texts(file: str, path: str, raw: Any) -> tuple[str, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(isinstance(entry, str) for entry in raw):
        raise ConfigError(file, path, "expected a list of strings")
    return tuple(raw)


def _time(file: str, path: str, raw: Any, now: datetime) -> datetime:
    from gpuheal_responder.shell.record import load_time

    try:
        return now if raw is None else load_time(raw)
    except ValueError as problem:
        raise ConfigError(file, path, str(problem)) from None
