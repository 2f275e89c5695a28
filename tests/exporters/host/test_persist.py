"""The state file."""

from __future__ import annotations

import json
import os
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


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 2}', b"\xff\xfe", b"null", b"[" * 200_000])
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


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    """Whoever can put a link there cannot make us write to the file it points to."""
    victim, path = tmp_path / "victim", tmp_path / "state/kernel.json"
    victim.write_text("precious")
    path.parent.mkdir()
    (path.parent / ".kernel.json.new").symlink_to(victim)
    write_atomic(path, {"a": 1})
    assert victim.read_text() == "precious"
    assert json.loads(path.read_text()) == {"a": 1}
    assert not path.is_symlink()


def test_a_folder_in_the_place_of_the_new_file_does_not_stop_writing(tmp_path: Path) -> None:
    """Another name is taken."""
    (tmp_path / ".kernel.json.new").mkdir()
    write_atomic(tmp_path / "kernel.json", {"a": 1})
    assert json.loads((tmp_path / "kernel.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_plain_file_is_set_aside_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    """A link, a FIFO that nobody writes to and a folder are refused at once."""
    path = tmp_path / "kernel.json"
    if kind == "link":
        (tmp_path / "other").write_text("{}")
        path.symlink_to(tmp_path / "other")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert read_state(path, lambda document: None) != ""
    assert read_state(path, lambda document: None) == "", "it is out of the way"
