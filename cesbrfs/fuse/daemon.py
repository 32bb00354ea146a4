"""Going to the background, and telling those who wait that the mount answers."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cesbrfs.util.log_format import PrintableFormatter

_SYSLOG: Final = "/dev/log"


class Starter:
    """Starts work in the background; the foreground process ends once `ready` was called.

    Forking comes before any thread, event loop or FUSE session, none of which survive it.
    """

    def __init__(self) -> None:
        self._report: int | None = None

    def in_background(self, work: Callable[[], int]) -> int:
        """Run `work` in a child; return its exit code, 0 once it is ready.

        The child gets a session of its own when it is ready.
        """
        receiving, sending = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child:
            os.close(sending)
            return _await_report(receiving, child)
        code = 1
        try:
            os.close(receiving)
            self._report = sending
            code = work()
        finally:
            self._tell(code)
            # What a forked child must not do: run the parent's exit handlers.
            logging.shutdown()
            os._exit(code)

    def ready(self) -> None:
        """Say that the mount answers: to systemd, and to the waiting foreground process."""
        notify_systemd("READY=1")
        if self._report is not None:
            # Not before: an automounter lets only its own process group pass to the mountpoint
            # while it waits for the mount.
            os.setsid()
            with open(os.devnull, "r+b") as nothing:
                for descriptor in (0, 1, 2):
                    os.dup2(nothing.fileno(), descriptor)
            os.chdir("/")
            self._tell(0)

    def _tell(self, code: int) -> None:
        if self._report is None:
            return
        sys.stderr.flush()
        with contextlib.suppress(BrokenPipeError):
            os.write(self._report, bytes((code,)))
        os.close(self._report)
        self._report = None


def _await_report(receiving: int, child: int) -> int:
    try:
        told = os.read(receiving, 1)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        return 130
    finally:
        os.close(receiving)
    if told:
        return told[0]
    _, status = os.waitpid(child, 0)  # it died without a word
    return os.waitstatus_to_exitcode(status) or 1


def notify_systemd(message: str) -> None:
    """Send `message` to the service manager, if there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(message.encode(), address)


def log_to(file: str | None, *, background: bool, cache_dir: Path, debug: bool) -> None:
    """Log to `file`, in the foreground to stderr, else to syslog or a file in the cache folder.

    Log files may be rotated: a file that was renamed or removed is opened again.
    """
    form = "%(asctime)s %(levelname)s %(message)s"
    handler: logging.Handler
    if file is not None:
        handler = _log_file(os.path.abspath(file), delay=False)
    elif not background:
        handler = logging.StreamHandler()
    else:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = _log_file(cache_dir / "mount.log", delay=True)
        if os.path.exists(_SYSLOG):
            handler.setFormatter(PrintableFormatter(form))
            handler = _syslog(handler)
            form = "cesbrfs[%(process)d]: %(message)s"  # syslog adds the time
    handler.setFormatter(PrintableFormatter(form))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    for other in ("pyfuse3", "httpx2", "httpcore2"):  # which have a line for every request
        logging.getLogger(other).setLevel(logging.WARNING)


def _log_file(file: str | os.PathLike[str], *, delay: bool) -> logging.Handler:
    """Return a handler that logs to `file`, and to stderr while it cannot be opened or written.

    The standard library's handler raises in the caller if it cannot open a rotated file again: a
    missing directory or a full disk would end the mount at its next log line.
    """
    from logging.handlers import WatchedFileHandler

    class Handler(WatchedFileHandler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                super().emit(record)
            except OSError:
                self.handleError(record)

        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base's name
            if isinstance(sys.exc_info()[1], OSError):
                with contextlib.suppress(OSError):
                    sys.stderr.write(f"{self.format(record)}\n")
            else:
                super().handleError(record)

    return Handler(file, encoding="utf-8", delay=delay)


def _syslog(fallback: logging.Handler) -> logging.Handler:
    """Return a handler that logs to syslog, and to `fallback` while nothing listens there."""
    from logging.handlers import SysLogHandler

    class Handler(SysLogHandler):
        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base's name
            if isinstance(sys.exc_info()[1], OSError):
                fallback.handle(record)
            else:
                super().handleError(record)

    return Handler(_SYSLOG, facility=SysLogHandler.LOG_DAEMON)
