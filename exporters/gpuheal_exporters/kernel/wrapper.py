"""What may stand around a kernel message in a line of text, taken off token by token.

The recogniser looks for the message first. It counts as the kernel's only if everything before it is known furniture of
a log: times, priorities, host names, the kernel's own tag, container runtimes, JSON. A program's tag, or a facility
other than the kernel's, makes it user space's; anything else makes it not understood.

Forms: dmesg(1) and util-linux' facility and level words, journalctl(1) output formats, RFC 3164, RFC 5424, the CRI log
format (kubelet pkg/kubelet/kuberuntime/logs), Docker's json-file, JSON of log shippers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from gpuheal_exporters.kernel.provenance import FACILITIES, USER, stated

LEVELS = {
    "emerg": 0, "panic": 0, "alert": 1, "crit": 2, "err": 3, "error": 3, "warn": 4, "warning": 4, "notice": 5,
    "info": 6, "debug": 7,
}  # fmt: skip
MAX_TOKENS = 12
MAX_DEPTH = 4  # JSON in JSON: a shipper around a container runtime around journald

_PAYLOAD = re.compile(
    r"NVRM: |nvidia-nvswitch\d{1,3}: "
    r"|[A-Za-z][\w-]{0,30} [0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]: "
    r"(?:AER: |PCIe Bus Error|(?:pciehp: )?Slot\()"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]{0,16}[mK]|\x1b\]8;[^\x1b\x07]{0,400}(?:\x1b\\|\x07)")
_FACILITY = "|".join(FACILITIES)
_LEVEL = "|".join(LEVELS)
_HOST = r"[^\s\[\]:<>{}\"'=,;]{1,255}"
_TIME = r"\d[\d:.,/TZ+-]{0,40}"
_KERNEL = r"kernel(?:\[0\])?:"  # another number is that of a process that calls itself so: `logger -t kernel`
_ADDRESS = r"[0-9a-fA-F]{0,4}(?::[0-9a-fA-F.]{0,15}){2,7}"
_ELEMENT = r"""\[(?:[^\]"\\]|"(?:[^"\\]|\\.)*")*\]"""  # of RFC 5424's structured data
_TOKEN = re.compile(
    r"\s*(?:"
    rf"(?P<runtime>{_TIME}) (?:stdout|stderr) [FP](?:\s|\Z)"
    r"|<(?P<pri>\d{1,3})>(?:\d{1,2} (?=[\d-]))?"
    r"|(?P<address>\d{1,3}(?:\.\d{1,3}){3}):(?=\s)"
    rf"|(?P<facility>{_FACILITY})(?:\s*:\s*|\.)(?P<level>{_LEVEL})(?:\s*:|(?=\s))"
    r"|\[(?P<brackets>[\w\s:.+,<>-]{1,60})\]:?"
    rf"|(?P<tag>(?:(?:{_HOST}|{_ADDRESS})\s+)?(?:(?P<tagged>{_FACILITY})\.(?:{_LEVEL})\s+)?{_KERNEL})"
    rf"|(?P<stamp>(?P<month>(?:[^\W\d_]{{2,12}}[.,]{{0,2}}\s+){{1,2}}|\d{{1,2}}[^\W\d_]{{1,3}}\s+)?{_TIME}(?:\s+{_TIME}){{0,2}}"
    rf"(?:\s+(?:[A-Z]{{3,5}}|[+-]\d{{2,4}})(?=\s+(?:{_HOST}\s+)?{_KERNEL}))?)(?=\s|\Z)"
    rf"|{_HOST}\s+(?P<app>{_HOST})\s+(?:-|\d{{1,7}})\s+(?:-|{_HOST})\s+(?:-|(?:{_ELEMENT})+)(?:\s+\ufeff?|\Z)"
    rf"|(?P<word>{_LEVEL}):"
    rf"|(?P<program>(?:{_HOST}\s+)?[\w./@-]{{1,64}}(?:\[\d{{1,7}}\])?:)(?=\s|\Z)"
    r")\s*"
)
_BEGINS = (
    r"(?=\[|<\d|\{|\d{4}-\d\d-\d\d[T ]|\d{1,2}[^\W\d_A-Za-z] |[^\W\d_]{2,5}\.?\s+\d{1,2} \d\d:\d\d"
    r"|[^\W\d_]{3} [^\W\d_]{3} |kern\s*:)"
)
_READER = re.compile(
    r"\s*(?:\[(?:pod/)?[\w.-]{1,253}/[\w.-]{1,63}(?:/[\w.-]{1,63})?\] "
    r"|[\w.-]{1,63}\s+\| "
    rf"|(?:\+ )?[\w.-]{{1,253}} (?:\u203a )?[\w.-]{{1,63}} {_BEGINS}"
    rf"|(?!(?:{_FACILITY})\s*:)(?:[\w.-]{{1,253}}|{_ADDRESS}): {_BEGINS}"
    rf"|(?!(?:{_FACILITY})\s*:)(?:[\w./~@+-]{{1,255}}:)?(?:\d{{1,9}}[:-])?{_BEGINS})"
)
"""What a reader of many logs puts before each line of one: kubectl logs --prefix, Docker Compose, stern, pdsh and
talosctl, grep -H and -n. Only at the start of a line, where a program that writes to a log cannot put anything."""
_OF_KERNEL = r"(?=\S*(?:kern|kmsg|dmesg|journal|syslog|systemd))[\w.-]{1,80}"
_LABEL = r"""[a-zA-Z_]\w{0,63}="(?:[^"\\]|\\.){0,255}\""""
_SHIPPER = re.compile(
    rf"\s*(?:\[\d{{1,9}}\] {_OF_KERNEL}: \[\[?(?P<bit>\d{{10}}\.\d{{1,9}})(?:, \{{[^{{}}]{{0,400}}\}}\])?, (?=\{{)"
    rf"|(?P<d>\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{9}} [+-]\d{{4}}) {_OF_KERNEL}: (?=\{{)"
    rf"|(?P<file>{_TIME})\t{_OF_KERNEL}\t(?=\{{)"
    rf"|(?P<loki>{_TIME}) \{{(?P<labels>(?:{_LABEL}(?:, ?)?){{0,32}})\}} )"
)
_PAIR = re.compile(r"""([a-zA-Z_]\w{0,63})="((?:[^"\\]|\\.){0,255})\"""")
"""The line of a shipper's own output: Fluent Bit and Fluentd on standard output, Fluentd's file, logcli."""
_MONOTONIC = re.compile(r"\s*(\d{1,12})\.(\d{6})(?:\s*<[^>]*>)?\s*\Z")
_CALENDAR = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?\s*(Z|UTC|GMT|[+-]\d\d:?\d\d)\Z"
)
_EPOCH = re.compile(r"(\d{10})\.(\d{1,9})\Z")
_TEXT_KEYS = (
    "MESSAGE", "message", "log", "msg", "line", "content", "_raw", "textPayload", "SyslogMessage", "body",
    "stringValue",
)  # fmt: skip
_TIME_KEYS = ("time", "timestamp", "@timestamp", "ts", "date", "_time", "timeUnixNano", "TimeGenerated")
_DIGITS = {10: 1e0, 13: 1e3, 16: 1e6, 19: 1e9}  # of a unix time in seconds, milli-, micro- and nanoseconds


class Unwrapped(NamedTuple):
    """A message and what its wrapping said: `prio` as in syslog, microseconds since boot, unix seconds.

    `known` is False where something around the message was not understood, or a program's tag; `text` is then the whole
    line.
    """

    text: str
    prio: int | None = None
    usec: int | None = None
    at: float | None = None
    known: bool = True


def unix_seconds(text: str) -> float | None:
    """Return the unix time of a date that names its zone, or of seconds since 1970; None for any other."""
    if match := _EPOCH.match(text):
        return float(text)
    match = _CALENDAR.search(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None
    if zone[0] in "+-":
        digits = zone.replace(":", "")
        offset = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:5]))
        return moment.timestamp() - (offset if zone[0] == "+" else -offset).total_seconds() + _fraction(fraction)
    return moment.timestamp() + _fraction(fraction)


def _fraction(digits: str | None) -> float:
    return float(f"0.{digits}") if digits else 0.0


def unwrap(line: str, depth: int = MAX_DEPTH) -> Unwrapped:
    """Return the kernel message of a line and who wrote it; a line without one comes back whole. Never raises."""
    if "\x1b" in line:
        line = _COLOUR.sub("", line)
    if depth and (shipped := _shipped(line)) is not None:
        rest, prio, moment = shipped
        inner = unwrap(rest, depth - 1)
        return inner._replace(prio=_stricter(prio, inner.prio), at=moment if inner.at is None else inner.at)
    found = _PAYLOAD.search(line)
    brace = line.find("{") if depth else -1
    if brace >= 0 and (found is None or brace < found.start()):
        before = _before(line, brace)
        held = _document(line[brace:], depth) if before is not None else None
        if held is not None and before is not None:
            prio = USER if before.text else _stricter(before.prio, held.prio)
            return held._replace(prio=prio, at=before.at if held.at is None else held.at)
    if found is None:
        return Unwrapped(line)
    before = _before(line, found.start())
    if before is None:
        return Unwrapped(line, known=False)
    if before.text:  # a program's tag
        return Unwrapped(line, USER, known=False)
    return before._replace(text=line[found.start() :])


def _shipped(line: str) -> tuple[str, int | None, float | None] | None:
    """Return a line without what its reader or shipper put first, the priority and the time that says; None if none."""
    if match := _SHIPPER.match(line):
        labels = dict(_PAIR.findall(match["labels"] or ""))
        moment = unix_seconds(match["bit"] or match["d"] or match["file"] or match["loki"])
        return line[match.end() :], stated(labels), moment
    match = _READER.match(line)
    return (line[match.end() :], None, None) if match is not None and match.end() else None


def _before(line: str, end: int) -> Unwrapped | None:
    """Return what stands before `end`, with a program's tag as text, or None if a part of it is not understood."""
    at = 0
    prio = usec = moment = None
    program, tagged, local = "", False, False
    for _ in range(MAX_TOKENS):
        if line[at:end].strip("\ufeff \t") == "":
            # A date as syslogd writes it always has the kernel's tag behind it; logger(1) can leave anything there.
            if local and not tagged:
                return None
            return Unwrapped(program, prio, usec, moment)
        token = _TOKEN.match(line, at, end)
        if token is None or token.end() == at:
            return None
        at = token.end()
        if token["program"] or (token["app"] or "kernel") != "kernel":
            program = token["program"] or token["app"]
        if token["month"] is not None:
            local, tagged = True, False
        tagged = tagged or bool(token["tag"] or token["app"] or token["program"])
        prio = _priority(token, prio)
        if token["brackets"] and (seconds := _MONOTONIC.match(token["brackets"])):
            usec = int(seconds[1]) * 1_000_000 + int(seconds[2])
        for stamp in (token["runtime"], token["stamp"], token["brackets"]):
            if stamp and (seen := unix_seconds(stamp.strip())) is not None:
                moment = seen
    return None


