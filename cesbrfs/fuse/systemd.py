"""Report the state of the mount to a service manager: sd_notify(3) and its watchdog."""

from __future__ import annotations

import faulthandler
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Final

import trio

_SEND_SECONDS: Final = 5.0
"""Maximum time that a change of state waits for a busy service manager."""
_STATUS_SECONDS: Final = 5.0
"""How often the status text is compared with the one sent last."""
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """The service manager that started this process, if there is one.

    `address` is that of its datagram socket; without one, nothing is sent. `watchdog_seconds` is
    the time without WATCHDOG=1 after which the service manager restarts the process.
    """

    def __init__(self, address: str = "", watchdog_seconds: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds: Final = watchdog_seconds
        self._status = ""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """Return the service manager of NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.

        The variables are removed: child processes such as ssh must not report a state.
        """
        address, microseconds, pid = (environ.pop(name, "") for name in _VARIABLES)
        watched = microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        watched = watched and pid in ("", str(os.getpid()))
        return cls(
            address if address.startswith(("/", "@")) else "",
            int(microseconds) / 1e6 if watched else None,
        )

    def ready(self) -> None:
        """Report that the mount answers, or that a reload has ended."""
        self._send("READY=1", _SEND_SECONDS)

    def reloading(self) -> None:
        """Report that a reload begins."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={microseconds}", _SEND_SECONDS)

    def stopping(self) -> None:
        """Report that the mount is ending."""
        self._send("STOPPING=1", _SEND_SECONDS)

    def status(self, text: str) -> None:
        """Report a line for people (``systemctl status``) if it differs from the last one."""
        if text != self._status and self._send(f"STATUS={text}"):
            self._status = text

    async def run(self, status: Callable[[], str]) -> None:
        """Send changes of the status, and WATCHDOG=1 at half of its interval, until cancelled.

        This runs in the event loop, so that a loop that hangs sends nothing and is restarted.
        """
        if not self._address:
            return
        period = _STATUS_SECONDS
        if self.watchdog_seconds is not None:
            period = min(period, self.watchdog_seconds / 2)
            if not faulthandler.is_enabled():  # SIGABRT of the watchdog logs where the loop hangs
                faulthandler.enable()
        while True:
            if self.watchdog_seconds is not None:
                self._send("WATCHDOG=1")
            self.status(status())
            await trio.sleep(period)

    def _send(self, message: str, seconds: float = 0.0) -> bool:
        """Send `message`; wait up to `seconds` while the queue is full. Return False if it is lost.

        A service manager that is gone does not end the mount.
        """
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.settimeout(seconds)
                to.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError:
            return False
        return True
