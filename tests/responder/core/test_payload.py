"""The webhook's body: refused unless it is Alertmanager's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuheal_responder.core.payload import LONGEST_VALUE, MOST_ALERTS, check
from gpuheal_responder.errors import PayloadError

GOOD = {"version": "4", "alerts": [{"status": "firing", "labels": {"node": "n1", "alertname": "A"}}]}


def body(**changes: object) -> bytes:
    """Return a good body with changes."""
    return json.dumps(GOOD | changes).encode()


def test_alertmanagers_own_message_is_one() -> None:
    """Firing and resolved alerts, with or without a node; unknown keys are ignored."""
    alerts = [
        {"status": "firing", "labels": {"node": "n1"}},
        {"status": "resolved", "labels": {"node": "n2"}, "fingerprint": "x"},
        {"status": "firing", "labels": {"alertname": "GPUHealWatchdog"}},
    ]
    check(body(alerts=alerts, truncatedAlerts=2, notification_reason="x"))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        body(version="3"),
        body(version=4),
        body(alerts=None),
        body(alerts=[{}]),
        body(alerts=[{"status": "maybe", "labels": {}}]),
        body(alerts=[{"status": "firing", "labels": []}]),
        body(alerts=[{"status": "firing", "labels": {"a": 1}}]),
        body(alerts=[{"status": "firing", "labels": {"a": "x" * (LONGEST_VALUE + 1)}}]),
        body(alerts=[{"status": "firing", "labels": {str(i): "" for i in range(65)}}]),
        body(alerts=[1] * (MOST_ALERTS + 1)),
        body(alerts=[{"status": [], "labels": {}}]),
        body(alerts=[{"status": {}, "labels": {}}]),
    ],
)
def test_anything_else_is_refused(bad: bytes) -> None:
    """A body that is not Alertmanager's version 4 is a PayloadError and nothing worse."""
    with pytest.raises(PayloadError):
        check(bad)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_no_bytes_do_worse_than_a_payload_error(data: bytes) -> None:
    """Random bytes and random JSON never raise anything else."""
    try:
        check(data)
    except PayloadError:
        return