def _priority(token: re.Match[str], before: int | None) -> int | None:
    if token["pri"]:
        return _stricter(before, int(token["pri"]))
    facility = token["facility"] or token["tagged"]
    if facility:
        return _stricter(before, FACILITIES.index(facility) << 3 | LEVELS.get(token["level"] or "info", 6))
    return before


def _stricter(outer: int | None, inner: int | None) -> int | None:
    """Return the priority of a message in two wrappings: who is not the kernel in one of them is not the kernel."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer if outer >> 3 else inner


def _document(text: str, depth: int) -> Unwrapped | None:
    """Return the message inside a JSON object, or None if it is none or holds none."""
    try:
        document, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return from_entry(document, depth) if isinstance(document, dict) else None


def from_entry(entry: Mapping[str, Any], depth: int = MAX_DEPTH) -> Unwrapped | None:
    """Return the kernel message of one entry of a log shipper, journald's own included; None if it holds none."""
    for holder in _holders(entry):
        for key in _TEXT_KEYS:
            text = as_text(holder.get(key))
            if not text:
                continue
            inner = unwrap(text.rstrip("\r\n"), depth - 1)
            if inner.known and not _PAYLOAD.match(inner.text):
                continue
            prio, usec = _of_record(holder)
            prio = _stricter(_stricter(stated(entry), prio), inner.prio)
            at = inner.at if inner.at is not None else next(filter(None, map(_moment, _holders(entry))), None)
            return inner._replace(prio=prio, at=at, usec=usec if inner.usec is None else inner.usec)
    return None


