"""Run something in a child process that is killed before its n-th change of the file system."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from cesbrfs.restore import writer
from cesbrfs.restore.undo_log import UndoLog

_CHANGES = {
    "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.chmod",
    "os.chown", "os.utime", "os.setxattr", "os.removexattr",
}  # fmt: skip


def _is_change(event: str, _arguments: Any) -> bool:
    return event in _CHANGES


def killed_at_each_step(
    work: Callable[[], object],
    every: int = 1,
    *,
    is_step: Callable[[str, Any], bool] = _is_change,
) -> Iterator[int]:
    """Yield after each run of `work` that was killed, until a run completes.

    `is_step` gets audit events with their arguments; the process is killed before a step.
    """
    for step in count(0, every):
        child = os.fork()
        if child == 0:
            _run(work, step, is_step)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield step


def _run(work: Callable[[], object], step: int, is_step: Callable[[str, Any], bool]) -> None:
    changes = count()

    def change() -> None:
        if next(changes) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: object) -> None:
        if is_step(event, arguments):
            change()

    rename, add = writer._renameat2, UndoLog.add

    def renameat2(*arguments: object) -> int:
        change()
        result: int = rename(*arguments)
        return result

    def logged(log: UndoLog, *lines: tuple[object, ...], sync: bool = False) -> None:
        change()
        add(log, *lines, sync=sync)

    sys.addaudithook(audit)
    writer._renameat2 = renameat2  # type: ignore[assignment] # counts calls
    UndoLog.add = logged  # type: ignore[assignment, method-assign] # counts calls
    try:
        work()
    except BaseException:  # noqa: BLE001 - reported here, because the process ends
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
