"""React to signals: end the mount, reload it, or change the log level."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from cesbrfs.fuse.logging import reopen_log, set_log_level

_log = logging.getLogger(__name__)

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_LEVELS: Final = {signal.SIGUSR1: logging.DEBUG, signal.SIGUSR2: logging.INFO}
_IGNORED: Final = (
    *_LEVELS, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO,
)  # fmt: skip
_STOP_SECONDS: Final = 5.0
"""Grace period for running requests when the mount ends."""
_OFFLINE_STOP_SECONDS: Final = 0.2
"""The same while the server is offline: waiting requests would not finish in time."""


def ignore_signals() -> None:
    """Ignore signals that kill by default, which would leave a dead mount."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True, slots=True)
class SignalActions:
    """What signals cause: `terminate` ends the FUSE session, `reload` requests a reload."""

    terminate: Callable[[], None]
    reload: Callable[[], None]
    is_offline: Callable[[], bool]


async def handle_signals(
    actions: SignalActions,
    scope: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """End the mount on SIGTERM, SIGINT and SIGQUIT; `scope` is cancelled after a grace period.

    SIGHUP opens the log file again and reloads; SIGUSR1 and SIGUSR2 change the log level.
    """
    with trio.open_signal_receiver(*_ENDING, *_LEVELS, signal.SIGHUP) as received:
        task_status.started()
        async for number in received:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                reopen_log()
                _log.info("Reloading on %s.", name)
                actions.reload()
            elif number in _LEVELS:
                level = _LEVELS[signal.Signals(number)]
                set_log_level(level)
                _log.log(level, "Log level is %s (%s).", logging.getLevelName(level), name)
            else:
                _log.info("Ending on %s.", name)
                actions.terminate()
                if actions.is_offline():
                    await trio.sleep(_OFFLINE_STOP_SECONDS)
                else:
                    await trio.sleep(_STOP_SECONDS)
                    _log.warning(
                        "Requests are still running after %g s; cancelling them.", _STOP_SECONDS
                    )
                scope.cancel()
