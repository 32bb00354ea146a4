"""Where log lines of a mount go: a file, stderr, or syslog with a file as the fallback."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import Final

from cesbrfs.errors import UsageError
from cesbrfs.util.log_format import PrintableFormatter

_SYSLOG: Final = "/dev/log"
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def log_to(file: str | None, *, background: bool, cache_dir: Path, debug: bool) -> None:
    """Log to `file`, in the foreground to stderr, else to syslog or a file in the cache directory.

    Log files can be rotated: a file that was renamed or removed is opened again. Raises UsageError
    if `file` cannot be opened.
    """
    form = "%(asctime)s %(levelname)s %(message)s"
    handler: logging.Handler
    if file is not None:
        try:
            handler = _log_file(os.path.abspath(file), delay=False)
        except OSError as error:
            raise UsageError(
                f"The log file {file} cannot be opened: {error.strerror}. Correct --log, or check"
                " the permissions of the user of the mount."
            ) from error
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
    logging.basicConfig(handlers=[handler])
    set_log_level(logging.DEBUG if debug else logging.INFO)
    for other in ("pyfuse3", "httpx2", "httpcore2"):  # which log every request
        logging.getLogger(other).setLevel(logging.WARNING)


def set_log_level(level: int) -> None:
    """Log messages of `level` and above from now on."""
    logging.getLogger().setLevel(level)


def reopen_log() -> None:
    """Close the log file, if any: the next line opens it again, as logrotate(8) requires."""
    from logging.handlers import WatchedFileHandler

    for handler in logging.getLogger().handlers:
        if isinstance(handler, WatchedFileHandler):
            handler.close()


def _log_file(file: str | os.PathLike[str], *, delay: bool) -> logging.Handler:
    """Return a handler that logs to `file`, and to stderr while it cannot be opened or written.

    A new file has mode 0600, because messages contain names from the backups.

    The standard library's handler raises in the caller if it cannot open a rotated file again: a
    missing directory or a full disk would end the mount at its next log line.
    """
    from logging.handlers import WatchedFileHandler

    class Handler(WatchedFileHandler):
        def _open(self) -> io.TextIOWrapper:
            descriptor = os.open(self.baseFilename, _APPEND, 0o600)
            return open(descriptor, "a", encoding="utf-8")

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
