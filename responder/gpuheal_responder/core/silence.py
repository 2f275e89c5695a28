"""Does a silence match a set of labels? Answered as Alertmanager does, for labels that no alert carries at this moment.

Alertmanager itself says only which of the firing alerts are silenced. A case may have none: its exporter is away, its
node reboots. A person's silence has to stop it all the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import re2

from gpuheal_responder.core.alert import Matcher, Silence

_QUIET = re2.Options()
_QUIET.log_errors = False


def silence_matches(silence: Silence, labels: Mapping[str, str]) -> bool:
    """Return whether every matcher of the silence agrees with these labels.

    Alertmanager keeps no silence without matchers; one whose matchers a peer does not tell matches everything.

    As Alertmanager (pkg/labels/matcher.go, silence/silence.go): a label that is missing has the empty value, regular
    expressions are RE2 and have to match the whole value. An expression that can't be read agrees with everything: its
    author wanted something stopped, and it is safer to stop too much.
    """
    return all(_agrees(matcher, labels) for matcher in silence.matchers)


def _agrees(matcher: Matcher, labels: Mapping[str, str]) -> bool:
    value = labels.get(matcher.name, "")
    if not matcher.is_regex:
        return (value == matcher.value) is matcher.is_equal
    expression = _compiled(matcher.value)
    if expression is None:
        return True
    return (expression.fullmatch(value.encode(errors="replace")) is not None) is matcher.is_equal


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re2._Regexp | None:
    try:
        return re2.compile(f"(?:{pattern})".encode(), _QUIET)
    except (re2.error, UnicodeEncodeError):  # JSON can hold half a surrogate pair, UTF-8 can't
        return None
