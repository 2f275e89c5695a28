"""What the main group remembers of its own last evaluation, kept over an outage of Prometheus itself.

A rule that reads its own last value forgets after five minutes without evaluations (the lookback). So every two
minutes the slow group takes a snapshot; for a few minutes after a start the main group gives back what was alive in
the last one before, and its rules read that beside their own last value (`promql.rule.before`), from the first
evaluation on. Later nothing is given back, so what ends, ends.

What is given back is read in every evaluation, so all of it is sparse. Only the GPUs that were shown are not: they come
back with the slow group, as none of them is missed before its exporters were scraped again.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.groups.identity import IDENTITY, SOURCE_SEEN
from gpuheal_rules.groups.latch import DCGM_XID, LOST, OWNER, PORT_DOWN, XID
from gpuheal_rules.groups.witness import SUSPECT
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import (
    CLEARED,
    EVIDENCE,
    GPU_GONE,
    GPU_SHOWN,
    MEMORY,
    STARTED,
    TARGET_NODE,
    Record,
    promql,
    recovered,
)

TIMED = (SOURCE_SEEN, CLEARED, OWNER, SUSPECT)
"""Series whose value is the time up to which they count, and which end by that alone."""

STATES = (GPU_GONE, XID, DCGM_XID, LOST, EVIDENCE, PORT_DOWN)
"""Series that end at any time, and come back only when the last snapshot has them."""

TAKEN = "gpuheal:snapshot:taken"
SINCE = "gpuheal:memory_since:timestamp_seconds"
"""Since when the rules have heard sources without a gap that they cannot bridge: all that this Prometheus remembers."""

EVALUATED = 'gpuheal:threshold{name="hold_seconds"}'
"""A series that every evaluation of the main group writes."""

_LAST = f"scalar(last_over_time({TAKEN}[{MEMORY}]) and on () {STARTED})"
"""When the last snapshot was taken; no number, and so no comparison that holds, unless Prometheus has just started."""


def given_back(options: Options) -> Iterator[Record]:
    """Yield what the main group is given back after a start; it stands before all that reads it."""
    start = options.slow_interval * 3
    enough = f"count_over_time({EVALUATED}[{format_duration(start)}]) >= {start / options.interval * 0.75:.12g}"
    # Three quarters, so that an evaluation that was missed is no start.
    yield Record(name=STARTED, expr=f"vector(Inf) == scalar(absent({enough})) * Inf")
    for name in TIMED:
        yield Record(name=recovered(name), expr=f"last_over_time({kept(name)}[{MEMORY}]) < scalar({STARTED})")
    for name in _states(options):
        yield Record(
            name=recovered(name),
            expr=promql(f"""
                last_over_time({kept(name)}[{MEMORY}])
                  and last_over_time({kept(name, "at")}[{MEMORY}]) >= {_LAST}
                """),
        )


def rules(_catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield which GPUs were shown before a start, and then the snapshots of everything."""
    yield Record(name=recovered(GPU_SHOWN), expr=f"(last_over_time({kept(GPU_SHOWN)}[{MEMORY}]) >= {_LAST}) ^ 0")
    for name in TIMED:
        yield Record(name=kept(name), expr=name)
    for name in _states(options):
        yield Record(name=kept(name), expr=name)
        yield Record(name=kept(name, "at"), expr=f"{name} * 0 + time()")
    # The value says when it was alive, what it was is known: one series is enough.
    yield Record(name=kept(GPU_SHOWN), expr=f"({IDENTITY} == 1) * time()")
    yield Record(name=SINCE, expr=f"last_over_time({SINCE}[{MEMORY}]) or on () max({SOURCE_SEEN})")
    # Not after a start: a snapshot of what has come back so far would be taken for all that there was.
    yield Record(name=TAKEN, expr=f"vector(time()) < scalar(absent({STARTED})) * Inf")


def kept(name: str, what: str = "snapshot") -> str:
    """Return the name under which a remembered series stands in the snapshots, or the time at which it was there."""
    return name.replace("gpuheal:", f"gpuheal:{what}_", 1)


def _states(options: Options) -> tuple[str, ...]:
    return STATES if options.labels.node == "node" else (*STATES, TARGET_NODE)
