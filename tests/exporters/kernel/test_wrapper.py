"""Every wrapping that a log can put around a kernel message, around every kind of message."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gpuheal_exporters.kernel.kmsg import interesting, parse_line
from gpuheal_exporters.kernel.parse import Leftover, describe_record, parse_lines
from gpuheal_exporters.kernel.wrapper import unix_seconds

PAYLOADS = {
    "xid": "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    "xid with JSON's signs": 'NVRM: Xid (PCI:0000:3b:00): 31, pid=9, name=a "b" {c}, Ch 00000001',
    "sxid": "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
    "sxid detail": "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Data {0x000001c0, 0x00bd5c8a, 0x00000500}",
    "nvlink5": "NVRM: Xid (PCI:0000:3b:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 09 (0x025525c6 0x00000000)",
    "nvlink5 injected": "NVRM: Xid (PCI:0000:3b:00): 149, NETIR_LINK_EVT Fatal XC0 i1 Link 09 (0x025525c6 0x00000000)",
    "lost": "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.",
    "aer": "nvidia 0000:3b:00.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer",
    "link down": "pcieport 0000:3a:00.0: pciehp: Slot(12): Link Down",
    "uvm": "NVRM: nvGpuOpsReportFatalError: uvm encountered global fatal error 0x60, requiring os reboot to recover.",
}
USEC = 12_345_678_901
AT_SECOND = 1_722_467_658.0  # 2024-07-31T23:14:18Z
AT = AT_SECOND + 0.123456
ISO = "2024-07-31T23:14:18.123456Z"


def entry(**fields: object) -> Callable[[str], str]:
    """A JSON object with the message under the key whose value is None."""
    return lambda text: json.dumps({key: text if value is None else value for key, value in fields.items()})


def behind(prefix: str) -> Callable[[str], str]:
    """The message behind a prefix."""
    return lambda text: prefix + text


def colour(text: str) -> str:
    """The message as `dmesg --color=always` writes it."""
    tag, rest = text.split(": ", 1)
    return f"\x1b[32m[12345.678901] \x1b[0m\x1b[33m{tag}: \x1b[0m{rest}\x1b[0m"


# name → wrapping, microseconds since boot, unix seconds
KERNEL: dict[str, tuple[Callable[[str], str], int | None, float | None]] = {
    "nothing": (behind(""), None, None),
    "dmesg": (behind("[12345.678901] "), USEC, None),
    "dmesg with caller": (behind("[12345.678901] [   T1946] "), USEC, None),
    "dmesg -T": (behind("[Wed Jul 31 23:14:18 2024] "), None, None),
    "dmesg -H, delta": (behind("[  +0.000844] "), None, None),
    "dmesg -H, date": (behind("[Jul31 23:14] "), None, None),
    "dmesg -x": (behind("kern  :err   : [12345.678901] "), USEC, None),
    "dmesg -x -T": (behind("kern  :warn  : [Wed Jul 31 23:14:18 2024] "), None, None),
    "dmesg iso": (behind("2024-07-31T23:14:18,123456+00:00 "), None, AT),
    "dmesg -x iso": (behind("kern  :err   : 2024-08-01T01:14:18,123456+02:00 "), None, AT),
    "dmesg -r": (behind("<3>[12345.678901] "), USEC, None),
    "dmesg with colours": (colour, USEC, None),
    "journal short": (behind("Jul 31 23:14:18 node01 kernel: "), None, None),
    "journal short, no host": (behind("Jul 31 23:14:18 kernel: "), None, None),
    "lower case month": (behind("aug 16 23:01:35 kernel: "), None, None),
    "journal short-precise": (behind("Jul 31 23:14:18.123456 node01 kernel: "), None, None),
    "journal short-iso": (behind("2024-07-31T23:14:18+0000 node01 kernel: "), None, AT_SECOND),
    "journal short-iso-precise": (behind("2024-07-31T23:14:18.123456+00:00 node01 kernel: "), None, AT),
    "journal short-full": (behind("Wed 2024-07-31 23:14:18 UTC node01 kernel: "), None, AT_SECOND),
    "journal short-full, no host": (behind("Wed 2024-07-31 23:14:18 CEST kernel: "), None, None),
    "journal with-unit": (behind("Wed 2024-07-31 23:14:18 UTC node01 kernel[0]: "), None, AT_SECOND),
    "journal short-monotonic": (behind("[12345.678901] node01 kernel: "), USEC, None),
    "journal short-delta": (behind("[12345.678901 <    0.000012 >] node01 kernel: "), USEC, None),
    "journal short-unix": (behind("1722467658.123456 node01 kernel: "), None, AT),
    "journal json": (
        entry(_TRANSPORT="kernel", SYSLOG_IDENTIFIER="kernel", SYSLOG_FACILITY="0", MESSAGE=None),
        None,
        None,
    ),
    "journal json, own times": (
        entry(
            SYSLOG_FACILITY="0", MESSAGE=None,
            __REALTIME_TIMESTAMP="1722467658123456", _SOURCE_MONOTONIC_TIMESTAMP="12345678901",
        ),
        USEC,
        AT,
    ),
    "journal json, few fields": (
        entry(_TRANSPORT="kernel", PRIORITY="3", SYSLOG_IDENTIFIER="kernel", MESSAGE=None),
        None,
        None,
    ),
    "rsyslog, traditional": (behind("Jul 31 23:14:18 node01 kernel: [12345.678901] "), USEC, None),
    "rsyslog, one-digit day": (behind("Jul  1 23:14:18 node01 kernel: "), None, None),
    "rsyslog, one blank": (behind("Jul 1 23:14:18 node01 kernel: "), None, None),
    "rsyslog, iso": (behind("2024-07-31T23:14:18.123456+00:00 node01.example.org kernel: "), None, AT),
    "SUSE": (behind("2024-07-31T23:14:18.123456+00:00 node01 kernel: [12345.678901][    C0] "), USEC, AT),
    "RFC 5424": (behind("<3>1 2024-07-31T23:14:18.123456Z node01 kernel - - - "), None, AT),
    "RFC 5424, structured": (
        behind('<3>1 2024-07-31T23:14:18.123456Z node01 kernel 1 ID7 [meta a="b"][x@1 c="d"] \ufeff'),
        None,
        AT,
    ),
    "facility and level": (behind("Jul 31 23:14:18 node01 kern.warn kernel: "), None, None),
    "busybox": (behind("Jul 31 23:14:18 node01 kern.err kernel: [12345.678901] "), USEC, None),
    "syslog-ng with year": (behind("2024 Jul 31 23:14:18 node01 kernel: "), None, None),
    "Spanish month": (behind("jul 31 23:14:18 node01 kernel: "), None, None),
    "German month": (behind("Mär 31 23:14:18 node01 kernel: "), None, None),
    "French month": (behind("août 31 23:14:18 node01 kernel: "), None, None),
    "Chinese month": (behind("7月 31 23:14:18 node01 kernel: "), None, None),
    "Talos": (behind("10.0.0.10: kern: warning: [2024-07-31T23:14:18.123456Z]: "), None, AT),
    "kernel's tag": (behind("kernel: "), None, None),
    "kernel's tag and time": (behind("kernel: [12345.678901] "), USEC, None),
    "level word": (behind("warning: [12345.678901] "), USEC, None),
    "containerd, CRI-O": (behind("2024-07-31T23:14:18.123456Z stdout F [12345.678901] "), USEC, AT),
    "CRI around syslog": (
        behind("2024-07-31T23:14:19.000001Z stderr F Jul 31 23:14:18 node01 kernel: "),
        None,
        AT + 0.876545,
    ),
    "Docker": (lambda text: json.dumps({"log": f"[12345.678901] {text}\n", "stream": "stdout", "time": ISO}), USEC, AT),
    "CRI around journal's JSON": (
        lambda text: "2024-07-31T23:14:18Z stdout F " + json.dumps({"SYSLOG_FACILITY": 0, "MESSAGE": text}),
        None,
        AT_SECOND,
    ),
    "Fluent Bit": (entry(date=1722467658.0, log=None, kubernetes={"host": "node01"}), None, AT_SECOND),
    "Vector": (entry(appname="kernel", facility="kern", message=None, severity="err", timestamp=ISO), None, AT),
    "Loki": (entry(labels={"job": "kern"}, line=None, timestamp=ISO), None, AT),
    "Cloud Logging": (
        lambda text: json.dumps({"jsonPayload": {"MESSAGE": text, "SYSLOG_FACILITY": "0"}, "timestamp": ISO}),
        None,
        AT,
    ),
    "raw record": (behind("3,9001,12345678901,-;"), USEC, None),
    "carriage return": (lambda text: f"[12345.678901] {text}\r\n", USEC, None),
    "byte order mark": (behind("\ufeff[12345.678901] "), USEC, None),
}  # fmt: skip
USER: dict[str, Callable[[str], str]] = {
    "facility user in a raw record": behind("12,9001,12345678901,-;"),
    "facility user in dmesg -r": behind("<12>[12345.678901] "),
    "facility syslog in dmesg -x": behind("syslog:err   : 2025-05-27T04:18:56,089671+00:00 "),
    "facility user in dmesg -x": behind("user  :warn  : [12345.678901] "),
    "local7": behind("local7:info  : [12345.678901] "),
    "program in syslog": behind("Jul 31 23:14:18 node01 python3[77]: "),
    "program with the kernel's tag in its text": behind("Jul 31 23:14:18 node01 python3[77]: kernel: "),
    "words before the kernel's tag": behind("Jul 31 23:14:18 node01 it says kernel: "),
    "systemd in dmesg": behind("[12345.678901] systemd[1]: "),
    "program without a host": behind("python3: "),
    "logger -t NVRM": lambda text: "Jul 31 23:14:18 node01 " + text,
    "logger -t NVRM, no host": lambda text: "Jul 31 23:14:18 " + text,
    "user facility in syslog": behind("Jul 31 23:14:18 node01 user.notice kernel: "),
    "RFC 5424 of a program": behind("<14>1 2024-07-31T23:14:18.123456Z node01 python3 77 - - "),
    "RFC 5424 that only says kern": behind("<3>1 2024-07-31T23:14:18.123456Z node01 python3 77 - - "),
    "RFC 5424 that only says kernel": behind("<14>1 2024-07-31T23:14:18.123456Z node01 kernel - - - "),
    "quoted": behind('watcher saw "'),
    "in the middle of a sentence": behind("[12345.678901] audit: comm="),
    "journal of a program": entry(SYSLOG_FACILITY="3", SYSLOG_IDENTIFIER="python3", MESSAGE=None),
    "journal, written to /dev/kmsg": entry(
        _TRANSPORT="kernel", SYSLOG_FACILITY="1", SYSLOG_IDENTIFIER="kernel", MESSAGE=None
    ),
    "journal without a facility": entry(_TRANSPORT="stdout", SYSLOG_IDENTIFIER="python3", MESSAGE=None),
    "facility word that nobody knows": entry(facility="mine", message=None),
    "Vector, a program": entry(appname="python3", facility="user", message=None),
    "Docker around a program in syslog": lambda text: json.dumps({"log": f"Jul 31 23:14:18 node01 python3: {text}"}),
}  # fmt: skip


def told(text: str) -> dict[str, Any]:
    """What a bare message says."""
    described = describe_record(parse_line(text))
    assert described is not None
    return described


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("wrapping", KERNEL)
def test_a_message_is_the_same_in_every_wrapping(wrapping: str, payload: str) -> None:
    """Event and time are the same whatever stands around; the cheap filter lets the line pass."""
    wrap, usec, at = KERNEL[wrapping]
    line = wrap(PAYLOADS[payload])
    record = parse_line(line)
    assert record.known
    described = describe_record(record)
    assert described is not None
    described.pop("kmsg", None)
    described.pop("at", None)
    assert described == told(PAYLOADS[payload])
    assert record.usec == usec
    assert record.at == (None if at is None else pytest.approx(at, abs=1e-5))
    assert interesting(line.encode())


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("wrapping", USER)
def test_s12_what_user_space_writes_is_never_the_kernels(wrapping: str, payload: str) -> None:
    """Another facility, a program's tag, or a place in a sentence: nothing is recognised."""
    assert describe_record(parse_line(USER[wrapping](PAYLOADS[payload]))) is None


