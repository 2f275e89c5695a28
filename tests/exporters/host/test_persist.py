"""The state file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gpuheal_exporters.host.persist import read_state, write_atomic


def test_a_document_is_written_whole_and_private(tmp_path: Path) -> None:
    """The file holds the document, only its owner may read it, and no temporary file is left."""
    path = tmp_path / "kernel.json"
    write_atomic(path, {"a": 1})
    write_atomic(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["kernel.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """If the new content cannot take its place, the error is raised and the old content stays."""
    path = tmp_path / "kernel.json"
    path.mkdir()
    (path / "keep").write_text("")
    with pytest.raises(OSError, match="directory"):
        write_atomic(path, {"a": 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["kernel.json"]


def test_no_file_is_no_problem(tmp_path: Path) -> None:
    """At the first start there is nothing to load."""
    loaded: list[Mapping[str, Any]] = []
    assert read_state(tmp_path / "kernel.json", loaded.append) == ""
    assert loaded == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 2}', b"\xff\xfe", b"null"])
def test_an_unusable_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    """What cannot be loaded is named, kept for people under another name, and does not stop the start."""
    path = tmp_path / "kernel.json"
    path.write_bytes(content)

    def load(document: Mapping[str, Any]) -> None:
        if document["schema"] != 1:
            raise ValueError("schema")

    assert str(path) in read_state(path, load)
    assert not path.exists()
    assert (tmp_path / "kernel.json.bad").read_bytes() == content
