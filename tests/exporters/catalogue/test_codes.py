"""The order of authority: who decides what an event asks for."""

from __future__ import annotations

import pytest

from gpuheal_exporters.catalogue.codes import RECOVERY_ACTIONS, resolve_sxid, resolve_xid, sxid_rows, xid_rows
from gpuheal_exporters.catalogue.resolution import ACTIONS, Resolution, worse
from gpuheal_exporters.kernel.sxid import Sxid, parse_sxid
from gpuheal_exporters.kernel.xid import parse_xid


@pytest.mark.parametrize(
    ("rest", "action", "basis"),
    [
        ("79, GPU has fallen off the bus.", "reboot", "catalog"),
        ("48, DBE", "gpu_reset", "catalog"),
        ("94, pid=1, Contained: CE User Channel (0x9). RST: No, D-RST: No", "alert", "message"),
        ("94, pid=1, Contained: LTC DATA (0x1,0x0). RST: No, D-RST: Yes", "gpu_reset_after_drain", "message"),
        ("94, pid=1, Contained: cut", "alert", "catalog"),
        ("95, pid=1, Uncontained: FBHUB. RST: Yes, D-RST: No", "gpu_reset", "message"),
        ("95, pid=1, Uncontained: FBHUB. RST: No, D-RST: No", "alert", "message"),
        ("95, pid=1, Uncontained: FBHUB.", "gpu_reset", "catalog"),
        ("74, NVLink: fatal error detected on link 1", "gpu_reset", "catalog"),
        ("74, NVLink: fatal error detected on link 14(0x100000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)", "alert", "registers"),
        ("154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", "reboot", "xid154"),
        ("154, GPU recovery action changed from 0x0 (None) to 0x63 (New)", "alert", "xid154"),
        ("154, GPU recovery action changed from 0x0 (", "alert", "xid154"),
        ("145, RLW_REMAP Nonfatal XC1 i0 Link 10 (0x00000082 0x00000040)", "gpu_reset", "decode"),
        ("149, NEW_UNIT Nonfatal XC1 i0 Link 10 (0x00000082 0x00000040)", "alert", "message"),
        ("149, something Fatal that has another shape", "gpu_reset", "catalog"),
        ("147, something Fatal that has another shape", "gpu_reset", "message"),
        ("999, pid=1, name=x", "alert", "unknown"),
        ("999, Fatal error of a kind nobody knows", "alert", "unknown"),
    ],
)
def test_the_strongest_source_in_the_line_decides(rest: str, action: str, basis: str) -> None:
    """154, then RST words, then decode or registers, then the table; an unknown code is an alert, never fatal."""
    message = parse_xid("NVRM: Xid (PCI:0000:3b:00): " + rest)
    assert message is not None
    resolution = resolve_xid(message, "570.124.06")
    assert (resolution.action, resolution.basis) == (action, basis)
    if basis == "unknown":
        assert resolution.severity == ""


@pytest.mark.parametrize(
    ("rest", "action", "reach"),
    [
        ("20034, Fatal, Link 30 LTSSM Fault Up", "gpu_reset", "link"),
        ("20009, Non-fatal, Link 04 RX Short Error Rate", "alert", "link"),
        ("20009, Fatal, Link 04 RX Short Error Rate", "gpu_reset", "link"),  # the word outranks the table
        ("20034, Non-fatal, Link 30 x", "alert", "link"),  # and so it does downwards
        ("19084, Non-fatal, Link 30 x", "reboot", "link"),  # needs a reboot whatever the word says
        ("20035, Fatal, Link 30 x", "alert", "link"),  # known to print Fatal without being it
        ("12020, Fatal, Link 30 x", "reboot", "device"),
        ("23007, Non-fatal, x", "reboot", "device"),
        ("26001, plain text", "reboot", ""),
        ("99999, Fatal, Link 30 x", "gpu_reset", ""),  # unknown, but the driver says Fatal for a link
        ("99999, Non-fatal, Link 30 x", "alert", ""),
        ("99999, no word", "alert", ""),
    ],
)
def test_the_severity_word_outranks_the_switch_table(rest: str, action: str, reach: str) -> None:
    """Non-fatal is an alert at most, Fatal a reset at least, with the exceptions the table knows."""
    message = parse_sxid("nvidia-nvswitch0: SXid (PCI:0000:06:00.0): " + rest)
    assert isinstance(message, Sxid)
    resolution, scope = resolve_sxid(message)
    assert (resolution.action, scope) == (action, reach)


def test_every_action_of_the_tables_is_ranked() -> None:
    """No table holds an action that `worse` could not compare."""
    used = {row.action for row in xid_rows().values()} | {row.action for row in sxid_rows().values()}
    assert used | set(RECOVERY_ACTIONS.values()) <= set(ACTIONS)


def test_the_worse_of_two_resolutions_stays() -> None:
    """A stronger action replaces a weaker one, an equal or weaker one does not."""
    alert, reset = Resolution(action="alert", basis="a"), Resolution(action="gpu_reset", basis="b")
    other = Resolution(action="gpu_reset", basis="c")
    assert worse(None, alert) is alert
    assert worse(alert, reset) is reset
    assert worse(reset, alert) is reset
    assert worse(reset, other) is reset
    assert worse(reset, None) is reset
