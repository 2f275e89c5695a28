"""Who wrote the message of a structured log entry: what its fields say, wherever in it they stand.

journald sets the fields that begin with an underscore itself, so a program cannot forge them: an entry of the kernel
names no process, and its transport is `kernel` (systemd.journal-fields(7)). Shippers rename and nest these fields:
Elastic Common Schema, OpenTelemetry attributes, Loki labels, rsyslog and GELF templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

# include/linux/syslog.h numbering; words of util-linux and RFC 5424
FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "security", "console", "solaris-cron",
    *(f"local{number}" for number in range(8)),
)  # fmt: skip
USER = 1 << 3 | 6  # what a program writes without saying more: facility user, level info
KERNEL = 0 << 3 | 6
MAX_LEAVES = 512  # an entry with more fields than this is nobody's, so it is not the kernel's
MAX_DEPTH = 6

_OF_SHIPPER = frozenset(("kubernetes", "k8s", "resource", "docker", "container", "agent", "ecs"))
"""Objects that describe the pod of a shipper, or the shipper, and not the writer of the message."""
_FACILITY = re.compile(r"(?:^|[._])(?:syslog)?facility(?:[._](?:code|name|num|number|text|label))?\Z")
_TRANSPORT = re.compile(r"(?:^|[._])_transport\Z|(?:^|\.)(?:journald?[._])?transport\Z")
_PROGRAM = re.compile(
    r"(?:^|[._])(?:syslog[._]identifier|app_?name|application_name|ident|program|programname|processname|"
    r"process\.name|syslogtag)\Z"
)
_PROCESS = re.compile(
    r"(?:^|\.)_(?:pid|uid|gid|comm|exe|cmdline|systemd_\w+|audit_\w+)\Z"
    r"|(?:^|\.)journald\.(?:pid|uid|gid|process\..+)\Z|(?:^|\.)process\.(?:pid|executable|command_line)\Z"
)
_UNIT = re.compile(r"(?:^|[._])unit\Z")
_UNIT_NAME = re.compile(r".+\.(?:service|scope|slice|socket|mount|timer)\Z")
_JOURNAL_TRANSPORTS = frozenset(("audit", "driver", "syslog", "journal", "stdout"))


def stated(entry: Mapping[str, object]) -> int | None:
    """Return a priority of user space if any field says so, the kernel's if a facility does, None if none says."""
    found = None
    for count, (path, value) in enumerate(_leaves(entry), 1):
        said = USER if count > MAX_LEAVES else _says(path, value)
        if said is not None and said >> 3:
            return said
        found = said if found is None else found
    return found


def _leaves(entry: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield (path in lower case, value) of what is neither an object nor a list of attributes."""
    waiting: list[tuple[str, object, int]] = [("", entry, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        children: list[tuple[str, object]] = []
        if isinstance(value, Mapping) and depth < MAX_DEPTH:
            children = [(str(key), below) for key, below in value.items() if str(key).lower() not in _OF_SHIPPER]
        elif isinstance(value, list) and depth < MAX_DEPTH:
            pairs = (each for each in value if isinstance(each, Mapping) and "key" in each)
            children = [(str(pair["key"]), pair.get("value")) for pair in pairs]
        else:
            yield path, value
        # OpenTelemetry writes a value as an object that names its type.
        own = ("stringValue", "intValue")
        waiting += [
            (path if key in own else f"{path}.{_plain(key)}".lstrip("."), at, depth + 1) for key, at in children
        ]


def _plain(key: str) -> str:
    return key.lower().replace("-", "_")


def _says(path: str, value: object) -> int | None:
    if value is None or value == "":
        return None
    if _FACILITY.search(path):
        return _facility(value)
    text = str(value).strip().lower()
    if _TRANSPORT.search(path):
        return USER if text in _JOURNAL_TRANSPORTS or ("_transport" in path and text != "kernel") else None
    if _PROGRAM.search(path):
        return None if text.rstrip(":") in ("", "-", "kernel") else USER
    if _UNIT.search(path):
        return USER if _UNIT_NAME.match(text) else None
    return USER if _PROCESS.search(path) else None


def _facility(value: object) -> int:
    """Return the priority that a facility means; one of an unknown word is no kernel's."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("kern", "kernel"):
            return KERNEL
        if word in FACILITIES:
            return FACILITIES.index(word) << 3 | 6
        value = int(word) if word.isascii() and word.isdigit() and len(word) < 4 else -1
    known = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return int(str(value)) << 3 | 6 if known else USER
