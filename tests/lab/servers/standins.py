"""Stand-in commands: small shell scripts on a PATH of their own, in place of apt-get, dpkg, go and docker."""

from __future__ import annotations

from pathlib import Path

PROMETHEUS_3 = "echo 'prometheus, version 3.13.5 (branch: x)'"
PROMETHEUS_2 = "echo 'prometheus, version 2.42.0+ds (branch: x)'"


class StandIns:
    """A folder of scripts; each notes its arguments, one call a line, before it does what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "calls"
        self.notes.mkdir(parents=True)

    def add(self, name: str, body: str, *, folder: Path | None = None) -> Path:
        """A program of that name exists; `body` is shell text, run after noting `$*`."""
        place = folder or self.folder
        place.mkdir(parents=True, exist_ok=True)
        path = place / name
        path.write_text(f"#!/bin/sh\necho \"$*\" >> '{self.notes / name}'\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def calls(self, name: str) -> list[str]:
        """The arguments of each call so far."""
        path = self.notes / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


# apt-get download leaves an archive in the working folder; dpkg -x makes a tree from it, as the real ones do.
APT_DOWNLOAD = '[ "$1" = download ] && echo archive > "$2_1_amd64.deb"'


def dpkg_giving(path: str, program: str) -> str:
    """Shell text of a dpkg whose archive holds one program."""
    write = f'printf \'#!/bin/sh\\n%s\\n\' "{program}" > "$3/{path}"'
    return f'mkdir -p "$3/$(dirname {path})" && {write} && chmod 755 "$3/{path}"'
