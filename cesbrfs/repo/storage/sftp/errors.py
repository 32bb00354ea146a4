"""Classify failures of ssh and of the SFTP server. Pure.

The patterns match messages of OpenSSH's client, because ssh exits with 255 for every failure.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from cesbrfs.errors import (
    CesbrError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    StorageError,
    UsageError,
)
from cesbrfs.repo.storage.sftp.protocol import Code, SftpStatus

_MESSAGE_CHARACTERS: Final = 200
"""Maximum number of characters of ssh's or the server's text in a message."""
_NOISE: Final = re.compile(
    r"debug\d: |Warning: |Authenticated to |Transferred: |Bytes per second: "
)

_I = re.IGNORECASE
_KINDS: Final[tuple[tuple[re.Pattern[str], type[CesbrError], str], ...]] = (
    (
        re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* revoked", _I),
        RepositoryUntrustedError,
        (
            "The server of the repository at {display_url} shows another host key than the one that"
            " is known: it was set up again, or the connection is being intercepted; if the new"
            " key is"
            " right, take the old one out of known_hosts with 'ssh-keygen -R' and add the new"
            " one."
        ),
    ),
    (
        re.compile(r"Host key verification failed|No \S+ host key is known for", _I),
        RepositoryUntrustedError,
        (
            "The host key of the repository at {display_url} is not known ({reason}); log in once"
            " by ssh as this user, or add the key to known_hosts."
        ),
    ),
    (
        re.compile(
            r"Bad configuration option|Can't open user config file|unknown option|^usage: ssh"
            r"|Bad owner or permissions on \S*config|command-line(?: line \d+)?: "
            r"|unsupported option|Bad port|invalid option",
            _I | re.MULTILINE,
        ),
        UsageError,
        (
            "ssh cannot be used for {display_url} as it is configured ({reason}); correct"
            " 'sftp.command', 'sftp.args' or ssh_config."
        ),
    ),
    (
        re.compile(r"Could not resolve hostname|Name or service not known"),
        RepositoryUnreachableError,
        (
            "The host of the repository at {display_url} is not known ({reason}); correct the"
            " address, or check the name server."
        ),
    ),
    (
        re.compile(r"timed out|Timeout, server", _I),
        RepositoryTimedOutError,
        (
            "The server of the repository at {display_url} does not answer in time ({reason});"
            " check the address and the connection."
        ),
    ),
    (
        re.compile(r"subsystem request failed|sftp-server: (?:command )?not found"),
        RepositoryDeniedError,
        (
            "The server of the repository at {display_url} offers no SFTP ({reason}); have it"
            " allowed there for this user."
        ),
    ),
    (
        re.compile(
            r"Connection (?:refused|reset|closed)|No route to host|unreachable|kex_exchange"
            r"|Unable to negotiate|closed by remote host|Broken pipe|banner exchange|Bad packet",
            _I,
        ),
        RepositoryUnreachableError,
        (
            "The repository at {display_url} cannot be reached ({reason}); check the address and"
            " the connection."
        ),
    ),
    (
        re.compile(
            r"Permission denied \(|Too many authentication failures"
            r"|No supported authentication methods|(?:account|password) (?:has )?expired",
            _I,
        ),
        RepositoryDeniedError,
        (
            "The server of the repository at {display_url} does not let this user in ({reason});"
            " check the user's name and the key, which must be usable without a question: from an"
            " agent, or without a passphrase."
        ),
    ),
)
"""The first match applies. ssh may complain about keys before a connection fails altogether."""


def ssh_failure(stderr: str, exit_code: int | None, display_url: str) -> CesbrError:
    """Return the error for the end of the command that connects to `display_url`.

    `stderr` is the last part of its stderr. `exit_code` is None if the command had to be killed.
    """
    lines = [line for part in stderr.splitlines() if (line := part.strip())]
    for pattern, kind, sentence in _KINDS:
        if matching := [line for line in lines if pattern.search(line)]:
            return kind(sentence.format(display_url=display_url, reason=_printable(matching[-1])))
    rest = [line for line in lines if not _NOISE.match(line)]
    how = "was killed" if exit_code is None or exit_code < 0 else f"ended with code {exit_code}"
    reason = _printable(rest[-1]) if rest else f"its command {how}"
    return RepositoryUnreachableError(
        f"The repository at {display_url} cannot be reached ({reason}); check the address and the"
        " connection."
    )


def _printable(line: str) -> str:
    return "".join(char for char in line if char.isprintable())[:_MESSAGE_CHARACTERS].rstrip(". ")


def text_of(path: bytes) -> str:
    """Return a path on the server as text for messages."""
    return posixpath.normpath(path.decode("utf-8", "backslashreplace"))


def not_sftp(start: bytes, display_url: str) -> CesbrError:
    """Return the error for a server that sends `start` instead of SFTP."""
    text = start.decode("utf-8", "replace").strip()
    line = "".join(char for char in text.splitlines()[0] if char.isprintable()) if text else ""
    return StorageError(
        f"The server of the repository at {display_url} does not speak SFTP (it sends"
        f" {line[:60]!r}); the start files of its shell must print nothing."
    )


def refused(status: SftpStatus, path: str, display_url: str) -> CesbrError:
    """Return the error for a STATUS other than OK about `path`."""
    if status.code == Code.NO_SUCH_FILE:
        return FileMissingError(f"{path} does not exist in {display_url}.")
    if status.code == Code.PERMISSION_DENIED:
        return RepositoryDeniedError(
            f"The repository at {display_url} cannot be read: permission denied on {path}; give"
            " the user that logs in there the right to read it."
        )
    reason = "".join(char for char in status.message if char.isprintable())[:_MESSAGE_CHARACTERS]
    return StorageError(
        f"{path} cannot be read in {display_url} ({reason or f'status {status.code}'}); check"
        " the disk of that server."
    )


def timed_out(seconds: float, display_url: str) -> CesbrError:
    """Return the error for a server that has sent nothing for `seconds`."""
    return RepositoryTimedOutError(
        f"The server of the repository at {display_url} has not answered for {seconds:g} s; check"
        " the server and the connection."
    )


def unusable(command: str, error: OSError, display_url: str) -> CesbrError:
    """Return the error for a command that cannot be started."""
    return UsageError(
        f"{command!r}, which connects to {display_url}, cannot be started ({error.strerror});"
        " install the package openssh-client, or correct the option 'sftp.command'."
    )
