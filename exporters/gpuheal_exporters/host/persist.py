"""The state file: written whole or not at all, and set aside when it cannot be used."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NAME = "kernel.json"
_MAX_BYTES = 16 * 1024 * 1024
# A link or a FIFO that somebody put in the place of a file is refused, never followed or waited for.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_atomic(path: Path, document: Mapping[str, Any]) -> None:
    """Make the file hold exactly this JSON document, also after a crash at any instant; OSError if it can't be."""
    data = json.dumps(document, separators=(",", ":")).encode()
    temporary, fd = _create(path)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _create(path: Path) -> tuple[Path, int]:
    """Return a new file beside `path`; what a crash or a stranger left at its name is removed, never written to."""
    usual = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        usual.unlink()
    try:
        return usual, os.open(usual, _NEW, 0o600)
    except FileExistsError:
        other = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
        return other, os.open(other, _NEW, 0o600)


def _read(path: Path, limit: int) -> bytes:
    """Return the content of a plain file; ValueError if it is another thing or larger."""
    fd = os.open(path, _READ)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("not a plain file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return data


def read_state(path: Path, load: Callable[[Mapping[str, Any]], None]) -> str:
    """Call `load` with the document in the file, if there is one; return what was wrong, or an empty text.

    An unusable file is kept beside as `NAME.bad` for people to look at.
    """
    try:
        document = json.loads(_read(path, _MAX_BYTES))
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
        load(document)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, RecursionError) as error:
        with contextlib.suppress(OSError):
            path.replace(path.with_name(f"{path.name}.bad"))
        return f"{path}: {type(error).__name__}: {error}"
    return ""
