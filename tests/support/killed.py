"""Run something in a child process that is killed before its n-th change of the file system."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NoReturn

from tests.support.steps import CHANGES, Announcer, Fault

_STEPS = CHANGES | {"write"}

IsStep = Callable[[str, Any], bool]


def killed_at_each_step(
    work: Callable[[], object], every: int = 1, *, is_step: IsStep | None = None
) -> Iterator[int]:
    """Yield after each run of `work` that was killed, until a run completes.

    `is_step` gets audit events with their arguments; the process is killed before a step. By
    default, steps are changes of the file system, and writes.
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


def _run(work: Callable[[], object], step: int, is_step: IsStep | None) -> NoReturn:
    try:
        announcer = Announcer(Fault.KILL, step, "/", lambda _: None, _STEPS)
        if is_step is None:
            announcer.install()
        else:
            sys.addaudithook(_killing(step, is_step))
        work()
        announcer.stop()
    except BaseException:  # noqa: BLE001 - reported here, because the process ends
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _killing(step: int, is_step: IsStep) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that kills the process at a step."""
    steps = count()

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if is_step(event, arguments) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return audit
