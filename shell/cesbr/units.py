"""Install and remove generated systemd units."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbrfs.config.layers import absolute_path
from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.util.environment import public_environment

if TYPE_CHECKING:
    from cesbr.session import Context

UNIT_DIR: Final = Path("/etc/systemd/system")
SYSTEMD: Final = Path("/run/systemd/system")
"""A directory that exists while systemd is running."""
_SYSTEMCTL_SECONDS: Final = 120.0


def unit_directory(given: str | None) -> tuple[Path, bool]:
    """Return the directory of units, and whether systemd is running and reads it."""
    if given:
        return Path(absolute_path(given)), False
    return UNIT_DIR, SYSTEMD.is_dir()


def program(name: str) -> list[str]:
    """Return the command of ``cesbr`` or ``cesbrfs``, with an absolute path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    return [found] if found else [sys.executable, "-m", name]


def setting_flags(context: Context) -> list[str]:
    """Return the settings passed as options, which the units pass as well.

    Raises UsageError for an address with a password.
    """
    given = context.session.flags
    for address in (given.repository, given.registry):
        if address is not None:
            refuse_password(address)
    flags: list[str] = []
    for flag, value in (
        ("--repo", _place(given.repository)),
        ("--password-file", _absolute(given.password_file)),
        ("--registry", _place(given.registry)),
        ("--root", _absolute(given.root)),
        ("--config", _absolute(given.config)),
        ("--patience", given.patience),
    ):
        flags += [flag, value] if value is not None else []
    return flags


def refuse_password(text: str) -> None:
    """Raise UsageError if `text` contains an address with a password."""
    from cesbrfs.util.secret import redact

    if redact(text) != text:
        raise UsageError(
            f"{redact(text)} contains a password, which every user could read in a unit. Set the"
            " address in the configuration file instead."
        )


async def warn_of_environment(context: Context) -> None:
    """Print which settings come from the environment, which a unit does not have."""
    sources = (await context.session.settings()).sources
    lost = sorted(name for name, source in sources.items() if source.startswith("environment"))
    if lost:
        context.out.note(
            f"The units do not have what is set in the environment here ({', '.join(lost)}). Set it"
            " in the configuration file, or pass options of this command."
        )


def _place(address: str | None) -> str | None:
    """Return an address unchanged, a directory as an absolute path."""
    return address if address is None or ":" in address else _absolute(address)


def _absolute(path: str | None) -> str | None:
    return None if path is None else absolute_path(path)


def write_units(directory: Path, made: Mapping[str, str], mark: str) -> None:
    """Write units; raises UsageError for a unit of another program, CesbrError if it fails.

    `mark` is the first line of units that may be replaced.
    """
    for name in made:
        _require_ours(directory / name, mark)
    try:
        for name, text in made.items():
            beside = directory / f".{name}.new"
            beside.write_text(text)
            beside.chmod(0o644)
            beside.replace(directory / name)
    except OSError as error:
        raise CesbrError(
            f"The units cannot be written to {directory} ({error.strerror}). Run this as root, or"
            " pass another directory with --unit-dir."
        ) from error


def existing_units(directory: Path, names: Collection[str], mark: str) -> list[str]:
    """Return those of `names` that are installed; raises UsageError as `write_units`."""
    there = [name for name in names if (directory / name).exists()]
    for name in there:
        _require_ours(directory / name, mark)
    return there


def remove_units(directory: Path, names: Collection[str]) -> None:
    """Remove units; raises CesbrError if that fails."""
    try:
        for name in names:
            (directory / name).unlink()
    except OSError as error:
        raise CesbrError(
            f"The units cannot be removed from {directory} ({error.strerror}). Run this as root."
        ) from error


def _require_ours(file: Path, mark: str) -> None:
    if (text := unit_text(file)) is not None and not text.startswith(mark):
        maker = mark.split("'")[1]
        raise UsageError(f"{file} was not made by '{maker}'. Move it to another directory first.")


def unit_text(file: Path) -> str | None:
    """Return the content of a unit, None if it does not exist."""
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return None


async def systemctl(*arguments: str) -> None:
    """Run systemctl with `arguments`; raises CesbrError with its message if it fails."""
    import trio

    shown = f"systemctl {' '.join(arguments)}"
    try:
        with trio.fail_after(_SYSTEMCTL_SECONDS):
            done = await trio.run_process(
                ["systemctl", *arguments],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=public_environment(os.environ),
            )
    except OSError as error:
        raise CesbrError(
            f"{shown} could not be run ({error.strerror}). Run this as root."
        ) from error
    except trio.TooSlowError as error:
        raise CesbrError(f"{shown} did not end within {_SYSTEMCTL_SECONDS:.0f} s.") from error
    if done.returncode:
        report = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise CesbrError(f"{shown} failed: {report.splitlines()[-1].rstrip('.')}.")
