"""The errors of this part: a file that cannot be used, named together with the path inside it."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigError(Exception):
    """A catalogue, options or generated file cannot be used; `str()` reads `FILE: PATH: PROBLEM (HINT)`."""

    def __init__(self, file: str, path: str, problem: str, hint: str = "") -> None:
        self.file = file
        self.path = path
        self.problem = problem
        self.hint = hint
        where = f"{file}: {path}: " if path else f"{file}: "
        super().__init__(f"{where}{problem}" + (f" ({hint})" if hint else ""))


class ConfigErrors(ConfigError):
    """Everything that is wrong with a file, at once; `str()` has a line for each problem."""

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        first = problems[0]
        super().__init__(first.file, first.path, first.problem, first.hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
