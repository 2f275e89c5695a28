"""The one error of this part: a file that cannot be used, named together with the path inside it."""

from __future__ import annotations


class ConfigError(Exception):
    """A catalogue, options or generated file cannot be used; `str()` reads `FILE: PATH: PROBLEM (HINT)`."""

    def __init__(self, file: str, path: str, problem: str, hint: str = "") -> None:
        self.file = file
        self.path = path
        self.problem = problem
        self.hint = hint
        where = f"{file}: {path}: " if path else f"{file}: "
        super().__init__(f"{where}{problem}" + (f" ({hint})" if hint else ""))
