"""Alertmanager's webhook message, version 4: is it one?

A delivery is a hint: it may be late, doubled, reordered, lost or a stranger's. It wakes us, and nothing of it is used,
for every look sees all; not even the dead man's alert: Alertmanager repeats that one for minutes after Prometheus has
died.
"""

from __future__ import annotations

import json
from typing import Any

from gpuheal_responder.errors import PayloadError

MOST_ALERTS = 10_000
MOST_LABELS = 64
LONGEST_VALUE = 4096


def check(body: bytes) -> None:
    """Return if the body is Alertmanager's webhook message version 4; raise PayloadError otherwise."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise PayloadError(f"not JSON: {type(problem).__name__}") from None
    if not isinstance(raw, dict) or raw.get("version") != "4":
        raise PayloadError('expected an Alertmanager webhook message with version "4"')
    alerts = raw.get("alerts")
    if not isinstance(alerts, list):
        raise PayloadError("alerts is not a list")
    if len(alerts) > MOST_ALERTS:
        raise PayloadError(f"more than {MOST_ALERTS} alerts in one message")
    for index, alert in enumerate(alerts):
        _check(alert, index)


def _check(alert: Any, index: int) -> None:
    if not isinstance(alert, dict) or alert.get("status") not in ("firing", "resolved"):  # a tuple: it may be a list
        raise PayloadError(f"alerts[{index}].status is not firing or resolved")
    labels = alert.get("labels")
    if not isinstance(labels, dict) or len(labels) > MOST_LABELS:
        raise PayloadError(f"alerts[{index}].labels is not a mapping with at most {MOST_LABELS} labels")
    for key, value in labels.items():
        if not isinstance(value, str) or len(key) > LONGEST_VALUE or len(value) > LONGEST_VALUE:
            raise PayloadError(
                f"alerts[{index}].labels has a value that is not a string of at most {LONGEST_VALUE} characters"
            )
