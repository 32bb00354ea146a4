"""Classify failures of ssh and of the SFTP server. Pure.

The patterns match messages of OpenSSH's client, because ssh exits with 255 for every failure.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from cesbrfs.errors import (
    NO_RESPONSE,
    TIMED_OUT,
    UNKNOWN_HOST,
    UNREACHABLE,
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
            "The host key of the server of {display_url} has changed or was revoked: the server"
            " was reinstalled, or the connection is being intercepted. If the new key is correct,"
            " remove the old one with 'ssh-keygen -R' and add the new one to known_hosts."
        ),
    ),
    (
        re.compile(r"Host key verification failed|No \S+ host key is known for", _I),
        RepositoryUntrustedError,
        (
            "Unknown host key of the server of {display_url}: {reason}. Log in once with ssh as"
            " this user, or add the key to known_hosts."
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
            "Invalid ssh configuration for {display_url}: {reason}. Correct 'sftp.command',"
            " 'sftp.args' or ssh_config."
        ),
    ),
    (
        re.compile(r"Could not resolve hostname|Name or service not known"),
        RepositoryUnreachableError,
        UNKNOWN_HOST,
    ),
    (
        re.compile(r"timed out|Timeout, server", _I),
        RepositoryTimedOutError,
        TIMED_OUT,
    ),
    (
        re.compile(r"subsystem request failed|sftp-server: (?:command )?not found"),
        RepositoryDeniedError,
        ("SFTP is not enabled at {display_url} for this user: {reason}. Enable it on the server."),
    ),
    (
        re.compile(
            r"Connection (?:refused|reset|closed)|No route to host|unreachable|kex_exchange"
            r"|Unable to negotiate|closed by remote host|Broken pipe|banner exchange|Bad packet",
            _I,
        ),
        RepositoryUnreachableError,
        UNREACHABLE,
    ),
    (
        re.compile(
            r"Permission denied \(|Too many authentication failures"
            r"|No supported authentication methods|(?:account|password) (?:has )?expired",
            _I,
        ),
        RepositoryDeniedError,
        (
            "Authentication failed at {display_url}: {reason}. Check the user name, and use an"
            " agent or a key without a passphrase."
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
    how = "was killed" if exit_code is None or exit_code < 0 else f"exited with code {exit_code}"
    reason = _printable(rest[-1]) if rest else f"its command {how}"
    return RepositoryUnreachableError(UNREACHABLE.format(display_url=display_url, reason=reason))


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
        f"The server of {display_url} does not speak SFTP: it sent {line[:60]!r}. Make sure that"
        " the login scripts of its shell print nothing."
    )


def refused(status: SftpStatus, path: str, display_url: str) -> CesbrError:
    """Return the error for a STATUS other than OK about `path`."""
    if status.code == Code.NO_SUCH_FILE:
        return FileMissingError(f"{path} does not exist in {display_url}.")
    if status.code == Code.PERMISSION_DENIED:
        return RepositoryDeniedError(
            f"Permission denied by the server of {display_url}: {path}. Give the SFTP user"
            " permission to read it."
        )
    reason = "".join(char for char in status.message if char.isprintable())[:_MESSAGE_CHARACTERS]
    return StorageError(
        f"Cannot read {path} in {display_url}: {reason or f'status {status.code}'}. Check the disk"
        " of the server."
    )


def timed_out(seconds: float, display_url: str) -> CesbrError:
    """Return the error for a server that has sent nothing for `seconds`."""
    return RepositoryTimedOutError(NO_RESPONSE.format(display_url=display_url, seconds=seconds))


def unusable(command: str, error: OSError, display_url: str) -> CesbrError:
    """Return the error for a command that cannot be started."""
    return UsageError(
        f"Cannot start {command!r} for {display_url}: {error.strerror}. Install the package"
        " openssh-client, or correct the option 'sftp.command'."
    )
