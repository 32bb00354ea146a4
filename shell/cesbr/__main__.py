"""``cesbr``: one command and its exit code, a script of them on stdin, or the prompt."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from cesbrfs import __version__

if TYPE_CHECKING:
    import argparse
    from types import FrameType

_SIGNAL_CODE: Final = 128


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cesbr`` with `argv` (the process's own by default) and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    try:
        code = _dispatch(given)
        sys.stdout.flush()
    except SystemExit as end:  # argparse's --help, or a signal
        code = end.code if isinstance(end.code, int) else 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - reported to the user
        from cesbr.ui.errors import show_error

        code = show_error(error, as_json="--json" in given, debug="--debug" in given)
    try:
        sys.stdout.flush()
    except OSError:
        # The reader has closed the pipe, or the disk is full, which was reported: Python's last
        # flush would only report it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _open_streams() -> None:
    """Put something in place of standard streams that were closed (``cesbr <&-``)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, stream)


def _dispatch(given: list[str]) -> int:
    if given == ["--version"]:  # before anything slow is imported
        sys.stdout.write(f"cesbr {__version__}\n")
        return 0
    if given[:1] == ["__complete"]:  # what the completion files ask
        from cesbr.completion.shells import complete

        complete(given[1:])
    from cesbr.cli.arguments import global_parser

    before = global_parser().parse_args(given)
    if before.command is None and not before.help:
        return _shell(before)
    if before.help or before.command == "help":
        import shutil

        from cesbr.cli.help import overview

        if before.command in (None, "help") and not before.arguments:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            sys.stdout.write(overview(width))
            return 0
        if before.command == "help":
            before.command, *_ = before.arguments
        before.arguments = ["--help"]
    return _one(before)


def _one(before: argparse.Namespace) -> int:
    """Run one command."""
    from cesbr.cli.arguments import command_parser, settings_flags
    from cesbr.commands import find_command, reads_backups

    command = find_command(before.command)
    arguments = command_parser(command).parse_intermixed_args(before.arguments, before)
    from cesbr.portal import Portal
    from cesbr.runner import close, run_command
    from cesbr.session import Session
    from cesbr.ui.output import Output

    _log_to_stderr(arguments)
    values = vars(arguments)
    out = Output(as_json=values.get("json", False), quiet=values.get("quiet", False))
    session, portal = Session(settings_flags(vars(arguments))), Portal()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    if reads_backups(command.name):
        session.look_ahead()
    try:
        return run_command(command, arguments, session, portal, out)
    finally:
        close(session, portal)


def _shell(before: argparse.Namespace) -> int:
    """Run the prompt, or the script on stdin."""
    from cesbr.cli.arguments import settings_flags
    from cesbr.session import Session

    _log_to_stderr(before)
    session = Session(settings_flags(vars(before)), environ=dict(os.environ))
    os.environ.pop("RESTIC_PASSWORD", None)  # programs after a pipe must not inherit it
    session.look_ahead()
    from cesbr.app import run_app

    return run_app(session, before)


def _log_to_stderr(arguments: argparse.Namespace) -> None:
    import logging

    values = vars(arguments)
    level = logging.WARNING
    if values.get("quiet"):
        level = logging.ERROR
    if values.get("debug") or values.get("verbose"):
        level = logging.DEBUG
    from cesbrfs.util.log_format import PrintableFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("cesbr: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for chatty in ("httpx2", "httpcore2"):  # a line for each request, with its address
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Commands report damaged files themselves.
    logging.getLogger("cesbrfs.repo.read.damaged_files").setLevel(logging.ERROR)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """End as the signal says, after the running command has unwound; one signal is enough."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(_SIGNAL_CODE + number)


if __name__ == "__main__":
    sys.exit(main())