def _of_record(holder: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return priority and microseconds since boot as journald, or Fluent Bit's reader of /dev/kmsg, gives them."""
    seconds, micros = _number(holder.get("sec")), _number(holder.get("usec"))
    if seconds is None or micros is None or "sequence" not in holder:
        return None, _number(holder.get("_SOURCE_MONOTONIC_TIMESTAMP"))
    return _number(holder.get("priority")), seconds * 1_000_000 + micros


def _holders(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the object and those one and two levels below it that a message may be in."""
    yield entry
    for value in list(entry.values())[:64]:
        if isinstance(value, dict):
            yield value
            yield from (deeper for deeper in list(value.values())[:64] if isinstance(deeper, dict))


def as_text(value: object) -> str:
    """Return journald's MESSAGE as text: a text, or a list of bytes where it is not UTF-8 (journal JSON format)."""
    if isinstance(value, list):
        return bytes(byte for byte in value if isinstance(byte, int) and 0 <= byte < 256).decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else None


def _moment(entry: Mapping[str, Any]) -> float | None:
    micros = _number(entry.get("_SOURCE_REALTIME_TIMESTAMP")) or _number(entry.get("__REALTIME_TIMESTAMP"))
    if micros is not None:
        return micros / 1e6
    for key in _TIME_KEYS:
        value = entry.get(key)
        if isinstance(value, float) and 1e9 <= value < 1e10:
            return value
        whole = _number(value)
        if whole is not None and (unit := _DIGITS.get(len(str(whole)))):
            return whole / unit
        if isinstance(value, str) and (seen := unix_seconds(value)) is not None:
            return seen
    return None
