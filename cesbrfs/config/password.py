"""Where the encryption key is obtained: a value, a file, or what a command prints.

Files and commands are trimmed as restic trims them, a value is used byte for byte.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cesbrfs.errors import UsageError
from cesbrfs.util.secret import Secret

PASSED_FD: Final = "CESBR_PASSWORD_FD"
"""Variable with the descriptor from which the mount program reads the key that it is passed."""
NO_PASSWORD: Final = "Repositories without a password (--insecure-no-password) are not supported."  # noqa: S105 - a sentence

# What Go's strings.TrimSpace removes, with which restic reads password files and commands.
_GO_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


@dataclass(frozen=True, slots=True)
class Password:
    """Where the encryption key comes from: exactly one of the three."""

    file: Path | None = None
    command: str | None = field(default=None, repr=False)
    value: Secret | None = None

    def obtain_nowait(self) -> Secret | None:
        """Return the key if it needs no waiting; pipes and errors are left to `obtain`."""
        if self.value is None and self.file is not None and self.file.is_file():
            try:
                return Secret(read_text(self.file, "password file"))
            except UsageError:
                return None
        return self.value

    async def obtain(self, source: str) -> Secret:
        """Return the key; UsageError, which names `source`, when it cannot be had."""
        if self.value is not None:
            return self.value
        import trio

        if self.file is not None:
            text = await trio.to_thread.run_sync(read_text, self.file, f"password file ({source})")
        else:
            text = await _run_command(self.command or "", source)
        if not text:
            empty = "file is empty" if self.file is not None else "command printed nothing"
            raise UsageError(f"The password {empty} ({source}). {NO_PASSWORD}")
        return Secret(text)


def with_passed_password(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Read the key from the descriptor in `PASSED_FD`, if set, and return it as RESTIC_PASSWORD.

    The key is used byte for byte, and the result is never the environment of a process.
    """
    number = environ.get(PASSED_FD, "")
    if not number.isdecimal():
        return environ
    try:
        with open(int(number), "rb") as file:
            key = file.read()
    except OSError as error:
        raise UsageError(
            f"Cannot read the key from the descriptor in {PASSED_FD}: {error.strerror}. Unset it."
        ) from None
    return {**environ, "RESTIC_PASSWORD": os.fsdecode(key)}


def read_text(file: Path, what: str) -> bytes:
    """Read a password or repository file as restic does: marks and outer white space removed."""
    try:
        data = file.read_bytes()
    except OSError as error:
        is_path = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        remedy = "Correct the path" if is_path else "Check its permissions"
        raise UsageError(f"Cannot read the {what} {file}: {error.strerror}. {remedy}.") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    return _trim(data.removeprefix(codecs.BOM_UTF8))


def _trim(data: bytes) -> bytes:
    text = data.decode("utf-8", "surrogateescape").strip(_GO_SPACE)
    return text.encode("utf-8", "surrogateescape")


async def _run_command(command: str, source: str) -> bytes:
    """Return what a password command prints; like restic's, it runs without a shell."""
    import shlex

    import trio

    from cesbrfs.util.environment import without_password

    try:
        done = await trio.run_process(
            shlex.split(command), capture_stdout=True, check=False, env=without_password(os.environ)
        )
    except (OSError, ValueError) as error:
        # The command itself may hold a secret, so only its source is named.
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"Cannot run the password command ({source}): {reason}. Correct it."
        ) from None
    if done.returncode:
        raise UsageError(
            f"The password command ({source}) failed with exit code {done.returncode}. Run it by"
            " hand to see the error."
        )
    return _trim(done.stdout)
