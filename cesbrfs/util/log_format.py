"""Log lines and tracebacks as a terminal or a log file may get them."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

from cesbrfs.util.escape import printable, printable_lines

if TYPE_CHECKING:
    from logging import _SysExcInfoType


class PrintableFormatter(logging.Formatter):
    """Escapes control characters: messages quote names, servers and files of the repository."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the record as one line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: _SysExcInfoType) -> str:  # noqa: N802 - as above
        """Return a traceback, line by line."""
        return "" if ei[1] is None else traceback_text(ei[1]).rstrip("\n")


def traceback_text(error: BaseException) -> str:
    """Return the traceback of `error`, in which every message is one line."""
    parts = []
    for part in traceback.format_exception(error):
        is_frame = part.lstrip(" |").startswith('File "')
        parts.append(printable_lines(part) if is_frame else printable(part.rstrip("\n")) + "\n")
    return "".join(parts)
