"""Stress test of one mount: ``make soak SECONDS=1200``.

Readers, listings, backups, forget with prune, and reloads run concurrently on a real mount. Every
byte read is compared with the original. The table shows the resources of the mount over time.

With ``--rest`` the mount reads from a REST server that is killed and started again every few
seconds. Readers must notice nothing but the delay.

The exit code is 1 if a byte differs, a reader gets an unexpected error, a descriptor leaks, or
memory still grows after the first quarter (in runs of four minutes or more).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cesbrfs.repo.location import Access
from tests.support.mounting import Mount, mounting
from tests.support.rest import RestServer, serving
from tests.support.restic_repo import ResticRepo, create

_DIRECTORIES = 200
_FILES = 10
_SMALL_BYTES = 12_000
_LARGE_FILES = 4
_LARGE_BYTES = 6 << 20
_KEPT_BACKUPS = 4
_SAMPLE_SECONDS = 10.0
_RELOAD_SECONDS = 7.0
_RESTART_SECONDS = 5.0
_JUDGED_SECONDS = 240
_GONE = {errno.ENOENT, errno.ESTALE, errno.ENOTCONN}
_VOLUME = "redmine/volumes/files"

Versions = dict[str, int]
"""The version of each file, by its path in the volume."""


def content(path: str, version: int) -> bytes:
    """Return the content of a file in one version."""
    size = _LARGE_BYTES if path.startswith("large") else _SMALL_BYTES
    seeded = random.Random(f"{path} {version}")
    return seeded.randbytes(seeded.randrange(size // 2, size))


@dataclass
class Soak:
    """The state that all workers share."""

    mount: Mount
    repo: ResticRepo
    volume: Path
    backups: dict[str, Versions] = field(default_factory=dict)
    snapshots: dict[str, str] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    """Backups that are forgotten now or soon: reading them may fail, but not return other bytes."""
    problems: list[str] = field(default_factory=list)
    compared_bytes: int = 0
    reads: int = 0
    walks: int = 0
    server: RestServer | None = None
    restarts: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def choose(self) -> tuple[str, Versions]:
        """Return a random backup."""
        name = random.choice(list(self.backups))
        return name, self.backups[name]

    def path(self, backup: str, path: str) -> Path:
        """Return the path of a backed-up file in the mount."""
        return self.mount.path / backup / _VOLUME / path

    def failed(self, backup: str, error: OSError) -> None:
        """Record an error unless the backup is being removed."""
        if backup in self.leaving and error.errno in _GONE:
            return
        if not self.stop.is_set():
            self.problems.append(f"{backup}: {error}")


def read_files(soak: Soak) -> None:
    """Read complete files and parts of files, and compare each byte."""
    while not soak.stop.is_set():
        backup, versions = soak.choose()
        path = random.choice(list(versions))
        wanted = content(path, versions[path])
        try:
            with soak.path(backup, path).open("rb", buffering=0) as file:
                if random.random() < 0.5:
                    offset = random.randrange(len(wanted))
                    wanted = wanted[offset : offset + random.randrange(1, 200_000)]
                    got = os.pread(file.fileno(), len(wanted), offset)
                else:
                    got = file.readall() or b""
        except OSError as error:
            soak.failed(backup, error)
            continue
        if got != wanted:
            soak.problems.append(f"{backup}/{path}: other bytes than were backed up")
        soak.compared_bytes += len(got)
        soak.reads += 1


def walk_backups(soak: Soak) -> None:
    """List complete backups with all attributes, and compare names and sizes."""
    while not soak.stop.is_set():
        backup, versions = soak.choose()
        top = soak.path(backup, "")
        found: dict[str, int] = {}
        errors: list[OSError] = []
        for directory, _, names in os.walk(top, onerror=errors.append):
            for name in names:
                file = os.path.join(directory, name)
                try:
                    found[os.path.relpath(file, top)] = os.lstat(file).st_size
                except OSError as error:
                    errors.append(error)
        for failed in errors:
            soak.failed(backup, failed)
        if not errors and backup not in soak.leaving and not soak.stop.is_set():
            wanted = {path: len(content(path, version)) for path, version in versions.items()}
            if found != wanted:
                soak.problems.append(f"{backup}: other names or sizes than were backed up")
        soak.walks += 1


def list_backups(soak: Soak) -> None:
    """List complete backups with find and ls, and compare the number of files."""
    while not soak.stop.is_set():
        backup, versions = soak.choose()
        top = str(soak.path(backup, ""))
        for program, first in ((["find", top, "-type", "f"], "/"), (["ls", "-lR", top], "-")):
            done = subprocess.run(program, capture_output=True, text=True, check=False)
            if backup in soak.leaving or soak.stop.is_set():
                continue
            found = sum(line.startswith(first) for line in done.stdout.splitlines())
            if done.returncode or found != len(versions):
                told = done.stderr.partition("\n")[0]
                soak.problems.append(f"{backup}: {program[0]} lists {found} files: {told}")
        soak.walks += 1


def change(soak: Soak, versions: Versions, number: int) -> Versions:
    """Write new versions of some files; return the versions of all files."""
    changed = dict(versions)
    for path in random.sample(sorted(versions), max(1, len(versions) // 50)):
        changed[path] = number
        (soak.volume / path).write_bytes(content(path, number))
    return changed


def back_up(soak: Soak, versions: Versions, number: int) -> None:
    """Make a backup, wait until the mount shows it, and make it available to the readers."""
    name = f"n{number:05}"
    soak.snapshots[name] = soak.repo.backup(soak.volume, tags=[name])
    wait_until(soak, lambda: name in os.listdir(soak.mount.path))
    soak.backups = {**soak.backups, name: versions}


def forget(soak: Soak, number: int) -> None:
    """Remove the oldest backups, with a prune every second time."""
    for name in sorted(soak.backups)[:-_KEPT_BACKUPS]:
        soak.leaving.add(name)
        soak.backups = {other: v for other, v in soak.backups.items() if other != name}
        options = ["--prune", "--max-unused", "0"] if number % 2 else []
        soak.repo.run("forget", *options, soak.snapshots.pop(name))
        wait_until(soak, lambda name=name: name not in os.listdir(soak.mount.path))  # type: ignore[misc]


def make_backups(soak: Soak) -> None:
    """Add and remove backups in a loop."""
    versions = soak.backups[max(soak.backups)]
    number = 1
    while not soak.stop.is_set():
        try:
            versions = change(soak, versions, number)
            back_up(soak, versions, number)
            forget(soak, number)
        except (AssertionError, OSError) as error:
            if not soak.stop.is_set():
                soak.problems.append(f"backup {number}: {error}")
        number += 1


def reload(soak: Soak) -> None:
    """Make the mount list the backups again, like a service manager."""
    while not soak.stop.wait(_RELOAD_SECONDS):
        soak.mount.process.send_signal(signal.SIGHUP)


def restart_server(soak: Soak) -> None:
    """Kill the REST server and start it again."""
    while soak.server is not None and not soak.stop.wait(_RESTART_SECONDS):
        soak.server.kill()
        soak.server.start()
        soak.restarts += 1


def wait_until(soak: Soak, true: Callable[[], bool]) -> None:
    """Wait until the mount shows a change; fail after a minute."""
    deadline = time.monotonic() + 60
    while not true() and not soak.stop.is_set():
        if time.monotonic() > deadline:
            raise AssertionError("the mount did not show a change within a minute")
        time.sleep(0.1)  # polls, because the mount sends no notification


@dataclass(frozen=True)
class Sample:
    """Resources of the mount at one time; memory in KiB."""

    seconds: int
    resident: int
    anonymous: int
    descriptors: int
    threads: int
    lookups: int
    inodes: int
    directories: int
    errors: int


def sample(soak: Soak, began: float) -> Sample:
    """Measure the process of the mount, and read its status file."""
    process = Path("/proc", str(soak.mount.process.pid))
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    figures = json.loads((soak.mount.path / ".cesbrfs/status.json").read_bytes())
    return Sample(
        seconds=round(time.monotonic() - began),
        resident=int(status["VmRSS"].split()[0]),
        anonymous=int(status["RssAnon"].split()[0]),
        descriptors=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        lookups=figures["lookups"],
        inodes=figures["inodes"],
        directories=figures["stored_folders"],
        errors=figures.get("errors_total", figures.get("errors", 0)),
    )


_HEAD = (
    " seconds  resident      anon   fds  threads   lookups  inodes    dirs  errors    reads  walks"
)


def row(s: Sample, soak: Soak) -> str:
    """Return a line of the table with the columns of `_HEAD`."""
    return (
        f"{s.seconds:8} {s.resident:9,} {s.anonymous:9,} {s.descriptors:5} {s.threads:8}"
        f" {s.lookups:9,} {s.inodes:7,} {s.directories:7,} {s.errors:7}"
        f" {soak.reads:8,} {soak.walks:6}"
    )


def verdict(soak: Soak, samples: list[Sample]) -> list[str]:
    """Return the problems found."""
    problems = list(dict.fromkeys(soak.problems))
    quarter = max(1, len(samples) // 4)
    if len(samples) >= 12:
        before = statistics.median(s.anonymous for s in samples[quarter : 2 * quarter])
        after = statistics.median(s.anonymous for s in samples[-quarter:])
        # In shorter runs the caches are still being filled.
        if samples[-1].seconds >= _JUDGED_SECONDS and after > before * 1.05 + 4096:
            problems.append(f"memory grew from {before:,.0f} to {after:,.0f} KiB")
        # A table of the index is one descriptor, and eight are merged into one.
        most = max(s.descriptors for s in samples[quarter : 2 * quarter]) + 8
        if samples[-1].descriptors > most:
            problems.append(f"{samples[-1].descriptors} descriptors are open, {most} expected")
    return problems


def run(seconds: float, restic: Path, *, rest: Path | None = None) -> int:
    """Run for the given number of seconds, print table and verdict, return the exit code.

    The mount reads from the REST server of the program `rest` if one is given.
    """
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cesbrfs-soak-")))
        volume = place / "var/lib/ces" / _VOLUME
        versions: Versions = {f"large{n}": 0 for n in range(_LARGE_FILES)}
        versions |= {f"d{d:03}/f{n}": 0 for d in range(_DIRECTORIES) for n in range(_FILES)}
        for path in versions:
            file = volume / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content(path, 0))
        server = stack.enter_context(serving(rest, place / "server")) if rest else None
        repo = create(restic, (server.root if server else place) / "repo")
        start = stack.enter_context(mounting(place))
        soak = Soak(start(_access(repo, server)), repo, volume, server=server)
        back_up(soak, versions, 0)
        workers = [read_files, read_files, walk_backups, list_backups, make_backups, reload]
        workers.append(restart_server)
        threads = [threading.Thread(target=work, args=(soak,), daemon=True) for work in workers]
        for thread in threads:
            thread.start()
        samples: list[Sample] = []
        began = time.monotonic()
        print(_HEAD)
        while (left := began + seconds - time.monotonic()) > 0:
            time.sleep(min(left, _SAMPLE_SECONDS))
            s = sample(soak, began)
            samples.append(s)
            print(row(s, soak), flush=True)
        soak.stop.set()
        for thread in threads:
            thread.join(60)
        problems = verdict(soak, samples)
        done = f"{soak.compared_bytes / 1e9:.2f} GB compared, {len(soak.leaving)} backups forgotten"
        if server:
            done += f", {soak.restarts} restarts of the server"
        if soak.mount.stop() != 0:
            problems.append("the mount did not end cleanly")
        log = soak.mount.log.read_text(errors="replace").splitlines()
    for problem in problems[:20]:
        print(f"PROBLEM: {problem}")
    if problems:
        print("\n".join(["The last lines of the mount's log:", *log[-20:]]))
    print(f"{done}; {len(problems)} problems.")
    return 1 if problems else 0


def _access(repo: ResticRepo, server: RestServer | None) -> Access:
    """Return how the mount reads the repository."""
    if server is None:
        return repo.access
    return replace(repo.access, url=f"{server.url}/repo/", environment=server.environment)


def main() -> int:
    """Parse the command line and run the stress test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--restic", type=Path, help="the restic that writes (the one in PATH)")
    parser.add_argument("--rest", action="store_true", help="read from a REST server (rclone)")
    arguments = parser.parse_args()
    restic = arguments.restic or Path(shutil.which("restic") or "restic")
    subprocess.run([restic, "version"], check=True, stdout=subprocess.DEVNULL)
    rest = Path(shutil.which("rclone") or "rclone") if arguments.rest else None
    return run(arguments.seconds, restic, rest=rest)


if __name__ == "__main__":
    sys.exit(main())
