"""Every wrapping that a log can put around a kernel message, around every kind of message."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from tests.exporters.kernel.wrappings import KERNEL, PAYLOADS, USER

from gpuheal_exporters.kernel.entries import lines_of
from gpuheal_exporters.kernel.kmsg import interesting, parse_line
from gpuheal_exporters.kernel.parse import Leftover, describe_record, parse_lines


def told(text: str) -> dict[str, Any]:
    """What a bare message says."""
    described = describe_record(parse_line(text))
    assert described is not None
    return described


@pytest.mark.parametrize("wrapping", KERNEL)
def test_a_message_is_the_same_in_every_wrapping(wrapping: str) -> None:
    """Event and time are the same whatever stands around; the cheap filter lets the line pass."""
    wrap, usec, at = KERNEL[wrapping]
    for payload in PAYLOADS.values():
        line = wrap(payload)
        record = parse_line(line)
        assert record.known, line
        described = describe_record(record)
        assert described is not None, line
        described.pop("kmsg", None)
        described.pop("at", None)
        assert described == told(payload)
        assert record.usec == usec, line
        assert record.at == (None if at is None else pytest.approx(at, abs=1e-5)), line
        assert interesting(line.encode()), line


@pytest.mark.parametrize("wrapping", USER)
def test_s12_what_user_space_writes_is_never_the_kernels(wrapping: str) -> None:
    """Another facility, a program's tag, a process, or a place in a sentence: nothing is recognised."""
    for payload in PAYLOADS.values():
        assert describe_record(parse_line(USER[wrapping](payload))) is None, payload


@pytest.mark.parametrize("outer", sorted(set(KERNEL) - {"nothing"}))
def test_a_wrapping_does_not_make_a_programs_line_the_kernels(outer: str) -> None:
    """A shipper around what user space wrote leaves it user space's."""
    wrap, _, _ = KERNEL[outer]
    for inner, forged in USER.items():
        assert describe_record(parse_line(wrap(forged(PAYLOADS["xid"])))) is None, inner


@pytest.mark.parametrize(
    "lines",
    [
        ["Jul 31 23:14:18 node01 python3[77]: hello", " " * 37 + PAYLOADS["xid"]],
        ["[12345.678901] systemd[1]: hello", "", " " * 15 + PAYLOADS["xid"], " " * 15 + PAYLOADS["lost"]],
        ["user  :warn  : [12345.678901] hello", "\t" + PAYLOADS["xid"]],
        ["Wed 2024-07-31 23:14:18 UTC [s=1]", "    MESSAGE=hello", " " * 12 + PAYLOADS["xid"], "    _PID=7"],
        ["Wed 2024-07-31 23:14:18 UTC [s=1]", f"    MESSAGE={PAYLOADS['xid']}", " " * 12 + "more", "    _PID=7"],
    ],
)
def test_s12_the_second_line_of_a_programs_message_is_not_the_kernels(lines: list[str]) -> None:
    """An indented line without a tag of its own belongs to whoever wrote the line before it."""
    assert list(parse_lines(lines)) == []


def test_what_a_program_wrote_is_counted_and_said() -> None:
    """The driver's words under a program's tag change nothing, and are told."""
    left = Leftover()
    lines = [
        "Jul 31 23:14:18 node01 python3[77]: " + PAYLOADS["xid"],
        " " * 37 + PAYLOADS["xid"],
        "<12>" + PAYLOADS["xid"],
    ]
    assert list(parse_lines(lines, left=left)) == []
    assert left.told() == ["3 lines have the driver's words and were written by a program; left out"]


def test_the_second_line_of_the_kernels_message_is_the_kernels() -> None:
    """dmesg indents the further lines of a message; they count behind a line of the driver, and with nothing before."""
    head = "[ 1843.308145] NVRM: The NVIDIA GPU 0000:b3:00.0"
    tail = "               NVRM: fallen off the bus and is not responding to commands."
    kinds = [found["kind"] for found in parse_lines([head, "               NVRM: (PCI ID: 10de:26b5)", tail])]
    assert kinds == ["gpu_lost_head", "gpu_lost_tail"]
    assert [found["xid"] for found in parse_lines(["    " + PAYLOADS["xid"]])] == [79]


