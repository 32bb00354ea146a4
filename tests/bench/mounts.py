"""Run mounts of cesbrfs and restic, measure their memory, and always unmount."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cesbrfs import __version__
from tests.bench.data import BACKUP, MIB, PASSWORD, Repo
from tests.support.project import PROJECT

_START_SECONDS: Final = 300
_LIFE_SECONDS: Final = 1800
_STOP_SECONDS: Final = 20
_WATCH_SECONDS: Final = 0.02
_POLL_SECONDS: Final = 0.001
_FIELD: Final = re.compile(r"^(VmHWM|RssAnon):\s+(\d+) kB$", re.MULTILINE)

OURS: Final = "ours"


class MountFailedError(Exception):
    """A mount did not start or exited early; the text is its last log line."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A mount program; `binary` is that of restic, None for cesbrfs."""

    name: str
    binary: Path | None = None

    def command(self, mountpoint: Path, repo: Repo, options: tuple[str, ...]) -> list[str]:
        """Return the command to mount in the foreground."""
        if self.binary is None:
            return [sys.executable, "-m", "cesbrfs", "-f", str(mountpoint), *options]
        flags = [f"--option={name}={value}" for name, value in repo.options.items()]
        return [str(self.binary), "mount", *flags, str(mountpoint)]

    def backups(self, mountpoint: Path) -> Path:
        """Return the directory with all backups (cesbrfs) or snapshots (restic)."""
        return mountpoint if self.binary is None else mountpoint / "snapshots"

    def volume(self, mountpoint: Path, repo: Repo) -> Path:
        """Return the path of the volume in the backup `BACKUP`."""
        if self.binary is None:
            dogu, _, volume = repo.volume.split("/")[-3:]
            return mountpoint / BACKUP / dogu / "volumes" / volume
        return mountpoint / "ids" / repo.snapshot[:8] / repo.volume.lstrip("/")


@dataclass(slots=True)
class Memory:
    """Peak memory of a mount in bytes: total, and without mapped files."""

    peak: int = 0
    anonymous: int = 0


@dataclass(slots=True)
class Mount:
    """A running mount; `ready_seconds` is the time from start to the first listing."""

    contender: Contender
    path: Path
    process: subprocess.Popen[bytes]
    began: float
    ready_seconds: float = 0.0
    memory: Memory = field(default_factory=Memory)
    stopped: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Record current and peak memory of the process."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return
        found = {name: int(kib) << 10 for name, kib in _FIELD.findall(status)}
        self.memory.peak = max(self.memory.peak, found.get("VmHWM", 0))
        self.memory.anonymous = max(self.memory.anonymous, found.get("RssAnon", 0))

    def watch(self) -> None:
        """Sample the process until it is stopped; kill it after the maximum duration."""
        while not self.stopped.wait(_WATCH_SECONDS):
            self.look()
            if time.perf_counter() - self.began > _LIFE_SECONDS:
                self.process.kill()


@contextlib.contextmanager
def mounted(
    contender: Contender, repo: Repo, work: Path, cache: Path, options: tuple[str, ...] = ()
) -> Iterator[Mount]:
    """Mount `repo` in `work`, with caches in `cache`, and unmount on exit.

    Raises MountFailedError if the mount does not respond.
    """
    mountpoint = work / "mount" / contender.name.replace(" ", "-")
    mountpoint.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    log = work / "log"
    with log.open("wb") as lines:
        began = time.perf_counter()
        process = subprocess.Popen(
            contender.command(mountpoint, repo, options),
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            env=environment(repo, cache),
        )
    mount = Mount(contender, mountpoint, process, began)
    watcher = threading.Thread(target=mount.watch, daemon=True)
    watcher.start()
    try:
        _await_answer(mount, log)
        yield mount
        mount.look()
        if process.poll() is not None:
            raise MountFailedError(f"the mount exited: {_last_line(log)}")
    finally:
        mount.stopped.set()
        watcher.join()
        _stop(mount)


def environment(repo: Repo, cache: Path) -> Mapping[str, str]:
    """Return environment variables with repository, password and cache directory."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT),
        "HOME": str(cache),
        "XDG_CACHE_HOME": str(cache),
        "XDG_CONFIG_HOME": str(cache),
        "RESTIC_CACHE_DIR": str(cache / "restic"),
        "RESTIC_REPOSITORY": repo.url or repo.directory,
        "RESTIC_PASSWORD": PASSWORD,
        "CESBR_CONFIG": str(_config(repo, cache)),
        **repo.environment,
    }


def _config(repo: Repo, cache: Path) -> Path:
    """Write the extended options to the settings file of cesbrfs."""
    config = cache / "cesbr.toml"
    lines = [f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in repo.options.items()]
    config.write_text("[options]\n" + "".join(lines), encoding="utf-8")
    return config


def _await_answer(mount: Mount, log: Path) -> None:
    """Wait until the directory is a mountpoint (st_dev changes), then list it once."""
    outside = os.stat(mount.path.parent).st_dev
    while os.stat(mount.path).st_dev == outside:
        if mount.process.poll() is not None:
            raise MountFailedError(f"the mount did not start: {_last_line(log)}")
        if time.perf_counter() - mount.began > _START_SECONDS:
            raise MountFailedError(f"the mount did not answer within {_START_SECONDS} s")
        time.sleep(_POLL_SECONDS)
    os.listdir(mount.path)
    mount.ready_seconds = time.perf_counter() - mount.began


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _stop(mount: Mount) -> None:
    """Stop the process with a signal, and unmount if still mounted."""
    process = mount.process
    number = signal.SIGTERM if mount.contender.binary is None else signal.SIGINT
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for how in ("-u", "-uz"):
        if _is_mounted(mount.path):
            subprocess.run(["fusermount3", how, str(mount.path)], check=False, capture_output=True)


def _is_mounted(path: Path) -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return any(line.split(" ")[4] == str(path) for line in lines)


def restic_version(binary: Path) -> str:
    """Return the version of restic, such as ``0.14.0``."""
    said = subprocess.run([binary, "version"], check=True, capture_output=True, text=True).stdout
    return said.split()[1]


def find_restic() -> tuple[Path | None, Path | None]:
    """Return the newest restic available to the tests, and the one on the PATH."""
    given = os.environ.get("CESBR_TEST_RESTIC_NEW")
    newer = Path(given) if given else PROJECT / ".tools/restic-new/usr/bin/restic"
    on_path = shutil.which("restic")
    return (newer if newer.exists() else None), (Path(on_path) if on_path else None)


_TOOLS: Final = ("find", "wc", "ls", "du", "tar", "cp", "grep", "cat", "dd")


def drop_caches() -> bool:
    """Drop the page cache; return False if not permitted (not root)."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    except OSError:
        return False
    # Read the programs of the measures, so that loading them is not measured.
    for tool in _TOOLS:
        subprocess.run([tool, "--version"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sh", "-c", ":"], check=True)
    return True


def _our_version() -> str:
    """Return our version, with the commit if this is a clone and git is installed."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__} ({said.strip()})"


def machine(restics: Mapping[str, Path]) -> dict[str, str]:
    """Describe this machine."""
    model = re.search(
        r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{os.cpu_count()} cores, {model[1] if model else os.uname().machine}",
        "memory": f"{memory // MIB} MiB",
        "load": f"{os.getloadavg()[0]:.1f} before it began",
        "kernel": f"Linux {os.uname().release}",
        "python": sys.version.split()[0],
        "cesbrfs": _our_version(),
        **{name: restic_version(binary) for name, binary in restics.items()},
    }
