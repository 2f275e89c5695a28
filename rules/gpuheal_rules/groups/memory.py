"""What the main group remembers of its own last evaluation, kept over an outage of Prometheus itself.

A rule that reads its own last value forgets after five minutes without evaluations (the lookback). So every two
minutes the slow group takes a snapshot; for a few minutes after a start it gives back what was alive in the last one
before, and the rules read that beside their own last value (`promql.rule.before`). Later nothing is given back, so what
ends, ends.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.groups.identity import IDENTITY, SOURCE_SEEN
from gpuheal_rules.groups.latch import DCGM_XID, LOST, OWNER, XID
from gpuheal_rules.groups.witness import SUSPECT
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import CLEARED, EVIDENCE, MEMORY, TARGET_NODE, Record, promql, recovered

REMEMBERED = (SOURCE_SEEN, CLEARED, IDENTITY, XID, DCGM_XID, LOST, OWNER, SUSPECT, EVIDENCE)
TAKEN = "gpuheal:snapshot:taken"
EVALUATED = 'gpuheal:threshold{name="hold_seconds"}'
"""A series that every evaluation of the main group writes."""


def rules(_catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield, for each remembered series, what is given back after a start, and then its snapshot."""
    step = format_duration(options.slow_interval)
    start = options.slow_interval * 2
    evaluations = start / options.interval
    began = f"count_over_time({EVALUATED}[{format_duration(start)}]) < {evaluations * 0.75:.12g}"
    remembered = REMEMBERED if options.labels.node == "node" else (*REMEMBERED, TARGET_NODE)
    for name in remembered:
        last = kept(name)
        yield Record(
            name=recovered(name),
            expr=promql(f"""
                last_over_time({last}[{MEMORY}])
                  and (
                    max_over_time(timestamp({last})[{MEMORY}:{step}])
                      >= scalar(max_over_time(timestamp({TAKEN})[{MEMORY}:{step}]) and on () {began})
                  )
                """),
        )
    for name in remembered:
        yield Record(name=kept(name), expr=name)
    yield Record(name=TAKEN, expr="vector(1)")


def kept(name: str) -> str:
    """Return the name under which a remembered series stands in the snapshots."""
    return name.replace("gpuheal:", "gpuheal:snapshot_", 1)
