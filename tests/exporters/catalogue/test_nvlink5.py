"""NVLink5 decoding: one message, every row of the table that fits, one resolution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuheal_exporters.catalogue import nvlink5
from gpuheal_exporters.kernel.xid import Nvlink5, parse_xid

CASES = [json.loads(line) for line in (Path(__file__).parent / "data/nvlink5.jsonl").read_text().splitlines()]
V1_DRIVER, V2_DRIVER = "570.124.06", "575.51.03"


def decode(text: str, driver: str, *, drill: bool = False) -> nvlink5.Decoded:
    message = parse_xid(f"NVRM: Xid (PCI:0000:01:00): {text}")
    assert message is not None
    assert message.details.nvlink5 is not None
    return nvlink5.decode(message.xid, message.details.nvlink5, driver, drill=drill)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["why"])
def test_published_examples_decode_as_documented(case: dict[str, Any]) -> None:
    """Each message gives the rows, action, severity, reason and follow-up that NVIDIA's table and ours state for it."""
    decoded = decode(case["line"], case["driver"])
    verdict = decoded.resolution
    got = {
        "rows": len(decoded.rows),
        "action": verdict.action,
        "severity": verdict.severity,
        "reason": decoded.reason,
        "blames": verdict.blames,
        "followup": verdict.followup,
    }
    assert got == {key: case[key] for key in got}


@pytest.mark.parametrize(
    "row", nvlink5.table(), ids=lambda row: f"{row.xid}-{min(row.units)}-{row.v1[1]:x}-{row.status}"
)
def test_every_row_is_found_by_its_own_form_and_driver(row: nvlink5.Row) -> None:
    """A message built from a row finds that row with the driver branch whose form it uses."""
    for driver, word in ((V1_DRIVER, row.v1[1]), (V2_DRIVER, row.v2[1])):
        for unit in row.units:
            coded = Nvlink5(unit=unit, severity="Nonfatal", xc=0, injected=0, link=0, words=(word, row.status or 0))
            decoded = nvlink5.decode(row.xid, coded, driver)
            assert row in decoded.rows
            assert decoded.unexplained == 0


def test_bits_outside_the_mask_do_not_matter() -> None:
    """The first word carries more than the mask looks at; the rest of it changes nothing."""
    assert decode("145, RLW_REMAP Nonfatal XC0 i0 Link 1 (0x00000082 0x00000040)", V1_DRIVER).rows
    assert decode("145, RLW_REMAP Nonfatal XC0 i0 Link 1 (0xfc0ffc82 0x00000040)", V1_DRIVER).rows


def test_every_reason_that_names_the_peer_blames_it() -> None:
    """Reasons 21 and 32 to 37 point at the other end of the link, no other reason does."""
    assert [value for value, (_, blames) in nvlink5.reasons().items() if blames == "peer"] == [21, *range(32, 38)]


def test_an_injected_event_counts_in_a_drill() -> None:
    """With the drill flag an injected error asks for what a real one would."""
    line = "145, RLW_REMAP Fatal XC0 i1 Link 10 (0x00000082 0x00000040)"
    assert decode(line, V1_DRIVER, drill=True).resolution.action == "gpu_reset"


@pytest.mark.parametrize(
    ("version", "branch"), [("570.124.06", 570), ("595.45.04", 595), ("", None), ("unknown", None), ("5.1", None)]
)
def test_the_branch_is_the_first_number_of_the_driver_version(version: str, branch: int | None) -> None:
    """A version without a branch number selects no form."""
    assert nvlink5.driver_branch(version) == branch


def test_the_table_has_all_rows_of_the_source() -> None:
    """95 rows of NVIDIA's table, and three promoted ones as rows of their own."""
    assert len(nvlink5.table()) == 98
    assert {row.xid for row in nvlink5.table()} == set(range(144, 151))
