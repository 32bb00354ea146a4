"""Make one step of a program fail: the process is killed there, or the system call has an error.

The interpreter announces steps as audit events: files that are opened, created, renamed, removed,
locked or given attributes, and programs that are started. What it does not announce (writing,
flushing, renameat2) is announced by wrappers of the functions.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Any, Final

from cesbrfs.restore import writer

CHANGES: Final = frozenset({
    "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.chmod",
    "os.chown", "os.utime", "os.setxattr", "os.removexattr",
})  # fmt: skip
"""Audit events that change the file system."""
_READS: Final = frozenset({"read", "os.listdir", "os.scandir", "os.listxattr", "os.getxattr"})
_GROWS: Final = frozenset({
    "create", "write", "fsync", "os.link", "os.rename", "os.mkdir", "os.symlink", "os.setxattr",
})  # fmt: skip
_OTHERS: Final = frozenset({"create", "os.truncate", "write", "fsync"})
_START: Final = "subprocess.Popen"
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Fault(StrEnum):
    """What happens at a step, and for EACCES and ENOSPC at all later ones that it applies to."""

    KILL = "kill"
    KILL_ALL = "kill with restic"
    """The process and all programs that it has started."""
    FULL = "ENOSPC"
    FAILING = "EIO"
    DENIED = "EACCES"
    SHORT = "short write"
    """Only the first half of the data is written, and the call says so."""

    def applies(self, step: str) -> bool:
        """Return whether this can happen at a step of this kind."""
        if self is Fault.SHORT:
            return step == "write"
        if self is Fault.FULL:
            return step in _GROWS
        if self is Fault.FAILING:
            return step in CHANGES | _OTHERS | _READS
        if self is Fault.DENIED:
            return step in CHANGES | _OTHERS | _READS | {_START} and step not in {"write", "fsync"}
        return step in CHANGES | _OTHERS | {_START, "pipe", "fcntl.flock"}


_NUMBERS: Final = {
    Fault.FULL: errno.ENOSPC,
    Fault.FAILING: errno.EIO,
    Fault.DENIED: errno.EACCES,
}


@dataclass(slots=True)
class Announcer:
    """Counts the steps that `fault` applies to, and lets it happen at number `step`.

    Only steps on paths below `top` count. `note` is called with a description of the step.
    """

    fault: Fault
    step: int
    top: str
    note: Callable[[str], None]
    only: frozenset[str] | None = None
    """The kinds of steps that count (all)."""
    _numbers: Iterator[int] = field(default_factory=count)
    _paused: bool = False

    def install(self) -> None:
        """Announce steps of this process from now on, until `stop`."""
        sys.addaudithook(self._audit)
        _wrap(os, "write", self._writes)
        _wrap(os, "pwrite", self._writes)
        _wrap(os, "fsync", lambda descriptor: self._at("fsync", descriptor))
        _announce_files(self._at)
        rename = writer._renameat2

        def renameat2(*arguments: Any) -> int:
            self._at("os.rename", arguments[1])
            result: int = rename(*arguments)
            return result

        writer._renameat2 = renameat2  # type: ignore[assignment] # a function of ctypes

    def stop(self) -> None:
        """Ignore later steps, for example those of a coverage measurement at exit."""
        self._paused = True

    def _writes(self, descriptor: int, *_: object) -> bool:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return self._at("write", descriptor)
        return stat.S_ISFIFO(mode) and self._at("pipe", descriptor)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, int):
                self._at("create" if flags & _WRITING else "read", path)
        elif event in CHANGES or event in _READS or event in {_START, "fcntl.flock", "os.truncate"}:
            self._at(event, arguments[0])

    def _at(self, step: str, path: object) -> bool:
        """Let the fault happen if it is time; return whether to write only a part of the data."""
        counts = self.fault.applies(step) and (self.only is None or step in self.only)
        if self._paused or not counts or not self._is_ours(step, path):
            return False
        number = next(self._numbers)
        lasts = self.fault in {Fault.FULL, Fault.DENIED}
        if number < self.step or (number > self.step and not lasts):
            return False
        if number == self.step:
            self._paused = True
            self.note(f"{step} {os.fsdecode(path) if isinstance(path, str | bytes) else path}")
            self._paused = False
        if self.fault in _NUMBERS:
            raise OSError(_NUMBERS[self.fault], os.strerror(_NUMBERS[self.fault]), path)
        if self.fault is not Fault.SHORT:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def _is_ours(self, step: str, path: object) -> bool:
        if step == _START or not isinstance(path, str | bytes | os.PathLike):
            return True
        text = os.fsdecode(path)
        return text.startswith(self.top) or not text.startswith("/")


def _announce_files(announce: Callable[[str, object], bool]) -> None:
    """Announce what Python's files write, for which they do not call `os.write`."""

    class Announced(io.FileIO):
        def write(self, data: Any, /) -> int:
            partly = announce("write", self.fileno())
            return super().write(_first_half(data) if partly else data)

    opening = builtins.open

    def announced(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if mode != "wb":
            return opening(file, mode, *arguments, **named)
        return io.BufferedWriter(Announced(file, mode))

    builtins.open = announced
    io.open = announced


def _first_half(data: Any) -> Any:
    return memoryview(data)[: max(len(data) // 2, 1)]


def _wrap(module: Any, name: str, before: Callable[..., bool]) -> None:
    function = getattr(module, name)

    def wrapper(*arguments: Any) -> Any:
        if before(*arguments) and len(arguments) > 1:
            descriptor, data, *rest = arguments
            return function(descriptor, _first_half(data), *rest)
        return function(*arguments)

    setattr(module, name, wrapper)
