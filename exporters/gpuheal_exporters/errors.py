"""What can be wrong with the exporter's own configuration."""

from __future__ import annotations


class ConfigError(Exception):
    """A file or option cannot be used; `str()` reads `FILE: PATH: PROBLEM (HINT)`."""

    def __init__(self, file: str, path: str, problem: str, hint: str = "") -> None:
        self.file = file
        self.path = path
        self.problem = problem
        self.hint = hint
        where = f"{file}: {path}: " if path else f"{file}: "
        super().__init__(f"{where}{problem}" + (f" ({hint})" if hint else ""))
