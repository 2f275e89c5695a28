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

# include/linux/syslog.h numbering; words of util-linux and RFC 5424
FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "security", "console", "solaris-cron",
    *(f"local{number}" for number in range(8)),
)  # fmt: skip
LEVELS = {
    "emerg": 0, "panic": 0, "alert": 1, "crit": 2, "err": 3, "error": 3, "warn": 4, "warning": 4, "notice": 5,
    "info": 6, "debug": 7,
}  # fmt: skip
USER = 1 << 3 | 6  # what a program writes without saying more: facility user, level info
MAX_TOKENS = 12
MAX_DEPTH = 4  # JSON in JSON: a shipper around a container runtime around journald

_PAYLOAD = re.compile(
    r"NVRM: |nvidia-nvswitch\d{1,3}: "
    r"|[A-Za-z][\w-]{0,30} [0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]: "
    r"(?:AER: |PCIe Bus Error|(?:pciehp: )?Slot\()"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]{0,16}[mK]")
_FACILITY = "|".join(FACILITIES)
_LEVEL = "|".join(LEVELS)
_HOST = r"[^\s\[\]:<>{}\"'=,;]{1,255}"
_TIME = r"\d[\d:.,/TZ+-]{0,40}"
_KERNEL = r"kernel(?:\[\d{1,7}\])?:"
_TOKEN = re.compile(
    r"\s*(?:"
    rf"(?P<runtime>{_TIME}) (?:stdout|stderr) [FP](?:\s|\Z)"
    r"|<(?P<pri>\d{1,3})>(?:\d{1,2} (?=[\d-]))?"
    r"|(?P<address>\d{1,3}(?:\.\d{1,3}){3}):(?=\s)"
    rf"|(?P<facility>{_FACILITY})(?:\s*:\s*|\.)(?P<level>{_LEVEL})(?:\s*:|(?=\s))"
    r"|\[(?P<brackets>[\w\s:.+,<>-]{1,60})\]:?"
    rf"|(?P<tag>(?:{_HOST}\s+)?(?:(?P<tagged>{_FACILITY})\.(?:{_LEVEL})\s+)?{_KERNEL})"
    rf"|(?P<stamp>(?P<month>(?:[^\W\d_]{{2,12}}[.,]{{0,2}}\s+){{1,2}}|\d{{1,2}}[^\W\d_]{{1,3}}\s+)?{_TIME}(?:\s+{_TIME}){{0,2}}"
    rf"(?:\s+(?:[A-Z]{{3,5}}|[+-]\d{{2,4}})(?=\s+(?:{_HOST}\s+)?{_KERNEL}))?)(?=\s|\Z)"
    rf"|{_HOST}\s+(?P<app>{_HOST})\s+(?:-|\d{{1,7}})\s+(?:-|{_HOST})\s+(?:-|(?:\[[^\]]{{1,400}}\])+)(?:\s+\ufeff?|\Z)"
    rf"|(?P<word>{_LEVEL}):"
    rf"|(?P<program>(?:{_HOST}\s+)?[\w./@-]{{1,64}}(?:\[\d{{1,7}}\])?:)(?=\s|\Z)"
    r")\s*"
)
_MONOTONIC = re.compile(r"\s*(\d{1,12})\.(\d{6})(?:\s*<[^>]*>)?\s*\Z")
_CALENDAR = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?\s*(Z|UTC|GMT|[+-]\d\d:?\d\d)\Z"
)
_EPOCH = re.compile(r"(\d{10})\.(\d{1,9})\Z")
_TEXT_KEYS = ("MESSAGE", "message", "log", "msg", "line", "content", "_raw")
_FACILITY_KEYS = ("SYSLOG_FACILITY", "syslog_facility", "facility", "facility_code")
_TAG_KEYS = ("SYSLOG_IDENTIFIER", "syslog_identifier", "appname", "app_name", "ident", "program")


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
    found = _PAYLOAD.search(line)
    brace = line.find("{") if depth else -1
    if brace >= 0 and (found is None or brace < found.start()):
        before = _before(line, brace)
        inner = _document(line[brace:], depth) if before is not None else None
        if inner is not None and before is not None:
            prio = USER if before.text else _stricter(before.prio, inner.prio)
            return inner._replace(prio=prio, at=before.at if inner.at is None else inner.at)
    if found is None:
        return Unwrapped(line)
    before = _before(line, found.start())
    if before is None:
        return Unwrapped(line, known=False)
    if before.text:  # a program's tag
        return Unwrapped(line, USER, known=False)
    return before._replace(text=line[found.start() :])


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
            prio = _stricter(_stated(entry, holder), inner.prio)
            at = inner.at if inner.at is not None else _moment(entry)
            usec = inner.usec if inner.usec is not None else _number(holder.get("_SOURCE_MONOTONIC_TIMESTAMP"))
            return inner._replace(prio=prio, at=at, usec=usec)
    return None


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


def _stated(*entries: Mapping[str, Any]) -> int | None:
    """Return the priority that an entry states, that of user space if a program's name says so; None if neither."""
    for entry in entries:
        for key in _FACILITY_KEYS:
            facility = entry.get(key)
            code = _number(facility)
            if code is None and isinstance(facility, str) and facility:
                code = FACILITIES.index(facility) if facility in FACILITIES else 1
            if code is not None:
                return code << 3 | 6
        for key in _TAG_KEYS:
            if isinstance(tag := entry.get(key), str) and tag not in ("", "kernel"):
                return USER
    return None


def _moment(entry: Mapping[str, Any]) -> float | None:
    micros = _number(entry.get("_SOURCE_REALTIME_TIMESTAMP")) or _number(entry.get("__REALTIME_TIMESTAMP"))
    if micros is not None:
        return micros / 1e6
    for key in ("time", "timestamp", "@timestamp", "ts", "date"):
        value = entry.get(key)
        if isinstance(value, float) and 1e9 <= value < 1e10:
            return value
        if isinstance(value, str) and (seen := unix_seconds(value)) is not None:
            return seen
    return None
