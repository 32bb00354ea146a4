"""Cancel requests whose client was interrupted, so that Ctrl-C ends a waiting process.

A process that waits for a reply about a name cannot be killed until the reply arrives, and pyfuse3
does not pass on FUSE_INTERRUPT. While a request waits for the storage, the signals pending for its
client are polled. (A process that waits for content can always be killed: it waits for pages.)
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
"""Signals that end a process, as a mask in the format of /proc/PID/status."""
_MASKS: Final = re.compile(r"^(SigPnd|ShdPnd|SigBlk|SigIgn):\s*([0-9a-f]+)$", re.MULTILINE)


class InterruptedCallerError(Exception):
    """The client of a request was interrupted."""


class InterruptWatcher:
    """Watch the clients of requests that wait for the storage."""

    def __init__(self) -> None:
        self._waiting: dict[trio.CancelScope, int] = {}
        self._some = trio.Event()

    async def wait(self, pid: int, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of `ask`; InterruptedCallerError if thread `pid` gets a signal."""
        with trio.CancelScope() as scope:
            self._waiting[scope] = pid
            self._some.set()
            try:
                return await ask()
            finally:
                del self._waiting[scope]
        raise InterruptedCallerError

    async def run(self) -> None:
        """Cancel the requests of interrupted clients; runs until cancelled."""
        while True:
            if not self._waiting:  # an idle mount does not wake up
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(_LOOK_SECONDS)
            for scope, pid in list(self._waiting.items()):
                if is_interrupted(pid):
                    scope.cancel()


def is_interrupted(pid: int) -> bool:
    """Return whether a signal that ends it is pending for thread `pid`."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            masks = {name: int(mask, 16) for name, mask in _MASKS.findall(file.read())}
    except OSError:  # in another PID namespace, or ended
        return False
    pending = masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)
    deaf = masks.get("SigBlk", 0) | masks.get("SigIgn", 0)
    return bool(pending & ~deaf & _ENDING)
