"""Records of /dev/kmsg and the text forms of the kernel log."""

from __future__ import annotations

import pytest

from gpuheal_exporters.kernel.kmsg import Assembler, KernelRecord, parse_line, parse_raw, unescape


def test_a_raw_record_gives_header_and_text() -> None:
    """Priority, sequence number, microseconds, flags, caller and the first line; dictionary lines are dropped."""
    record = parse_raw(b"4,9001,8123456789,-,caller=T1946;NVRM: hello\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n")
    assert record == KernelRecord("NVRM: hello", 4, 9001, 8123456789, "-", "T1946")


def test_escapes_are_resolved() -> None:
    """Line breaks, backslashes, NUL and bytes that are not UTF-8 come out as text."""
    assert unescape(rb"a\x0ab\x5cc\x00d\xffe") == "a\nb\\c d�e"


@pytest.mark.parametrize(
    ("priority", "kernel"), [(0, True), (4, True), (7, True), (8, False), (12, False), (30, False), (None, True)]
)
def test_s12_only_facility_zero_is_the_kernel(priority: int | None, kernel: bool) -> None:
    """Priorities 0 to 7 are the kernel's; text without a priority is trusted as its source is."""
    assert KernelRecord("x", priority).from_kernel is kernel


@pytest.mark.parametrize("raw", [b"", b";", b"4,1,2;x", b"x,1,2,-;y", b"4,1,2,-", b"4,-1,2,-;x"])
def test_bytes_without_a_header_are_no_record(raw: bytes) -> None:
    """A line that does not begin with a complete header is left to the text forms."""
    assert parse_raw(raw) is None


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: x",
        "[  102.513445] NVRM: x",
        "[  130.456250] [   T1946] NVRM: x",
        "[Sat Oct 12 18:35:32 2024] NVRM: x",
        "<4>[  102.513445] NVRM: x",
        "kernel: NVRM: x",
        "Feb  1 14:25:31 archbox kernel: NVRM: x",
        "Nov 22 14:56:44 host kernel: [94555.573310] NVRM: x",
        "2026-11-22T14:56:44.123456+00:00 host kernel: [94555.573310] NVRM: x",
        "   NVRM: x",
        "4,1,2,-;NVRM: x\n",
    ],
)
def test_prefixes_of_every_log_form_are_taken_off(line: str) -> None:
    """dmesg with seconds, dates and thread ids, syslog, the journal and raw records lead to the same text."""
    assert parse_line(line).text == "NVRM: x"


@pytest.mark.parametrize("line", ["Feb  1 14:25:31 h app[77]: NVRM: x", "app: NVRM: x", 'watcher saw "NVRM: x"'])
def test_what_user_space_logs_keeps_its_tag(line: str) -> None:
    """A line of another program never begins with the driver's tag after parsing."""
    assert not parse_line(line).text.startswith("NVRM:")


def test_dmesg_seconds_become_microseconds() -> None:
    """The time of a dmesg line is kept like that of a raw record."""
    assert parse_line("[  102.513445] NVRM: x").usec == 102_513_445


def test_fragments_of_one_message_are_joined() -> None:
    """`+`, or `c` on text that begins no message, continues the record before it; another caller's does not."""
    assembler = Assembler()
    first = KernelRecord("NVRM: Xid (PCI:0000:01:00): 62, 1cfc", 4, 1, 1, "c", "T1")
    assert assembler.push(first) is None
    assert assembler.push(KernelRecord("(1b4c) 0000", 4, 2, 1, "+", "T1")) is None
    joined = assembler.push(KernelRecord("NVRM: next", 4, 3, 1, "c", "T1"))
    assert joined is not None
    assert joined.text == "NVRM: Xid (PCI:0000:01:00): 62, 1cfc(1b4c) 0000"
    other = assembler.push(KernelRecord("tail", 4, 4, 1, "+", "T2"))
    assert other is not None
    assert other.text == "NVRM: next"
    assert assembler.holding
    last = assembler.flush()
    assert last is not None
    assert last.text == "tail"
    assert assembler.flush() is None


def test_fragments_are_bounded() -> None:
    """A message of endless fragments ends after eight; nothing grows without limit."""
    assembler = Assembler()
    assembler.push(KernelRecord("NVRM: ", 4, 0, 0, "c"))
    done = [assembler.push(KernelRecord("x", 4, n, 0, "+")) for n in range(9)]
    assert [record.text for record in done if record] == ["NVRM: " + "x" * 8]
