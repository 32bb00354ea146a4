"""Benchmarks of the shell: start-up time of commands, and latency of tab completion."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Final

from cesbr.app import App
from cesbr.portal import Portal
from cesbr.runner import close
from cesbr.session import Session
from cmd2.pt_utils import Cmd2Completer
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from cesbrfs.config.settings import Flags
from tests.bench.data import BACKUP, Repo, Store
from tests.bench.growth import short
from tests.bench.measures import CESBR, Bench, Group, Measure, MeasureFailedError, Sample, program
from tests.bench.mounts import Contender, environment

_CACHE: Final = "shell"
_TABS: Final = 25
_FIRST_SECONDS: Final = 60


def groups(store: Store) -> list[Group]:
    """Return the measures of the shell; restic has no tab completion to compare."""
    sizes = store.sizes
    return [
        Group([Measure("version", "`cesbr --version`; restic: `restic version`")], _version),
        Group(
            [Measure("backups", "`cesbr backups`, warm cache; restic: `snapshots --no-lock`")],
            _backups,
        ),
        Group([Measure("tab-shell", "Tab in bash, zsh or fish, after `cesbr use `")], _tab_shell),
        *(_in_directory(count) for count in sizes.tab_files),
        _among_backups(sizes.tab_backups),
    ]


def _version(bench: Bench, contender: Contender) -> Iterator[Sample]:
    command = (
        [*CESBR, "--version"] if contender.binary is None else [str(contender.binary), "version"]
    )
    repo = bench.store.seed()
    yield Sample("version", program(bench, contender, repo, _CACHE, command)[0])


def _backups(bench: Bench, contender: Contender) -> Iterator[Sample]:
    repo = bench.store.seed()
    if contender.binary is None:
        command = [*CESBR, "backups"]
    else:
        command = [str(contender.binary), "snapshots", "--no-lock"]
    program(bench, contender, repo, _CACHE, command)
    yield Sample("backups", program(bench, contender, repo, _CACHE, command)[0])


def _tab_shell(bench: Bench, contender: Contender) -> Iterator[Sample]:
    """Run the measure; a timeout on a busy machine fails only this measure."""
    if contender.binary is not None:
        return
    repo, asked = bench.store.seed(), [*CESBR, "__complete", "zsh", "use", ""]
    program(bench, contender, repo, _CACHE, asked)
    seconds, said = program(bench, contender, repo, _CACHE, asked)
    if BACKUP.encode() not in said:
        raise MeasureFailedError("tab completion timed out")
    yield Sample("tab-shell", seconds)


def _in_directory(count: int) -> Group:
    name = f"tab-{short(count)}"

    def run(bench: Bench, contender: Contender) -> Iterator[Sample]:
        if contender.binary is None:
            repo = bench.store.files("flat", count)
            dogu, _, volume = repo.volume.split("/")[-3:]
            line = f"ls /{BACKUP}/{dogu}/volumes/{volume}/file-"
            yield Sample(name, _tab(bench, contender, repo, line))

    return Group([Measure(name, f"Tab at the prompt in a directory of {count:,} names")], run)


def _among_backups(count: int) -> Group:
    name = f"tab-backups-{short(count)}"

    def run(bench: Bench, contender: Contender) -> Iterator[Sample]:
        if contender.binary is None:
            yield Sample(name, _tab(bench, contender, bench.store.backups(count), "use "))

    return Group([Measure(name, f"Tab at the prompt after `use `, {count:,} backups")], run)


def _tab(bench: Bench, contender: Contender, repo: Repo, line: str) -> float:
    """Return the median latency of Tab after `line`, with a warm cache."""
    cache = bench.cache(contender, _CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    session, portal = Session(Flags(), environment(repo, cache)), Portal()
    completer = Cmd2Completer(App(session, portal, {}))

    def press() -> int:
        asked = CompleteEvent(completion_requested=True)
        with contextlib.redirect_stdout(io.StringIO()):  # hints of cmd2
            return len(list(completer.get_completions(Document(line), asked)))

    try:
        _until(press)
        return statistics.median(_seconds(press) for _ in range(_TABS))
    finally:
        close(session, portal)


def _until(press: Callable[[], int]) -> None:
    """Press Tab until something is completed; the first completion may time out."""
    began = time.perf_counter()
    while not press():
        if time.perf_counter() - began > _FIRST_SECONDS:
            raise MeasureFailedError(f"no completion within {_FIRST_SECONDS} s")


def _seconds(press: Callable[[], int]) -> float:
    began = time.perf_counter()
    if not press():
        raise MeasureFailedError("no completion on the second Tab")
    return time.perf_counter() - began
