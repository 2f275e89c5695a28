"""Whatever a log holds, reading it never raises and never grows without bound."""

from __future__ import annotations

import json
import random
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuheal_exporters.collectors.kernel import KernelCollector
from gpuheal_exporters.host.identity import StaticInventory
from gpuheal_exporters.kernel.journal import parse_entry
from gpuheal_exporters.kernel.kmsg import Assembler, interesting, parse_line, parse_raw
from gpuheal_exporters.kernel.parse import describe_record
from gpuheal_exporters.metrics.exposition import render
from gpuheal_exporters.node.state import NodeExporterState

SAMPLES = [json.loads(line)["line"] for line in (Path(__file__).parent / "data/samples.jsonl").read_text().splitlines()]
PIECES = [
    "NVRM: Xid (PCI:0000:3b:00): ",
    "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): ",
    "4,1,1,-;",
    "kernel: ",
    "[1.000000] ",
    "0x",
    "Link ",
    "Fatal",
    "pid=",
    "name=",
    "154, GPU recovery action changed from 0x",
    "\\x0a",
    "\n",
    "9" * 30,
    "(",
    ")",
    ",",
    ":",
    "\0",
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A sample line with a few cuts, swaps, repeats and insertions."""
    line: str = draw(st.sampled_from(SAMPLES))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(line)))
        end = draw(st.integers(start, min(len(line), start + 20)))
        insert = draw(st.one_of(st.sampled_from(PIECES), st.text(max_size=6), st.just(line[start:end] * 2)))
        line = line[:start] + insert + line[end:]
    return line


LINES = st.one_of(mutated(), st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
STATE = NodeExporterState(inventory=StaticInventory(), boot_id="b", clock=lambda: 1.0, driver_version="570.1")


def take(line: str) -> None:
    """One line through everything a line can go through; what is recognised passes the filter and is JSON."""
    record = parse_line(line)
    described = describe_record(record, drill=True)
    if described is not None:
        json.dumps(described)
        assert interesting(line.encode("utf-8", "replace")), line
    STATE.feed(record, 1.0)


def shuffled(source: random.Random) -> str:
    """A sample line whose middle is replaced, doubled, cut or swapped with another one's, a few times."""
    line: str = source.choice(SAMPLES)
    for _ in range(source.randint(1, 5)):
        start = source.randint(0, len(line))
        end = min(len(line), start + source.randint(0, 20))
        other = source.choice(SAMPLES)
        cut = source.randint(0, len(other))
        noise = "".join(chr(source.choice((source.randint(0, 127), source.randint(0, 0xD7FF)))) for _ in range(4))
        insert = source.choice((source.choice(PIECES), line[start:end] * 2, other[cut : cut + 15], noise, ""))
        line = line[:start] + insert + line[end:]
    return line


@settings(max_examples=1_000, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(LINES)
def test_no_line_ever_raises(line: str) -> None:
    """Random text and mutated samples are parsed, described and taken into one state without an exception."""
    take(line)


@settings(max_examples=200, deadline=None, database=None)
@given(st.integers(0, 2**64))
def test_ten_thousand_mutated_lines_never_raise(seed: int) -> None:
    """200 seeds of 50 lines each: 10,000 heavily mutated samples go through without an exception."""
    source = random.Random(seed)
    for _ in range(50):
        take(shuffled(source))


@settings(max_examples=500, deadline=None, database=None)
@given(st.one_of(st.binary(max_size=300), LINES.map(lambda line: line.encode("utf-8", "surrogatepass"))))
def test_no_bytes_ever_raise(raw: bytes) -> None:
    """Any bytes from a device, a journal or between fragments are taken without an exception."""
    parse_entry(raw)
    assembler = Assembler()
    for record in (parse_raw(raw), parse_raw(b"4,1,1,c;" + raw), parse_raw(b"4,2,1,+;" + raw)):
        if record is not None:
            assembler.push(record)
    assembler.flush()


def test_what_a_storm_of_garbage_leaves_behind_can_be_served_and_kept() -> None:
    """After all those lines the state still renders, dumps, and loads again."""
    for line in SAMPLES:
        STATE.feed_line(line, 2.0)
    text = render(KernelCollector(STATE))
    again = NodeExporterState(inventory=StaticInventory(), boot_id="b", clock=lambda: 1.0)
    again.load(json.loads(json.dumps(STATE.dump())))
    assert again.dump() == STATE.dump()
    assert b"gpuheal_xid_latched" in text
