"""Values made from files that change under us: policies, tokens, certificates.

Kubernetes swaps a mounted ConfigMap or Secret by a symbolic link, so a changed inode counts as well as a changed time.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.process.supervisor import LongTask

LONGEST_SECRET = 64 * 1024
FOLLOW_S = 2.0

T = TypeVar("T")
_Stamp = tuple[tuple[int, int, int] | None, ...]


class Watched(Generic[T]):
    """A value made from files, rebuilt when one of them changes; a change that can't be used keeps the old value."""

    def __init__(self, files: Sequence[Path], make: Callable[[], T], on_problem: Callable[[ConfigError], None]) -> None:
        """Make the value for the first time; ConfigError when that fails. Later problems go to `on_problem`, once."""
        self._files = tuple(files)
        self._make = make
        self._on_problem = on_problem
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._value = make()

    def current(self) -> T:
        """Return the value of the files as they are now, or the last usable one."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._value = self._make()
                except ConfigError as problem:
                    self._on_problem(problem)
            return self._value

    def _look(self) -> _Stamp:
        return tuple(_stamp(file) for file in self._files)


class Following(Generic[T]):
    """A watched value that a thread rebuilds: reading twenty policies holds the event loop for too long."""

    def __init__(self, watched: Watched[T], name: str, every_s: float = FOLLOW_S) -> None:
        """Look every so many seconds from `start` on, in a task of this name."""
        self._watched = watched
        self._every_s = every_s
        self._value = watched.current()
        self._task = LongTask(self._run, name)

    def current(self) -> T:
        """Return the value of the last look; never waits."""
        return self._value

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to look; return the task that does."""
        return self._task.start()

    async def stop(self) -> None:
        """End; repeatable."""
        await self._task.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            self._value = await asyncio.to_thread(self._watched.current)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def read_secret(file: Path) -> str:
    """Return the secret that a file holds, white space around it left off; ConfigError when there is none."""
    try:
        if not file.is_file():  # opening a pipe would wait for somebody to write
            file.stat()
            raise ConfigError(str(file), "", "no such file")
        with file.open("rb") as opened:
            text = opened.read(LONGEST_SECRET).decode("utf-8").strip()
    except OSError as problem:
        raise ConfigError(str(file), "", f"cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(str(file), "", "not UTF-8") from None
    if not text or not text.isprintable():
        raise ConfigError(str(file), "", "expected one non-empty line with the secret")
    return text


class Tokens:
    """Bearer tokens from files; all are valid, so that one can be rotated without a gap.

    A file that is removed, emptied or spoilt takes its token back, and its token only.
    """

    def __init__(self, files: Sequence[Path], on_problem: Callable[[ConfigError], None]) -> None:
        """Read all files; ConfigError when none holds a token. One that does not is told, as are later changes."""
        self._problems = on_problem
        self._tokens = [Watched((file,), functools.partial(self._read, file), on_problem) for file in files]
        if not any(watched.current() for watched in self._tokens):
            raise ConfigError(", ".join(map(str, files)), "", "no token in the file", "every request would be denied")

    def admit(self, token: str) -> bool:
        """Return whether the token is one of ours; takes the same time for every wrong token of one length."""
        shown = token.encode(errors="surrogateescape")
        valid = (watched.current() for watched in self._tokens)
        verdicts = [hmac.compare_digest(shown, ours) for ours in valid if ours]
        return any(verdicts)

    def disjoint(self, others: Tokens) -> bool:
        """Return whether no token of ours is one of the others, as their files are now."""
        ours = {watched.current() for watched in self._tokens} - {b""}
        return ours.isdisjoint(watched.current() for watched in others._tokens)

    def _read(self, file: Path) -> bytes:
        try:
            return read_secret(file).encode()
        except ConfigError as problem:
            self._problems(problem)
            return b""
