"""Measures of a mount: everyday commands, timed from outside."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.data import MIB, Repo, Store
from tests.bench.mounts import Contender, Mount, drop_caches, environment, mounted

CESBR: Final = (sys.executable, "-m", "cesbr")
_COMMAND_SECONDS: Final = 1500
_RANDOM_READS: Final = 500
_RANDOM_BYTES: Final = 4096
_READERS: Final = 4


class MeasureFailedError(Exception):
    """A command failed in the mount; the text is its error."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a measure. `check` is the command's result, equal in every mount."""

    name: str
    value: float
    check: int | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """Name and meaning of a measure, its unit, and the number of bytes read."""

    name: str
    what: str
    unit: str = "s"
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Measures that are taken together; `run` is called per mount and round."""

    measures: Sequence[Measure]
    run: Callable[[Bench, Contender], Iterable[Sample]]


@dataclass(slots=True)
class Bench:
    """Environment of all measures: repositories, a work directory, and mounts."""

    store: Store
    work: Path

    def mount(
        self, contender: Contender, repo: Repo, *options: str, cache: str | None = None
    ) -> AbstractContextManager[Mount]:
        """Mount with the warm cache of the contender for this repository, or a named cache."""
        directory = self.cache(contender, cache or f"{repo.name}-{repo.snapshot[:8]}")
        if cache is None and not directory.exists():
            with mounted(contender, repo, self.work, directory) as mount:
                shell("find . | wc -l", contender.volume(mount.path, repo))
        return mounted(contender, repo, self.work, directory, options)

    def cache(self, contender: Contender, name: str) -> Path:
        """Return the cache directory of a contender."""
        return self.work / "cache" / contender.name.replace(" ", "-") / name

    def empty_cache(self, contender: Contender, name: str) -> None:
        """Clear the cache of a contender."""
        shutil.rmtree(self.cache(contender, name), ignore_errors=True)

    def cold(
        self,
        contender: Contender,
        name: str,
        path: Path,
        command: str,
        *options: str,
        repo: Repo | None = None,
    ) -> Sample:
        """Time `command` at `path` in a new mount of the main repository, page cache dropped."""
        repo = repo or self.store.main()
        with self.mount(contender, repo, *options) as mount:
            directory = contender.volume(mount.path, repo) / path
            os.stat(directory)
            drop_caches()
            seconds, check = shell(command, directory)
            return Sample(name, seconds, check)


def program(
    bench: Bench, contender: Contender, repo: Repo, cache: str, command: Sequence[str]
) -> tuple[float, bytes]:
    """Run a program on `repo` with a named cache; return its seconds and output.

    Raises MeasureFailedError if it fails.
    """
    directory = bench.cache(contender, cache)
    directory.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    done = subprocess.run(
        command,
        env=environment(repo, directory),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise MeasureFailedError(f"{command}: {done.stderr.decode(errors='replace')}")
    return seconds, done.stdout


def shell(command: str, directory: Path, timeout: float = _COMMAND_SECONDS) -> tuple[float, int]:
    """Run a shell command in `directory`; return its seconds and the number it printed (or 0).

    Raises MeasureFailedError if it fails or writes to standard error.
    """
    began = time.perf_counter()
    try:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MeasureFailedError(f"{command}: not done after {timeout:.0f} s") from None
    seconds = time.perf_counter() - began
    if done.returncode or done.stderr:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise MeasureFailedError(f"{command}: {said[-1] if said else f'exit {done.returncode}'}")
    return seconds, int(done.stdout or 0)


def groups(sizes_of: Store) -> list[Group]:
    """Return the measures of the main repository, in order."""
    sizes = sizes_of.sizes
    small, random_bytes = f"{sizes.small_files:,} small files", sizes.random_mib * MIB
    return [
        Group([Measure("ready", "mount, until the first listing; nothing dropped")], _ready),
        Group(
            [
                Measure("find-cold", f"`find` over {small}; first mount, no metadata cache yet"),
                Measure("find-warm", "the same again in the same mount"),
                Measure("find-second", "the same in the next mount, metadata cached on disk"),
            ],
            _find,
        ),
        _timed("ls-lR", f"`ls -lR` of {small}", "", "ls -lR . | wc -l"),
        Group([Measure("ls-lR-noxattr", "the same, ours with `-o noxattr`")], _without_xattrs),
        _timed("du", f"`du -s` of {small}", "", "du -s . >/dev/null"),
        _timed("tar", f"`tar -c` of {small} into a pipe", "small", "tar -cf - . | wc -c"),
        Group([Measure("cp-r", f"`cp -r` of {small} to the same disk")], _copy),
        _timed(
            "grep",
            f"`grep -r` over {sizes.grep_files:,} of them",
            "small/a",
            "grep -r 'no file holds this' . | wc -l",
        ),
        _timed(
            "cat-random",
            f"`cat` of {sizes.random_mib} MiB of random bytes",
            "",
            "cat random >/dev/null",
            amount=random_bytes,
        ),
        _timed(
            "cat-text",
            f"`cat` of {sizes.text_mib} MiB of text",
            "",
            "cat text >/dev/null",
            amount=sizes.text_mib * MIB,
        ),
        Group(
            [Measure("random-reads", f"{_RANDOM_READS} reads of 4 KiB at random places")],
            _random_reads,
        ),
        _timed(
            "four-readers",
            f"{_READERS} `dd` at once, a quarter of the random bytes each",
            "",
            _readers(sizes.random_mib),
            amount=random_bytes,
        ),
        Group(
            [
                Measure("memory", "most memory in use over `find`, `cp`, `cat`, `dd`", "MiB"),
                Measure("memory-anon", "the same without mapped files", "MiB"),
            ],
            _memory,
        ),
    ]


def _readers(random_mib: int) -> str:
    part = random_mib // _READERS
    each = "dd if=random of=/dev/null bs=1M status=none"
    return " & ".join(f"{each} count={part} skip={part * n}" for n in range(_READERS)) + "; wait"


def _timed(name: str, what: str, place: str, command: str, *, amount: int = 0) -> Group:
    """Return the group of one command, run in the directory `place` of the volume."""

    def run(bench: Bench, contender: Contender) -> Iterator[Sample]:
        yield bench.cold(contender, name, Path(place), command)

    return Group([Measure(name, what, amount=amount)], run)


def _ready(bench: Bench, contender: Contender) -> Iterator[Sample]:
    with bench.mount(contender, bench.store.main_as_usual()) as mount:
        yield Sample("ready", mount.ready_seconds)


def _find(bench: Bench, contender: Contender) -> Iterator[Sample]:
    repo = bench.store.main()
    command, cache = "find . | wc -l", "find"
    bench.empty_cache(contender, cache)
    with bench.mount(contender, repo, cache=cache) as mount:
        drop_caches()
        directory = contender.volume(mount.path, repo)
        yield Sample("find-cold", *shell(command, directory))
        yield Sample("find-warm", *shell(command, directory))
    with bench.mount(contender, repo, cache=cache) as mount:
        drop_caches()
        yield Sample("find-second", *shell(command, contender.volume(mount.path, repo)))


def _without_xattrs(bench: Bench, contender: Contender) -> Iterator[Sample]:
    options = ("-o", "noxattr") if contender.binary is None else ()
    yield bench.cold(contender, "ls-lR-noxattr", Path(), "ls -lR . | wc -l", *options)


def _copy(bench: Bench, contender: Contender) -> Iterator[Sample]:
    target = bench.work / "copy"
    shutil.rmtree(target, ignore_errors=True)
    try:
        sample = bench.cold(contender, "cp-r", Path("small"), f"cp -r . '{target}'")
        yield Sample(sample.name, sample.value, shell("find . | wc -l", target)[1])
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _random_reads(bench: Bench, contender: Contender) -> Iterator[Sample]:
    repo = bench.store.main()
    draw = random.Random(4096)
    with bench.mount(contender, repo) as mount:
        file = contender.volume(mount.path, repo) / "random"
        last = file.stat().st_size - _RANDOM_BYTES
        drop_caches()
        began = time.perf_counter()
        descriptor = os.open(file, os.O_RDONLY)
        try:
            for _ in range(_RANDOM_READS):
                os.pread(descriptor, _RANDOM_BYTES, draw.randrange(last))
        finally:
            os.close(descriptor)
        yield Sample("random-reads", time.perf_counter() - began)


def _memory(bench: Bench, contender: Contender) -> Iterator[Sample]:
    repo = bench.store.main_as_usual()
    target = bench.work / "copy"
    shutil.rmtree(target, ignore_errors=True)
    try:
        with bench.mount(contender, repo) as mount:
            directory = contender.volume(mount.path, repo)
            shell("find . | wc -l", directory)
            shell(f"cp -r small/a '{target}'", directory)
            shell("cat random text >/dev/null", directory)
            drop_caches()  # else the kernel would serve all four from its cache
            shell(_readers(bench.store.sizes.random_mib), directory)
            mount.look()
            yield Sample("memory", mount.memory.peak / MIB)
            yield Sample("memory-anon", mount.memory.anonymous / MIB)
    finally:
        shutil.rmtree(target, ignore_errors=True)
