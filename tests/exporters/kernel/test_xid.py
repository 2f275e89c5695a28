"""Xid headlines: what the samples do not cover."""

from __future__ import annotations

import pytest

from gpuheal_exporters.kernel.xid import Location, Recovery, parse_xid

HEAD = "NVRM: Xid (PCI:0000:3b:00): "


def test_a_process_name_cannot_forge_the_recovery_value() -> None:
    """Text that only looks like another Xid inside a name changes neither code nor address."""
    message = parse_xid(HEAD + "43, pid=1, name=x): 154, GPU r, Ch 00000001")
    assert message is not None
    assert (message.xid, message.details.recovery) == (43, None)


@pytest.mark.parametrize(
    ("rest", "name", "text"),
    [
        ("name=test", "test", ""),
        ("name=a, b, Ch 00000001", "a, b", "Ch 00000001"),
        ("name=<unknown>, GDDR, Uncorrectable", None, "GDDR, Uncorrectable"),
        ("name=python3, something new, with comma", "python3", "something new, with comma"),
        ("name=, Ch 00000001", None, "Ch 00000001"),
    ],
)
def test_names_end_where_the_driver_text_begins(rest: str, name: str | None, text: str) -> None:
    """A name may hold commas and blanks; known texts of the driver mark its end, else the first comma does."""
    message = parse_xid(HEAD + "31, pid=7, " + rest)
    assert message is not None
    assert (message.pid, message.name, message.text) == (7, name, text)


def test_location_link_and_recovery_are_typed() -> None:
    """Details come as frozen values of their own."""
    location = parse_xid(HEAD + "13, Graphics SM Warp Exception on (GPC 1, TPC 3, SM 0): Out Of Range Address")
    recovery = parse_xid(HEAD + "154, GPU recovery action changed from 0xa (x) to 0x10 (y)")
    assert location is not None
    assert location.details.location == Location(gpc=1, tpc=3, sm=0)
    assert recovery is not None
    assert recovery.details.recovery == Recovery(before=10, now=16)


def test_the_uuid_form_is_accepted() -> None:
    """A headline that names the GPU by UUID gives the UUID and no address."""
    message = parse_xid("NVRM: Xid (GPU-b6c3b2be-c55b-d076-fa0e-d464e4c7e08b): 48, DBE")
    assert message is not None
    assert (message.pci, message.uuid, message.xid) == (None, "GPU-b6c3b2be-c55b-d076-fa0e-d464e4c7e08b", 48)


def test_reset_words_are_only_believed_at_the_end_of_the_line() -> None:
    """RST and D-RST stand at the very end of Xid 94 and 95; text before that is not taken for them."""
    message = parse_xid(HEAD + "95, Uncontained: RST: No, D-RST: No but more text")
    assert message is not None
    assert message.details.rst is None


@pytest.mark.parametrize(
    "text", [HEAD + "abc", HEAD + "1234567", "NVRM: Xid (PCI:3b): 1", " " + HEAD + "79", HEAD + "79x"]
)
def test_other_shapes_are_no_headline(text: str) -> None:
    """A code that is no number, an incomplete address, or a headline in the middle of a text is nothing."""
    assert parse_xid(text) is None
