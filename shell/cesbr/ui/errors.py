"""Report a failed command: one sentence on stderr, and the exit code."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

from cesbr.ui.output import CLEAR_LINE, Output, to_json
from cesbrfs.errors import CesbrError
from cesbrfs.util.escape import printable, show
from cesbrfs.util.log_format import traceback_text

BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: the reader of the results has closed the pipe."""
_INTERRUPTED: Final = 130


def describe(error: BaseException) -> tuple[str, int]:
    """Return what to tell about `error`, a sentence, and its exit code."""
    error = _first(error)
    if isinstance(error, CesbrError):
        return error.message, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted.", _INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "", BROKEN_PIPE
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f": {_name(error.filename)}"
        return f"{error.strerror}{place}.", 1
    return (
        f"Internal error: {type(error).__name__}: {error}. Pass --debug for a traceback.",
        1,
    )


def show_error(error: BaseException, *, as_json: bool, debug: bool = False) -> int:
    """Write `error` to stderr and return its exit code."""
    message, code = describe(error)
    line = f"cesbr: {printable(message)}"
    if code == _INTERRUPTED and sys.stderr.isatty():
        line = f"{CLEAR_LINE}{line}"  # which has the terminal's ^C
    if as_json:
        line = to_json({"error": message, "code": code}, sys.stderr.encoding)
    with contextlib.suppress(OSError):  # where nobody reads, the exit code still tells
        if debug:
            sys.stderr.write(traceback_text(error))
        if message:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    return code


async def report(error: CesbrError, out: Output) -> int:
    """Report an error that does not end the command; return its exit code."""
    from cesbr.portal import in_front

    return await in_front(lambda: _show(error, out))


def report_soon(error: CesbrError, out: Output) -> None:
    """Report an error that does not end the command, without waiting for it."""
    from cesbr.portal import post_in_front

    post_in_front(lambda: _show(error, out))


def _show(error: CesbrError, out: Output) -> int:
    out.clear_progress()
    return show_error(error, as_json=out.as_json)


def _first(error: BaseException) -> BaseException:
    """Return the error that a group of tasks failed with; one of ours where there are several."""
    leaves: list[BaseException] = []

    def collect(error_or_group: BaseException) -> None:
        if isinstance(error_or_group, BaseExceptionGroup):
            for inner in error_or_group.exceptions:
                collect(inner)
        else:
            leaves.append(error_or_group)

    collect(error)
    return next((leaf for leaf in leaves if isinstance(leaf, CesbrError)), leaves[0])


def _name(name: object) -> str:
    if isinstance(name, bytes):
        return show(name)
    return show(str(name).encode("utf-8", "surrogateescape"))
