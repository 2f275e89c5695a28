"""Rules and groups as values, and the few PromQL forms that many rules share."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from gpuheal_rules.catalogue.model import Signal
from gpuheal_rules.options import Options

GPU = "node, gpu_uuid"
"""Identity of a GPU in every gpuheal series."""

EVIDENCE = "gpuheal:fault_evidence:last_seen_seconds"
OPEN = "gpuheal:fault_evidence:open_seconds"
"""Evidence that no settlement covers."""

MEMORY = "75m"
"""How far back one looks for what was known before an outage of Prometheus: an hour, and what comes around it."""

TARGET_NODE = "gpuheal:dcgm_target_node:info"
"""Which node a dcgm-exporter's target speaks for, at sites whose targets carry no node."""

NEAR = "gpuheal:signal:near"
"""Values at which evidence that has begun goes on, of signals that have a second limit for that."""

BLANK = "2147483632"
"""Smallest of DCGM's blanks (dcgm_structs.h: DCGM_INT32_BLANK; those of floats, 2^47, and of 64 bits, 2^63 - 16, are
larger): a field without a value. No field that a rule reads comes near it."""

GPU_SHOWN = "gpuheal:gpu_shown:last_seconds"
"""The name under which the memory has the GPUs that were shown (groups.memory)."""

GPU_GONE = "gpuheal:gpu_gone:since_seconds"
"""The few identities whose source does not show the GPU any more."""

STARTED = "gpuheal:started:info"
"""There for a few minutes after a start of Prometheus: until all was scraped, and the slow group has looked at it.

Its value is infinite: what is smaller than `scalar(…)` of it is all that there is, or nothing.
"""

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
    keep: timedelta = timedelta(0)
    """How long it goes on firing after its expression has ended."""


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


def recovered(name: str) -> str:
    """Return the name under which a series comes back for a few minutes after a start of Prometheus (groups.memory)."""
    return name.replace("gpuheal:", "gpuheal:recovered_", 1)


def before(series: str) -> str:
    """Return what a rule's series said at its last evaluation, also when that was before an outage of Prometheus."""
    name, brace, matchers = series.partition("{")
    return f"({series} or {recovered(name)}{brace}{matchers})"


def threshold(name: str) -> str:
    """Return the number of a threshold; NaN, so that comparisons are empty, if its constant rule was removed."""
    return f'scalar(gpuheal:threshold{{name="{name}"}})'


def readings(signal: Signal, condition: str = "", ago: str = "") -> str:
    """Return the signal's readings under all its names, those that meet `condition`; a blank of DCGM is no reading.

    Names are joined with `or`, so that a page which shows one field under two names gives one reading, not an error.
    """
    return " or ".join(reading(signal, name, condition, ago) for name in signal.metrics)


def reading(signal: Signal, name: str, condition: str = "", ago: str = "") -> str:
    """Return the readings under one of the signal's names, now or `ago`."""
    found = name + (f"{{{signal.match}}}" if signal.match else "") + (f" offset {ago}" if ago else "")
    if signal.source == "dcgm":
        return f"({found} < {BLANK}) {condition}" if condition else f"{found} < {BLANK}"
    return f"{found} {condition}".strip()


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


def targets(options: Options, sources: Sequence[str], condition: str = "", match: str = "") -> str:
    """Return `up` of the targets of these sources, with the label node, those that meet matchers and `condition`.

    A dcgm-exporter whose targets carry no node is given the one that its own series last named (identity.TARGET_NODE).
    """

    def up(jobs: Sequence[str], more: str = "") -> str:
        matchers = ", ".join(filter(None, (f'job=~"{"|".join(options.job(source) for source in jobs)}"', match, more)))
        return f"up{{{matchers}}}"

    if options.labels.node == "node" or "dcgm" not in sources:
        return f"{up(sources)} {condition}".strip()
    of_dcgm = f"({up(['dcgm'])} * on (job, instance) group_left (node) {TARGET_NODE}) {condition}".strip()
    others = [source for source in sources if source != "dcgm"]
    return f"({of_dcgm} or {up(others)} {condition})".strip() if others else of_dcgm


def by_target(options: Options, signal: Signal, condition: str = "") -> str:
    """Return the signal aggregated to our identity (GPU or node), filtered by `condition` before anything else.

    The filter stands inside, so that healthy GPUs cost one comparison and no relabelling. Labels that come and go
    (pod, driver version, error code, MIG instance) end here.
    """
    vector = readings(signal, condition)
    if signal.scope == "fleet":
        return f"max({vector})"
    if signal.source == "dcgm":
        vector = gpu_labels(options, vector) if signal.scope == "gpu" else node_labels(options, vector)
    if signal.source == "responder":
        vector = f'label_replace({vector}, "node", "$1", "target_node", "(.+)")'
    return f"max by ({GPU if signal.scope == 'gpu' else 'node'}) ({vector})"
