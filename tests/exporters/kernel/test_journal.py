"""The journal as a source: real lines of journalctl, from a real child process."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from gpuheal_exporters.kernel.journal import JournalSource, parse_entry
from gpuheal_exporters.kernel.kmsg import KernelRecord
from gpuheal_exporters.kernel.source import SourceError
from gpuheal_exporters.kernel.tally import Tally

HEADLINE = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."


def entry(message: object, cursor: str = "c1", **fields: str) -> bytes:
    known = {"SYSLOG_FACILITY": "0", "PRIORITY": "4", "_SOURCE_MONOTONIC_TIMESTAMP": "1500000"}
    return json.dumps({"MESSAGE": message, "__CURSOR": cursor, **known, **fields}).encode()


def test_an_entry_of_the_kernel_is_a_record() -> None:
    """Facility and priority are one number again, the source's time is kept."""
    assert parse_entry(entry(HEADLINE)) == (KernelRecord(HEADLINE, 4, None, 1_500_000), "c1")


def test_a_message_that_is_not_utf8_comes_as_bytes() -> None:
    """journald writes such a message as a list of numbers."""
    parsed = parse_entry(entry([*b"NVRM: \xff x"]))
    assert parsed is not None
    assert parsed[0].text == "NVRM: \ufffd x"


@pytest.mark.parametrize("facility", ["1", "3", ""])
def test_s12_what_user_space_wrote_is_not_the_kernels(facility: str) -> None:
    """journald files writes to /dev/kmsg as kernel messages too, but with their own facility; none is not trusted."""
    parsed = parse_entry(entry(HEADLINE, SYSLOG_FACILITY=facility))
    assert parsed is not None
    assert not parsed[0].from_kernel


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"3", b"null", b"[" * 10_000, b'{"a":' * 10_000])
def test_other_lines_are_no_entry(line: bytes) -> None:
    """What is not a JSON object is passed over."""
    assert parse_entry(line) is None


def script(tmp_path: Path, lines: list[bytes], *, stay: bool) -> tuple[str, ...]:
    """A command that notes its arguments, prints these lines, and then stays or ends."""
    program = tmp_path / "journalctl.py"
    program.write_text(
        "import pathlib, sys, time\n"
        f"pathlib.Path({str(tmp_path / 'args')!r}).write_text(' '.join(sys.argv[1:]))\n"
        f"sys.stdout.buffer.write({b''.join(line + bytes([10]) for line in lines)!r})\n"
        "sys.stdout.flush()\n" + ("time.sleep(60)\n" if stay else "")
    )
    return sys.executable, str(program)


def drain(source: JournalSource, count: int) -> list[KernelRecord]:
    records: list[KernelRecord] = []
    until = time.monotonic() + 20
    while len(records) < count and time.monotonic() < until:
        source.wait(0.2)
        records += source.read(100)
    return records


def test_entries_are_followed_and_the_cursor_is_kept(tmp_path: Path) -> None:
    """Records that may matter come out, all are counted, and the cursor is that of the last entry."""
    tally = Tally()
    lines = [entry("noise", "c1"), entry(HEADLINE, "c2"), b"no json", entry("noise", "c3")]
    source = JournalSource(tally, command=script(tmp_path, lines, stay=True))
    assert [record.text for record in drain(source, 1)] == [HEADLINE]
    assert (tally.records, source.cursor()) == (3, {"journal": "c3"})
    source.close()


def test_a_restart_begins_after_the_cursor(tmp_path: Path) -> None:
    """journalctl is asked for what comes after the entry that was counted last."""
    source = JournalSource(Tally(), {"journal": "c9"}, command=script(tmp_path, [entry(HEADLINE)], stay=True))
    drain(source, 1)
    source.close()
    assert (tmp_path / "args").read_text() == "--after-cursor=c9"


def test_a_journalctl_that_ends_is_an_error(tmp_path: Path) -> None:
    """The source says so, so that another one can be tried."""
    source = JournalSource(Tally(), command=script(tmp_path, [], stay=False))
    with pytest.raises(SourceError, match="exited with status 0"):
        drain(source, 1)
    source.close()


def test_no_journalctl_is_named() -> None:
    """A missing program is a reason, not a crash."""
    with pytest.raises(SourceError, match="no-such-journalctl: No such file"):
        JournalSource(Tally(), command=("no-such-journalctl",))


def test_the_last_words_of_a_journalctl_that_ends_count(tmp_path: Path) -> None:
    """Entries that come together with the end of the program are taken before the end is told."""
    source = JournalSource(Tally(), command=script(tmp_path, [entry(HEADLINE)] * 3, stay=False))
    assert len(drain(source, 3)) == 3
    with pytest.raises(SourceError, match="exited"):
        drain(source, 1)
    source.close()
