"""Alertmanager's webhook message, version 4, read only for whom to wake.

A delivery is a hint: it may be late, doubled, reordered, lost or a stranger's. Nothing of it but node names is used,
not even the dead man's alert: Alertmanager repeats that one for minutes after Prometheus has died.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuheal_responder.errors import PayloadError

MOST_ALERTS = 10_000
MOST_LABELS = 64
LONGEST_VALUE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Whom one delivery wakes: node names as they stand in the labels, not yet looked up."""

    nodes: frozenset[str]


def parse(body: bytes) -> Delivery:
    """Return whom the message wakes; raise PayloadError unless it is Alertmanager's webhook message version 4."""
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
    named = (_labels(alert, index).get("node") for index, alert in enumerate(alerts))
    return Delivery(nodes=frozenset(node for node in named if node))


def _labels(alert: Any, index: int) -> Mapping[str, str]:
    if not isinstance(alert, dict) or alert.get("status") not in ("firing", "resolved"):  # a tuple: it may be a list
        raise PayloadError(f"alerts[{index}].status is neither firing nor resolved")
    labels = alert.get("labels")
    if not isinstance(labels, dict) or len(labels) > MOST_LABELS:
        raise PayloadError(f"alerts[{index}].labels is not a mapping of at most {MOST_LABELS} labels")
    for key, value in labels.items():
        if not isinstance(value, str) or len(key) > LONGEST_VALUE or len(value) > LONGEST_VALUE:
            raise PayloadError(f"alerts[{index}].labels has a value that is not a text of at most {LONGEST_VALUE}")
    return labels