@pytest.mark.parametrize("outer", sorted(set(KERNEL) - {"nothing"}))
@pytest.mark.parametrize("inner", USER)
def test_a_wrapping_does_not_make_a_programs_line_the_kernels(outer: str, inner: str) -> None:
    """A shipper around what user space wrote leaves it user space's."""
    wrap, _, _ = KERNEL[outer]
    assert describe_record(parse_line(wrap(USER[inner](PAYLOADS["xid"])))) is None


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
    assert left.told() == ["2 lines look like the NVIDIA driver's, not understood; the first is line 2"]


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
    assert left.told() == ["2 PCIe errors are of devices that no line shows to be a GPU; left out"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-07-31T23:14:18Z", AT_SECOND),
        ("2024-07-31 23:14:18.5 UTC", 1_722_467_658.5),
        ("2024-07-31T17:44:18-05:30", AT_SECOND),
        ("1722467658.25", 1_722_467_658.25),
        ("2024-07-31T23:14:18", None),
        ("2024-13-31T23:14:18Z", None),
        ("Jul 31 23:14:18", None),
    ],
)
def test_a_time_counts_if_it_names_its_zone(text: str, seconds: float | None) -> None:
    """A date without a year or zone could be any; no time is better than a wrong one."""
    assert unix_seconds(text) == seconds
