"""Payloads of the kernel, and the wrappings in which logs keep them."""

from __future__ import annotations

import json
from collections.abc import Callable

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
    "journal with colours": (
        lambda text: f"\x1b[0;1;31mJul 31 23:14:18 node01 kernel: \x1b]8;;file:///x\x1b\\{text}\x1b]8;;\x07\x1b[0m",
        None, None,
    ),
    "syslog of a host without a name": (behind("Jul 31 23:14:18 fe80::1 kernel: "), None, None),
    "RFC 5424, brackets in a value": (
        behind('<3>1 2024-07-31T23:14:18.123456Z node01 kernel - - [meta a="x\\]y" b="[1]"] '), None, AT,
    ),
    "kubectl logs --prefix": (behind("[pod/dmesg-x7k2p/reader] [12345.678901] "), USEC, None),
    "kubectl logs --prefix --timestamps": (behind(f"[pod/dmesg-x7k2p/reader] {ISO} [12345.678901] "), USEC, AT),
    "kubectl logs --prefix around journald": (behind("[pod/j-1/r] Jul 31 23:14:18 node01 kernel: "), None, None),
    "docker logs -t": (behind(f"{ISO} kern  :err   : [12345.678901] "), USEC, AT),
    "stern": (behind("+ dmesg-x7k2p \u203a reader [12345.678901] "), USEC, None),
    "stern, raw": (behind("dmesg-x7k2p reader Jul 31 23:14:18 node01 kernel: "), None, None),
    "Docker Compose": (behind("reader-1  | [12345.678901] "), USEC, None),
    "pdsh": (behind("node01: [12345.678901] "), USEC, None),
    "pdsh around journald": (behind("node01: Jul 31 23:14:18 node01 kernel: "), None, None),
    "pdsh around dmesg -T": (behind("node01: [Wed Jul 31 23:14:18 2024] "), None, None),
    "grep -H": (behind("/var/log/kern.log:Jul 31 23:14:18 node01 kernel: "), None, None),
    "grep -Hn": (behind("messages-20240731:117:2024-07-31T23:14:18.123456Z node01 kernel: "), None, AT),
    "grep -n": (behind("117:[12345.678901] "), USEC, None),
    "grep -C": (behind("117-[12345.678901] "), USEC, None),
    "Talos, name and address": (behind(f"node-1: kern: warning: [{ISO}]: "), None, AT),
    "Talos, new address": (behind(f"fd00::1: kern:     err: [{ISO}]: "), None, AT),
    "Docker around journald": (
        lambda text: json.dumps({"log": f"Jul 31 23:14:18 node01 kernel: {text}\n", "stream": "stderr", "time": ISO}),
        None, AT,
    ),
    "Fluent Bit around Docker": (
        lambda text: json.dumps({"log": json.dumps({"log": f"[12345.678901] {text}\n"}), "time": ISO, "stream": 1}),
        USEC, AT,
    ),
    "Fluent Bit, kmsg": (entry(priority=3, sequence=9001, sec=12345, usec=678901, msg=None), USEC, None),
    "Fluent Bit, standard output": (
        lambda text: f"[0] kmsg.0: [1722467658.123456000, {json.dumps({'msg': text, 'priority': 3})}]",
        None, AT,
    ),
    "Fluent Bit, standard output, metadata": (
        lambda text: f"[0] kmsg.0: [[1722467658.123456000, {{}}], {json.dumps({'msg': text, 'priority': 3})}]",
        None, AT,
    ),
    "Fluentd, standard output": (
        lambda text: f"2024-07-31 23:14:18.123456000 +0000 kern: {json.dumps({'ident': 'kernel', 'message': text})}",
        None, AT,
    ),
    "Fluentd, file": (
        lambda text: f"2024-07-31T23:14:18+00:00\tsystem.journal\t{json.dumps({'MESSAGE': text, 'ident': 'kernel'})}",
        None, AT_SECOND,
    ),
    "logcli": (behind('2024-07-31T23:14:18Z {job="kern", node="node01"} [12345.678901] '), USEC, AT_SECOND),
    "logcli around journal's JSON": (
        lambda text: '2024-07-31T23:14:18Z {transport="kernel"} ' + json.dumps({"MESSAGE": text}), None, AT_SECOND,
    ),
    "Loki, nanoseconds": (entry(line=None, timestamp="1722467658123456000", fields={"transport": "kernel"}), None, AT),
    "Elastic": (
        lambda text: json.dumps({"_source": {
            "@timestamp": ISO, "message": text, "process": {"name": "kernel"},
            "log": {"syslog": {"facility": {"code": 0, "name": "kernel"}}},
        }}), None, AT,
    ),
    "Filebeat": (entry(message=None, **{"@timestamp": ISO, "log.syslog.facility.code": 0}), None, AT),
    "Splunk": (lambda text: json.dumps({"result": {"_time": ISO, "_raw": f"node01 kernel: {text}"}}), None, AT),
    "CloudWatch": (entry(timestamp=1722467658123, message=None), None, AT_SECOND + 0.123),
    "Cloud Logging, text": (entry(textPayload=None, timestamp=ISO), None, AT),
    "Azure": (entry(TimeGenerated=ISO, Facility="kern", ProcessName="kernel", SyslogMessage=None), None, AT),
    "OpenTelemetry": (
        lambda text: json.dumps({
            "timeUnixNano": "1722467658123456000", "body": {"stringValue": text},
            "attributes": [{"key": "SYSLOG_IDENTIFIER", "value": {"stringValue": "kernel"}}],
        }), None, AT,
    ),
    "rsyslog's JSON": (
        entry(timestamp=ISO, message=None, syslogtag="kernel:", **{"syslogfacility-text": "kern"}),
        None, AT,
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
    "logger -t kernel, as journalctl shows it": behind("Jul 31 23:14:18 node01 kernel[1234]: "),
    "kubectl logs --prefix around a program": behind("[pod/j-1/r] Jul 31 23:14:18 node01 python3[7]: "),
    "pdsh around a program": behind("node01: Jul 31 23:14:18 node01 python3[7]: "),
    "grep around a program": behind("/var/log/messages:17:Jul 31 23:14:18 node01 python3: "),
    "facility user behind a name": behind("node-1: user: warning: [2024-07-31T23:14:18Z]: "),
    "journal, sent without an identifier": entry(_TRANSPORT="journal", _COMM="python3", _PID="7", MESSAGE=None),
    "journal, sent with the kernel's": entry(
        _TRANSPORT="journal", SYSLOG_IDENTIFIER="kernel", SYSLOG_FACILITY="0", MESSAGE=None
    ),
    "journal of a unit": entry(_SYSTEMD_UNIT="train.service", MESSAGE=None),
    "Loki, label of a program": entry(line=None, labels={"syslog_identifier": "python3"}),
    "Loki, label of a unit": entry(line=None, labels={"job": "systemd-journal", "unit": "train.service"}),
    "logcli, label of a unit": behind('2024-07-31T23:14:18Z {job="journal", unit="train.service"} '),
    "logcli, label of a transport": behind('2024-07-31T23:14:18Z {transport="stdout"} [12345.678901] '),
    "Elastic, a process": lambda text: json.dumps({"_source": {"message": text, "process": {"name": "python3"}}}),
    "Elastic, a facility": entry(message=None, log={"syslog": {"facility": {"code": 1, "name": "user-level"}}}),
    "Filebeat, a facility": entry(message=None, **{"log.syslog.facility.code": 3}),
    "Filebeat, a process of journald": entry(message=None, journald={"pid": 7, "process": {"name": "python3"}}),
    "Cloud Logging, a program": lambda text: json.dumps({"jsonPayload": {"MESSAGE": text, "_TRANSPORT": "stdout"}}),
    "Azure, a program": entry(SyslogMessage=None, Facility="user", ProcessName="python3"),
    "OpenTelemetry, a program": lambda text: json.dumps({
        "body": {"stringValue": text},
        "attributes": [{"key": "SYSLOG_IDENTIFIER", "value": {"stringValue": "python3"}}],
    }),
    "rsyslog's JSON, a program": entry(message=None, programname="python3", **{"syslogfacility-text": "user"}),
    "Fluent Bit, facility user in kmsg": entry(priority=12, sequence=9001, sec=12345, usec=678901, msg=None),
    "Fluentd, another stream": lambda text: (
        f"2024-07-31 23:14:18.123456000 +0000 app.train: {json.dumps({'message': text})}"
    ),
    "more fields than an entry of the kernel has": lambda text: json.dumps(
        {"MESSAGE": text} | {f"F{number}": number for number in range(600)}
    ),
    "journal of a program": entry(SYSLOG_FACILITY="3", SYSLOG_IDENTIFIER="python3", MESSAGE=None),
    "journal, written to /dev/kmsg": entry(
        _TRANSPORT="kernel", SYSLOG_FACILITY="1", SYSLOG_IDENTIFIER="kernel", MESSAGE=None
    ),
    "journal without a facility": entry(_TRANSPORT="stdout", SYSLOG_IDENTIFIER="python3", MESSAGE=None),
    "facility word that nobody knows": entry(facility="mine", message=None),
    "Vector, a program": entry(appname="python3", facility="user", message=None),
    "Docker around a program in syslog": lambda text: json.dumps({"log": f"Jul 31 23:14:18 node01 python3: {text}"}),
}  # fmt: skip
