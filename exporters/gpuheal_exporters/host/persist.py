"""The state file: written whole or not at all, and set aside when it cannot be used."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NAME = "kernel.json"
_MAX_BYTES = 16 * 1024 * 1024


def write_atomic(path: Path, document: Mapping[str, Any]) -> None:
    """The file holds exactly this JSON document, also after a crash at any instant; OSError if it can't be written."""
    temporary = path.with_name(f".{path.name}.new")
    data = json.dumps(document, separators=(",", ":")).encode()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
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


def read_state(path: Path, load: Callable[[Mapping[str, Any]], None]) -> str:
    """`load` was called with the document in the file, if there is one; returns what was wrong, or an empty text.

    An unusable file is kept beside as `NAME.bad` for people to look at.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
        load(document)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        with contextlib.suppress(OSError):
            path.replace(path.with_name(f"{path.name}.bad"))
        return f"{path}: {type(error).__name__}: {error}"
    return ""
