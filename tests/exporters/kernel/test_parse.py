"""Every published form of a GPU line in a kernel log, and what is not one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from gpuheal_exporters.kernel.kmsg import interesting, parse_line
from gpuheal_exporters.kernel.parse import describe_record, parse_lines, print_parsed

SAMPLES = [json.loads(line) for line in (Path(__file__).parent / "data/samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["line"][:60])
def test_sample_line_parses_as_expected(sample: dict[str, Any]) -> None:
    """Every key the sample states holds; keys it does not state are free."""
    got = describe_record(parse_line(sample["line"])) or {"kind": "none"}
    assert {key: got.get(key, "missing") for key in sample["expect"]} == sample["expect"]


def test_all_samples_are_there() -> None:
    """The fixture holds the whole published collection of 127 lines."""
    assert len(SAMPLES) == 127


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s["expect"]["kind"] != "none"], ids=lambda s: s["line"][:60])
def test_the_cheap_filter_lets_every_recognised_line_pass(sample: dict[str, Any]) -> None:
    """What any parser recognises contains one of the tokens that the hot path looks for."""
    assert interesting(sample["line"].encode())


def test_line_numbers_count_every_line_of_the_input() -> None:
    """Objects carry the number of their line in the file, from 1, also when other lines stand between."""
    text = ["boring\n", "NVRM: Xid (PCI:0000:3b:00): 79, gone\n", "\n", "NVRM: Xid (PCI:0000:3b:00): 46\n"]
    assert [(found["line"], found["xid"]) for found in parse_lines(text)] == [(2, 79), (4, 46)]


def test_user_written_records_only_count_in_a_drill() -> None:
    """A raw record of facility user is nothing, unless the drill flag is set."""
    line = "12,1,1,-;NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
    assert list(parse_lines([line])) == []
    assert [found["xid"] for found in parse_lines([line], drill=True)] == [79]


def test_output_is_one_json_object_per_recognised_line() -> None:
    """The whole samples file gives as many JSON lines as it has recognised lines."""
    out = io.StringIO()
    count = print_parsed((sample["line"] for sample in SAMPLES), out)
    kinds = [json.loads(line)["kind"] for line in out.getvalue().splitlines()]
    assert count == len(kinds) == sum(sample["expect"]["kind"] != "none" for sample in SAMPLES)
    assert "none" not in kinds
