"""Check the settings, and write a settings file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.ui import humanize
from cesbr.ui.table import hanging
from cesbrfs.config.layers import SYSTEM_CONFIG, absolute_path, named_file, usual_files
from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.config.validation import Override, Problem, Validation

_MODE: Final = 0o600
_USAGE_ERROR: Final = 2


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=("check", "init"),
        help="check: check all settings; init: write a settings file",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="with init: the file to write (default: the one that cesbr reads)",
    )


async def _config(context: Context, arguments: argparse.Namespace) -> int:
    if arguments.action == "init":
        return await _init(context, arguments.output)
    if arguments.output is not None:
        raise UsageError("--output is an option of 'config init'. Leave it out.")
    return await _check(context)


async def _check(context: Context) -> int:
    from cesbrfs.config.validation import validate

    found = validate(context.session.flags, context.session.environ)
    await context.out.result(_json(found), lambda: _text(found, context.out.room))
    return _USAGE_ERROR if found.problems else 0


def _json(found: Validation) -> dict[str, object]:
    return {
        "file": str(found.file) if found.file else None,
        "ignored": [str(file) for file in found.ignored],
        "errors": [_problem_json(problem) for problem in found.problems],
        "warnings": [_problem_json(problem) for problem in found.unknown],
        "overridden": [
            {"key": each.key, "source": each.source, "by": each.by} for each in found.overridden
        ],
    }


def _problem_json(problem: Problem) -> dict[str, object]:
    return {"key": problem.key, "source": problem.source, "message": problem.message}


def _text(found: Validation, available: int | None) -> str:
    lines = [("file:        ", show(os.fsencode(found.file)) if found.file else "none")]
    lines += [("ignored:     ", f"{file}; {found.file} is read instead") for file in found.ignored]
    lines += [("error:       ", problem.message) for problem in found.problems]
    lines += [("warning:     ", problem.message) for problem in found.unknown]
    lines += [("overridden:  ", _override(each)) for each in found.overridden]
    text = "".join(hanging(before, line, available) for before, line in lines)
    count = len(found.problems)
    return text + (f"{humanize.count(count, 'error')}.\n" if count else "No errors.\n")


def _override(each: Override) -> str:
    by = "the flag" if each.by == "flag" else each.by
    return f"'{each.key}' ({each.source}) is ignored: {by} takes precedence"


async def _init(context: Context, output: str | None) -> int:
    from cesbr.config_template import filled_in, values_of

    session = context.session
    file = Path(absolute_path(output)) if output is not None else _default_file(context)
    values = values_of(session.flags)
    _write(file, filled_in(values))
    await context.out.result(
        {"path": str(file), "settings": sorted(values)},
        f"Wrote {show(os.fsencode(file))}. Edit it, then run 'cesbr config check'.\n",
    )
    return 0


def _default_file(context: Context) -> Path:
    """Return the file that is read: the named one, the system's for root, or the user's own."""
    environ = context.session.environ
    if named := named_file(context.session.flags, environ):
        return named
    return SYSTEM_CONFIG if os.geteuid() == 0 else usual_files(environ)[0]


def _write(file: Path, text: str) -> None:
    """Write a new file with mode 0600; CesbrError if it exists or cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
        except BaseException:
            file.unlink()
            raise
    except FileExistsError:
        raise CesbrError(
            f"{file} exists and was not changed. Remove it first, or pass another file with"
            " --output."
        ) from None
    except OSError as error:
        raise CesbrError(
            f"{file} cannot be written: {error.strerror}. Pass another file with --output."
        ) from error


COMMANDS: Final = (
    Command(
        "config",
        "Check the settings, or write a settings file.",
        "config check",
        _arguments,
        _config,
        "'config check' lists unknown keys, invalid values and values that others override, each"
        " with its source, and exits with 2 if there are errors.  'config init' writes a commented"
        " settings file with the given --repo, --password-file, --registry, --root, --patience and"
        " --no-init filled in; it never replaces a file.",
    ),
)
