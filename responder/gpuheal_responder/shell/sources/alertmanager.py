"""All Alertmanager peers, asked in parallel through their API v2; whatever goes wrong with one is that peer's problem.

Silences and inhibition are computed by Alertmanager at query time, so a silence made a moment ago is seen
(alertmanager api/v2/api.go). Peers do not share alerts, so every one is asked. Silences are read whole, also those that
no alert carries at this moment: they stop cases whose alert is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuheal_responder.config.settings import AlertmanagerPeer
from gpuheal_responder.core.alert import Alert, Matcher, Peer, Silence
from gpuheal_responder.core.faults import clean
from gpuheal_responder.errors import ConfigError, ObserveError
from gpuheal_responder.ports import Clock
from gpuheal_responder.shell.sources.client import Client, decoded, together

SOURCE = "alertmanager"
MOST_SILENCES = 10_000
"""Silences in force of one peer; a site with more has a generator of silences that runs away."""
LONGEST_NAME = 128
LONGEST_COMMENT = 160
SKEW = timedelta(seconds=5)
WHOLE_SECONDS = timedelta(seconds=1)
"""The header Date is cut to whole seconds (RFC 9110, section 5.6.7)."""
NO_TIME = datetime.max.replace(tzinfo=UTC)
"""Of a year in which nobody takes an alert for a fault (see core.faults)."""
OURS = (("filter", 'fault=~".+"'), ("active", "true"), ("silenced", "true"), ("inhibited", "true"))


class AlertmanagerAlerts:
    """The port Alerts on real Alertmanagers, 0.25 and later."""

    def __init__(
        self, peers: Sequence[AlertmanagerPeer], *, clock: Clock, on_problem: Callable[[ConfigError], None]
    ) -> None:
        """Read the files the settings name; ConfigError when one can't be used."""
        self._clock = clock
        self._peers = [(peer, Client(peer, source=SOURCE, on_problem=on_problem)) for peer in peers]

    async def peers(self) -> tuple[Peer, ...]:
        """Return what every peer says; one that does not answer is in the list, with its problem. Never raises."""
        groups = await asyncio.gather(*(self._configured(peer, client) for peer, client in self._peers))
        return tuple(peer for group in groups for peer in group)

    async def close(self) -> None:
        """All connections are closed."""
        for _, client in self._peers:
            await client.close()

    async def _configured(self, peer: AlertmanagerPeer, client: Client) -> Sequence[Peer]:
        name = f"{client.host}:{client.port}"
        if not peer.resolve:
            return [await self._one(peer, client, name, "")]
        try:
            addresses = await client.addresses()
        except ObserveError as problem:
            return [Peer(name=name, answered=False, problem=problem.problem)]
        return await asyncio.gather(*(self._one(peer, client, f"{a}:{client.port}", a) for a in addresses))

    async def _one(self, peer: AlertmanagerPeer, client: Client, name: str, at: str) -> Peer:
        before = self._clock.now()
        try:
            async with asyncio.timeout(2 * peer.timeout.total_seconds()):
                alerts, ((started_at, cluster), date), silences = await together(
                    client.get("/api/v2/alerts", _alerts, OURS, at),
                    client.get_dated("/api/v2/status", _status, at),
                    client.get("/api/v2/silences", _silences, (), at),
                )
        except ObserveError as problem:
            return Peer(name=name, answered=False, problem=problem.problem)
        except TimeoutError:
            return Peer(name=name, answered=False, problem="timed out")
        now = self._clock.now()
        skew = _skew(before, date, now)
        return Peer(
            name=name,
            answered=True,
            problem=skew,
            settling=bool(skew) or cluster == "settling" or now - started_at < peer.settle,
            alerts=alerts,
            silences=silences,
        )


def _skew(before: datetime, date: datetime | None, after: datetime) -> str:
    """Return by how much a peer's clock differs from ours if that is too much, or an empty text."""
    if date is None or before - SKEW - WHOLE_SECONDS <= date <= after + SKEW:
        return ""
    off = (date - before if date < before else date - after).total_seconds()
    return f"its clock is off by {off:+.0f}s"


def _alerts(body: bytes) -> tuple[Alert, ...]:
    return tuple(_alert(raw) for raw in _list(decoded(body)))


def _alert(raw: Mapping[str, Any]) -> Alert:
    status = raw["status"]
    return Alert(
        fingerprint=_text(raw["fingerprint"]),
        labels={_text(key): _text(value) for key, value in raw["labels"].items()},
        starts_at=_posted(raw["startsAt"]),
        updated_at=_posted(raw["updatedAt"]),
        suppressed=_text(status["state"]) == "suppressed",
        silenced_by=_texts(status.get("silencedBy")),
        inhibited_by=_texts(status.get("inhibitedBy")),
        muted_by=_texts(status.get("mutedBy")),  # missing before 0.28
    )


def _status(body: bytes) -> tuple[datetime, str]:
    raw: Any = decoded(body)
    return _time(raw["uptime"]), _text(raw["cluster"]["status"])  # `uptime` is the time of the start


def _silences(body: bytes) -> tuple[Silence, ...]:
    """Return the silences that are active; the answer also has pending ones and those that ended in the last days."""
    active = [raw for raw in _list(decoded(body)) if raw["status"]["state"] == "active"]
    if len(active) > MOST_SILENCES:
        raise ValueError(f"more than {MOST_SILENCES} silences are active")
    return tuple(_silence(raw) for raw in active)


def _silence(raw: Mapping[str, Any]) -> Silence:
    return Silence(
        id=_text(raw["id"]),
        created_by=clean(_text(raw["createdBy"]), LONGEST_NAME),
        comment=clean(_text(raw.get("comment", "")), LONGEST_COMMENT),
        matchers=tuple(_matcher(one) for one in _list(raw["matchers"])),
    )


def _matcher(raw: Mapping[str, Any]) -> Matcher:
    equal = raw.get("isEqual", True)
    if not isinstance(raw["isRegex"], bool) or not isinstance(equal, bool):
        raise TypeError("isRegex and isEqual must be booleans")
    return Matcher(name=_text(raw["name"]), value=_text(raw["value"]), is_regex=raw["isRegex"], is_equal=equal)


def _list(raw: object) -> list[Any]:
    if not isinstance(raw, list):
        raise TypeError(f"expected a list, got {type(raw).__name__}")
    return raw


def _texts(raw: object) -> tuple[str, ...]:
    return () if raw is None else tuple(_text(entry) for entry in _list(raw))


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise TypeError(f"expected a string, got {type(raw).__name__}")
    return raw


def _posted(raw: object) -> datetime:
    """Return a time that anybody may have posted; one that is none makes its own alert unusable, not the whole peer."""
    try:
        return _time(raw)
    except (ValueError, OverflowError):
        return NO_TIME


def _time(raw: object) -> datetime:
    found = datetime.fromisoformat(_text(raw))
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
