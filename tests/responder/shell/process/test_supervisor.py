"""Which ends of long-lived tasks are failures, and what is told of them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gpuheal_responder.shell.process.supervisor import LongTask, Supervisor, end


class Watched:
    """A supervisor, and what it told."""

    def __init__(self) -> None:
        self.calls = 0
        self.failed = asyncio.Event()
        self.supervisor = Supervisor(failed=self._failed)

    def _failed(self) -> None:
        self.calls += 1
        self.failed.set()

    def run(self, name: str, problem: Exception | None = None, *, ends: bool = True) -> asyncio.Task[None]:
        """Watch a task that ends at once, or never."""

        async def work() -> None:
            if problem is not None:
                raise problem
            if not ends:
                await asyncio.Event().wait()

        task = asyncio.create_task(work(), name=name)
        self.supervisor.watch((task,))
        return task


@pytest.fixture
async def watched() -> Watched:
    """A supervisor of nothing yet."""
    return Watched()


async def test_a_bug_in_a_task_is_told_with_its_traceback(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """The name of the task and its error are the failure, and the log has the traceback."""
    watched.run("follow nodes", KeyError("metadata"))
    await asyncio.wait_for(watched.failed.wait(), 5)
    assert watched.supervisor.failure == "follow nodes: KeyError: 'metadata'"
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


@pytest.mark.parametrize("how", ["returned", "was cancelled"])
async def test_ending_without_an_error_is_a_failure_too(watched: Watched, how: str) -> None:
    """A task that returns, or that somebody else cancels, does its work no more."""
    task = watched.run("engine", ends=how == "returned")
    if how == "was cancelled":
        task.cancel()
    await asyncio.wait_for(watched.failed.wait(), 5)
    assert watched.supervisor.failure == f"engine: {how}"


async def test_only_the_first_failure_is_told(watched: Watched) -> None:
    """What ends after it may be a consequence."""
    for name in ("first", "second"):
        await asyncio.wait((watched.run(name, ValueError(name)),))
    assert watched.calls == 1
    assert watched.supervisor.failure.startswith("first")


async def test_after_release_tasks_may_end(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """A clean stop is no failure; an error on the way is logged all the same."""
    clean, broken = watched.run("clean", ends=False), watched.run("broken", ValueError("late"))
    watched.supervisor.release()
    await end(clean)
    await asyncio.wait((broken,))
    assert watched.calls == 0
    assert watched.supervisor.failure == ""
    assert [record.getMessage() for record in caplog.records] == ["task broken ended unexpectedly: ValueError: late"]


async def test_names_are_those_of_running_tasks(watched: Watched) -> None:
    """A task that has ended is not listed any more."""
    runs = watched.run("runs", ends=False)
    await asyncio.wait((watched.run("ended"),))
    assert watched.supervisor.names == {"runs"}
    watched.supervisor.release()
    await end(runs)


async def test_end_outlives_the_error_of_what_it_ends() -> None:
    """A task that has failed is ended like any other; its error is not raised once more."""

    async def fails() -> None:
        raise ValueError

    task = asyncio.create_task(fails())
    await asyncio.wait((task,))
    await end(task)
    assert isinstance(task.exception(), ValueError)


async def test_a_long_task_is_begun_once_and_ended_for_good() -> None:
    """Starting again gives the same task, stopping again changes nothing, and after that it may be begun anew."""
    begun: list[str] = []

    async def run() -> None:
        begun.append("run")
        await asyncio.Event().wait()

    long = LongTask(run, "long")
    await long.stop()
    (task,) = long.start()
    assert long.start() == (task,)
    await asyncio.sleep(0)
    assert (begun, task.get_name(), long.over) == (["run"], "long", False)
    await long.stop()
    await long.stop()
    assert task.cancelled()
    (again,) = long.start()
    assert again is not task
    await long.stop()


async def test_a_long_task_that_ends_by_itself_is_over() -> None:
    """Whoever it works for must not believe what it last brought."""

    async def fails() -> None:
        raise ValueError

    long = LongTask(fails, "long")
    (task,) = long.start()
    await asyncio.wait((task,))
    over = [long.over]
    await long.stop()
    assert [*over, long.over] == [True, False]
    assert isinstance(task.exception(), ValueError)
