"""Values made from files that change under us."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from tests.responder.shell.scripted import no_problem

from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.process.reload import Following, Tokens, Watched, read_secret


def number(file: Path) -> int:
    """Read a number."""
    try:
        return int(file.read_text())
    except (ValueError, OSError) as problem:
        raise ConfigError(str(file), "", str(problem)) from None


def test_a_changed_file_makes_a_new_value(tmp_path: Path) -> None:
    """The value follows its file; an unchanged file is not read again."""
    file = tmp_path / "n"
    reads: list[int] = []
    file.write_text("1")

    def make() -> int:
        reads.append(1)
        return number(file)

    watched = Watched([file], make, no_problem)
    assert (watched.current(), watched.current(), len(reads)) == (1, 1, 1)
    file.write_text("22")
    assert (watched.current(), len(reads)) == (22, 2)


def test_a_bad_change_keeps_the_old_value_and_is_told_once(tmp_path: Path) -> None:
    """A file that can't be used, or that is gone, changes nothing; once it is good again it counts."""
    file = tmp_path / "n"
    problems: list[ConfigError] = []
    file.write_text("1")
    watched = Watched([file], lambda: number(file), problems.append)
    file.write_text("many")
    assert (watched.current(), watched.current(), len(problems)) == (1, 1, 1)
    file.unlink()
    assert (watched.current(), len(problems)) == (1, 2)
    file.write_text("3")
    assert (watched.current(), len(problems)) == (3, 2)


async def test_a_followed_value_is_made_beside_the_event_loop(tmp_path: Path) -> None:
    """It is what the last look found, made in another thread; a bad change keeps the old value, as ever."""
    file = tmp_path / "n"
    file.write_text("1")
    makers: list[int] = []
    problems: list[ConfigError] = []
    looks: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def make() -> int:
        makers.append(threading.get_ident())
        try:
            return number(file)
        finally:  # the file changes only after it was read: otherwise one bad text can be seen by two looks
            loop.call_soon_threadsafe(looks.put_nowait, None)

    followed = Following(Watched([file], make, problems.append), "numbers", every_s=0.01)
    await asyncio.wait_for(looks.get(), 10)
    followed.start()
    for text in ("22", "many", "333"):
        (tmp_path / "fresh").write_text(text)  # as a whole: the thread may look at any moment
        (tmp_path / "fresh").rename(file)
        await asyncio.wait_for(looks.get(), 10)
    for _ in range(1000):
        if followed.current() == 333:
            break
        await asyncio.sleep(0.01)
    assert followed.current() == 333
    assert len(problems) == 1
    assert threading.get_ident() not in makers[1:]
    await followed.stop()
    await followed.stop()


def test_a_swapped_link_counts_as_a_change(tmp_path: Path) -> None:
    """Kubernetes replaces a mounted Secret by pointing a link elsewhere; time and size may well be equal."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "n").write_text(version)
        os.utime(tmp_path / version / "n", ns=(10**9, 10**9))
    link = tmp_path / "data"
    link.symlink_to("1")
    watched = Watched([link / "n"], lambda: number(link / "n"), no_problem)
    assert watched.current() == 1
    (tmp_path / "fresh").symlink_to("2")
    (tmp_path / "fresh").rename(link)
    assert watched.current() == 2


def test_the_first_value_must_be_good(tmp_path: Path) -> None:
    """At the start there is no old value to keep."""
    problems: list[ConfigError] = []
    with pytest.raises(ConfigError, match="no token in the file"):
        Tokens([tmp_path / "none"], problems.append)
    assert "cannot be read" in str(problems[0])


def test_s04_a_token_file_that_goes_takes_its_token_back(tmp_path: Path) -> None:
    """Removed, emptied, spoilt: its token is not valid any more, whatever else changes; the others go on."""
    problems: list[ConfigError] = []
    fresh, leaked = tmp_path / "fresh", tmp_path / "leaked"
    fresh.write_text("one")
    for spoil in (leaked.unlink, lambda: leaked.write_text(""), lambda: leaked.write_bytes(b"\xff\xff")):
        leaked.write_text("leaked-token")
        tokens = Tokens([fresh, leaked], problems.append)
        assert tokens.admit("leaked-token")
        spoil()
        assert not tokens.admit("leaked-token")
        assert not tokens.admit("")
        assert tokens.admit(fresh.read_text())
        fresh.write_text(f"{fresh.read_text()}-more")
        assert tokens.admit(fresh.read_text())
    assert len(problems) == 3


def test_s04_a_start_survives_a_token_that_was_taken_back(tmp_path: Path) -> None:
    """A pod that starts anew after a rotation must come up: one token is enough, the missing file is told."""
    problems: list[ConfigError] = []
    (tmp_path / "fresh").write_text("fresh")
    tokens = Tokens([tmp_path / "gone", tmp_path / "fresh"], problems.append)
    assert tokens.admit("fresh")
    assert [problem.file for problem in problems] == [str(tmp_path / "gone")]


def test_a_pipe_is_no_secret(tmp_path: Path) -> None:
    """Opening one would wait for a writer, and everybody for us."""
    os.mkfifo(tmp_path / "token")
    with pytest.raises(ConfigError, match="no such file"):
        read_secret(tmp_path / "token")


@pytest.mark.parametrize("content", [b"", b" \n", b"two\nlines", b"\xff", b"a\x00b"])
def test_what_is_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file must not make the empty token valid."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError):
        read_secret(tmp_path / "token")


def test_tokens_match_whole_and_exactly(tmp_path: Path) -> None:
    """Prefixes, cases, lookalikes and bytes that are no text are not the token."""
    (tmp_path / "token").write_text("s3cret\n")
    tokens = Tokens([tmp_path / "token"], no_problem)
    assert tokens.admit("s3cret")
    assert not any(map(tokens.admit, ["", "s3cre", "s3crets", "S3CRET", "s3cret\n", "\udcff", "ѕ3cret"]))
