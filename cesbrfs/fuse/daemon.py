"""Run in the background, and report readiness to the foreground process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


class Starter:
    """Run work in the background; the foreground process exits once `ready` was called.

    The fork comes before any thread, event loop or FUSE session: none of them survives it.
    """

    def __init__(self) -> None:
        self._report: int | None = None

    def in_background(self, work: Callable[[], int]) -> int:
        """Run `work` in a child; return its exit code, 0 once it is ready.

        The child gets its own session when it is ready.
        """
        receiving, sending = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            os.close(receiving)
            self._run(work, sending)
        os.close(sending)
        return _await_report(receiving, child)

    def _run(self, work: Callable[[], int], report: int) -> NoReturn:
        """Run `work` in the child, and exit with its exit code."""
        code = 1
        try:
            self._report = report
            code = work()
        finally:
            self._send_report(code)
            # A forked child must not run the parent's exit handlers.
            logging.shutdown()
            os._exit(code)

    def ready(self) -> None:
        """Report to the waiting foreground process, if any, that the mount answers."""
        if self._report is not None:
            # Not earlier: an automounter that waits for the mount lets only its own process group
            # access the mountpoint.
            os.setsid()
            with open(os.devnull, "r+b") as nothing:
                for descriptor in (0, 1, 2):
                    os.dup2(nothing.fileno(), descriptor)
            os.chdir("/")
            self._send_report(0)

    def _send_report(self, code: int) -> None:
        if self._report is None:
            return
        sys.stderr.flush()
        with contextlib.suppress(BrokenPipeError):
            os.write(self._report, bytes((code,)))
        os.close(self._report)
        self._report = None


def _await_report(receiving: int, child: int) -> int:
    try:
        report = os.read(receiving, 1)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        return 130
    finally:
        os.close(receiving)
    if report:
        return report[0]
    _, status = os.waitpid(child, 0)  # the child died without a report
    return os.waitstatus_to_exitcode(status) or 1
