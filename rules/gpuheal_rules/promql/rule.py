"""Rules and groups as values, and the few PromQL forms that many rules share."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from gpuheal_rules.catalogue.model import Signal
from gpuheal_rules.options import Options

GPU = "node, gpu_uuid"
"""Identity of a GPU in every gpuheal series."""

EVIDENCE = "gpuheal:fault_evidence:last_seen_seconds"
OPEN = "gpuheal:fault_evidence:open_seconds"
"""Evidence that no settlement covers."""

NEAR = "gpuheal:signal:near"
"""Values at which evidence that has begun goes on, of signals that have a second limit for that."""

GUARD = "gpuheal:node_guard:info"
GPU_NODE = "gpuheal:gpu_node:info"
WITNESS = "gpuheal:fault_witness:last_seen_seconds"
COUNT = "gpuheal:gpu_witnesses:count"
CLEARED = "gpuheal:fault_cleared:timestamp_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A recording rule."""

    name: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """An alerting rule."""

    name: str
    expr: str
    wait: timedelta
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rules evaluated one after another at one timestamp, every `interval`."""

    name: str
    interval: timedelta
    rules: tuple[Record | AlertRule, ...]


def promql(text: str) -> str:
    """Return `text` without common indentation and outer blank lines."""
    return textwrap.dedent(text).strip()


def indent(text: str, by: int = 2) -> str:
    """Return `text` with every line moved right."""
    return textwrap.indent(text, " " * by)


def threshold(name: str) -> str:
    """Return the number of a threshold; NaN, so that comparisons are empty, if its constant rule was removed."""
    return f'scalar(gpuheal:threshold{{name="{name}"}})'


def selector(signal: Signal) -> str:
    """Return a selector that matches the signal under all its names."""
    if len(signal.metrics) == 1:
        return signal.metrics[0] + (f"{{{signal.match}}}" if signal.match else "")
    name = f'__name__=~"{"|".join(signal.metrics)}"'
    return f"{{{name}, {signal.match}}}" if signal.match else f"{{{name}}}"


def gpu_labels(options: Options, vector: str) -> str:
    """Return dcgm's `vector` with our labels node and gpu_uuid beside its own; apply it to filtered, sparse vectors."""
    profile = options.labels
    for label in profile.gpu:
        vector = f'label_replace({vector}, "gpu_uuid", "$1", "{label}", "(.+)")'
    if profile.node != "node":
        vector = f'label_replace({vector}, "node", "$1", "{profile.node}", "(.+)")'
    return vector


def node_labels(options: Options, vector: str) -> str:
    """Return dcgm's `vector` with our label node beside its own."""
    if options.labels.node == "node":
        return vector
    return f'label_replace({vector}, "node", "$1", "{options.labels.node}", "(.+)")'


def by_target(options: Options, signal: Signal, condition: str = "") -> str:
    """Return the signal aggregated to our identity (GPU or node), filtered by `condition` before anything else.

    The filter stands inside, so that healthy GPUs cost one comparison and no relabelling. Labels that come and go
    (pod, driver version, error code, MIG instance) end here.
    """
    vector = f"{selector(signal)} {condition}".strip()
    if signal.scope == "fleet":
        return f"max({vector})"
    if signal.source == "dcgm":
        vector = gpu_labels(options, vector) if signal.scope == "gpu" else node_labels(options, vector)
    if signal.source == "responder":
        vector = f'label_replace({vector}, "node", "$1", "target_node", "(.+)")'
    return f"max by ({GPU if signal.scope == 'gpu' else 'node'}) ({vector})"
