"""Run ``cesbr`` in a child process that a fault may hit, and wait for all programs it started."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

from tests.support.steps import Announcer, Fault

_SUBREAPER: Final = 36
"""PR_SET_CHILD_SUBREAPER: orphans below become our children."""
_ORPHAN_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault at a step, numbered from 0 among those that it applies to, or those in `only`."""

    fault: Fault
    step: int
    only: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child process ended: exit code (negative: signal), and where the fault hit ("": no)."""

    code: int
    out: str
    err: str
    hit: str


@cache
def preload() -> None:
    """Import all modules of the project, so that forked children need not."""
    for name in ("cesbr", "cesbrfs"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    importlib.import_module("cesbr.__main__")


def cesbr(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    work: Path,
    planned: Planned | None = None,
    top: str = "",
) -> Ended:
    """Run one command in a child process; `work` gets its output, `top` is where steps count."""
    preload()

    def command() -> int:
        from cesbr.__main__ import main

        os.environ.clear()
        os.environ.update(environment)
        return main(list(arguments))

    return run(command, work, planned, top)


def run(work: Callable[[], int], place: Path, planned: Planned | None, top: str) -> Ended:
    """Run `work` in a child process."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("out", "err", "hit", "code"):
        (place / name).write_bytes(b"")
    supervisor = os.fork()
    if supervisor == 0:
        _supervise(work, place, planned, top)
    os.waitpid(supervisor, 0)
    out, err, hit, code = (
        (place / name).read_text(errors="replace") for name in ("out", "err", "hit", "code")
    )
    return Ended(json.loads(code), out, err, hit)


def _supervise(work: Callable[[], int], place: Path, planned: Planned | None, top: str) -> NoReturn:
    """Run `work` in a child of this process, and wait for it and its orphans."""
    try:
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        worker = os.fork()
        if worker == 0:
            _work(work, place, planned, top)
        _, status = os.waitpid(worker, 0)
        if planned is not None and planned.fault is Fault.KILL_ALL and os.WIFSIGNALED(status):
            _kill_children()
        _reap()
        (place / "code").write_text(str(os.waitstatus_to_exitcode(status)))
    except BaseException:  # noqa: BLE001 - reported here, because the process ends
        traceback.print_exc()
    os._exit(0)


def _work(work: Callable[[], int], place: Path, planned: Planned | None, top: str) -> NoReturn:
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(place / name, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    code = 1
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
    sys.dont_write_bytecode = True
    try:
        if planned is not None:
            hit, write = os.open(place / "hit", os.O_WRONLY | os.O_APPEND), os.write

            def note(text: str) -> None:
                write(hit, text.encode())  # not `os.write`, which will announce itself

            announcer = Announcer(planned.fault, planned.step, top, note, planned.only)
            announcer.install()
        code = work()
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    return [int(pid) for pid in text.split()]


def _kill_children() -> None:
    for pid in _children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reap() -> None:
    """Wait for all orphans; kill those that do not end."""
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            if time.monotonic() > deadline:
                _kill_children()
            time.sleep(_POLL_SECONDS)
