"""The error tree; a class says who must act.

GpuhealError
├ ConfigError    the operator: a file is wrong (names file, path inside it, and what was expected)      exit status 2
├ PayloadError   the sender: not Alertmanager's JSON                                                    HTTP 400
├ ObserveError   nobody yet: the world can't be seen, so nothing disruptive starts
└ ActionError
  ├ Transient    time: 409, 429, 5xx, timeouts; try again after `retry_in`
  └ Permanent    a person: 403, 404, 422 or a spent budget; the case escalates

A refusal to act is never an exception: it is a `Refusal` value (see core.model).
"""

from __future__ import annotations

from datetime import timedelta


class GpuhealError(Exception):
    """Any failure gpuheal itself tells apart."""


class ConfigError(GpuhealError):
    """A configuration file cannot be used; `str()` reads `FILE: PATH: PROBLEM (HINT)`."""

    def __init__(self, file: str, path: str, problem: str, hint: str = "") -> None:
        self.file = file
        self.path = path
        self.problem = problem
        self.hint = hint
        where = f"{file}: {path}: " if path else f"{file}: "
        super().__init__(f"{where}{problem}" + (f" ({hint})" if hint else ""))


class PayloadError(GpuhealError):
    """A request body is not an Alertmanager webhook message of version 4."""


class ObserveError(GpuhealError):
    """A part of the world could not be read; `source` names it (alertmanager, prometheus, kubernetes)."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}")


class ActionError(GpuhealError):
    """A step did not succeed; `reason` is a slug of the reason catalogue."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Transient(ActionError):
    """The step may be tried again after `retry_in`."""

    def __init__(self, reason: str, message: str, retry_in: timedelta = timedelta(seconds=5)) -> None:
        self.retry_in = retry_in
        super().__init__(reason, message)


class Permanent(ActionError):
    """The step will not succeed by trying again; people must look."""