def test_s12_a_binary_field_of_a_journal_export_stays_one_field() -> None:
    """A message with line breaks cannot open an entry of its own, nor can what stands a mebibyte into a line."""
    value = f"x\n{PAYLOADS['xid']}\n\n__CURSOR=s=2\nMESSAGE={PAYLOADS['xid']}\n".encode()
    entry = b"__CURSOR=s=1\nMESSAGE\n" + len(value).to_bytes(8, "little") + value + b"\n_PID=7\n\n"
    kernels = f"__CURSOR=s=3\nSYSLOG_FACILITY=0\nMESSAGE={PAYLOADS['lost']}\n\n".encode()
    long = b"x" * (1 << 20) + PAYLOADS["xid"].encode() + b"\n"
    found = list(parse_lines(lines_of(io.BytesIO(entry + kernels + long))))
    assert [each["kind"] for each in found] == ["gpu_lost"]


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        (["__CURSOR=s=1", "PRIORITY=3", "SYSLOG_FACILITY=0", f"MESSAGE={PAYLOADS['xid']}", "", "boring"], [1]),
        (["Wed 2024-07-31 23:14:18.1 UTC [s=1]", "    SYSLOG_FACILITY=0", f"    MESSAGE={PAYLOADS['xid']}"], [2]),
        (["__CURSOR=s=1", "SYSLOG_FACILITY=1", f"MESSAGE={PAYLOADS['xid']}", ""], []),
        (["{", '\t"SYSLOG_FACILITY" : "0",', f'\t"MESSAGE" : "{PAYLOADS["xid"]}"', "}", PAYLOADS["lost"]], [1, 5]),
        (["\x1e" + json.dumps({"SYSLOG_FACILITY": "0", "MESSAGE": PAYLOADS["xid"]})], [1]),
        (["data: " + json.dumps({"SYSLOG_FACILITY": "0", "MESSAGE": PAYLOADS["xid"]}), ""], [1]),
        (["{", "never closed", *["x"] * 600, PAYLOADS["lost"]], [603]),
    ],
)
def test_entries_of_several_lines_are_read_as_one(lines: list[str], numbers: list[int]) -> None:
    """journalctl's export, verbose, pretty, sequence and event-stream formats; an entry carries its first line."""
    assert [found["line"] for found in parse_lines(lines)] == numbers


def test_what_is_not_understood_is_counted_and_said() -> None:
    """A driver's headline in an unknown wrapping or of a new shape is told; its ordinary chatter is not."""
    left = Leftover()
    lines = ["[1.0] NVRM: loading", "@@ ~~ NVRM: Xid (PCI:0000:3b:00): 79, gone", "NVRM: Xid <3b>: 79"]
    assert list(parse_lines(lines, left=left)) == []
    assert left.told() == ["2 NVIDIA driver lines could not be parsed; the first is line 2"]


def test_pcie_errors_of_other_cards_are_left_out_and_said() -> None:
    """Errors of a network card are no GPU's; those of a GPU and of the port above it come once a line names the GPU."""
    left = Leftover()
    lines = [
        "pcieport 0000:00:00.0: AER: Uncorrectable (Fatal) error message received from 0000:00:00.0",
        "mlx5_core 0000:01:00.0: PCIe Bus Error: severity=Uncorrectable (Fatal), type=Transaction Layer",
        "pcieport 0000:3a:00.0: AER: Corrected error received: 0000:3b:00.0",
        "vfio-pci 0000:3b:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer",
        PAYLOADS["xid"],
        "pcieport 0000:3a:00.0: pciehp: Slot(12): Link Down",
    ]
    assert [found["line"] for found in parse_lines(lines, left=left)] == [3, 4, 5, 6]
    assert left.told() == ["2 PCIe errors of devices that are not known to be GPUs were ignored"]
