"""Requests whose callers were interrupted: given up, so that Ctrl-C ends a reader that waits.

The kernel lets a process that waits for an answer about a name go only when the answer comes, even
when it was killed; and pyfuse3 does not pass on that it was interrupted.  So while a request waits
for the storage, its caller is looked at now and then.  (Who waits for content can always be killed:
that wait is one for pages.)
"""

from __future__ import annotations

import re
import signal
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

_T = TypeVar("_T")

_LOOK_SECONDS: Final = 0.2
_ENDING: Final = sum(
    1 << (number - 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGKILL)
)
"""Signals that ask a process to stop what it does, as a mask as the kernel writes it."""
_MASKS: Final = re.compile(r"^(SigPnd|ShdPnd|SigBlk|SigIgn):\s*([0-9a-f]+)$", re.MULTILINE)


class InterruptedCallerError(Exception):
    """The caller of a request does not wait for its answer any more."""


class InterruptWatcher:
    """The callers of requests that wait."""

    def __init__(self) -> None:
        self._waiting: dict[trio.CancelScope, int] = {}
        self._some = trio.Event()

    async def wait(self, pid: int, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Return what `ask` brings; InterruptedCallerError if thread `pid` is told to stop."""
        with trio.CancelScope() as scope:
            self._waiting[scope] = pid
            self._some.set()
            try:
                return await ask()
            finally:
                del self._waiting[scope]
        raise InterruptedCallerError

    async def run(self) -> None:
        """Give up the requests of interrupted callers; runs until cancelled."""
        while True:
            if not self._waiting:  # an idle mount must not wake up for nothing
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(_LOOK_SECONDS)
            for scope, pid in list(self._waiting.items()):
                if is_interrupted(pid):
                    scope.cancel()


def is_interrupted(pid: int) -> bool:
    """Tell whether thread `pid` has a signal to come that asks it to stop."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            masks = {name: int(mask, 16) for name, mask in _MASKS.findall(file.read())}
    except OSError:  # in another namespace; or its process has ended, and nobody waits
        return False
    pending = masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)
    deaf = masks.get("SigBlk", 0) | masks.get("SigIgn", 0)
    return bool(pending & ~deaf & _ENDING)
