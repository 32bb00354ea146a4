"""What a failure of ssh, or of the SFTP server, means; pure.

The texts are those of OpenSSH's client; ssh has one exit code, 255, for all of them.
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

_SAID: Final = 200
"""Characters of the program's own words that go into a message."""
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
            "The host key of the repository at {display_url} is not known ({told}); log in once by"
            " ssh as this user, or add the key to known_hosts."
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
            "ssh cannot be used for {display_url} as it is configured ({told}); correct"
            " 'sftp.command', 'sftp.args' or ssh_config."
        ),
    ),
    (
        re.compile(r"Could not resolve hostname|Name or service not known"),
        RepositoryUnreachableError,
        (
            "The host of the repository at {display_url} is not known ({told}); correct the"
            " address, or check the name server."
        ),
    ),
    (
        re.compile(r"timed out|Timeout, server", _I),
        RepositoryTimedOutError,
        (
            "The server of the repository at {display_url} does not answer in time ({told}); check"
            " the address and the connection."
        ),
    ),
    (
        re.compile(r"subsystem request failed|sftp-server: (?:command )?not found"),
        RepositoryDeniedError,
        (
            "The server of the repository at {display_url} offers no SFTP ({told}); have it allowed"
            " there for this user."
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
            "The repository at {display_url} cannot be reached ({told}); check the address and the"
            " connection."
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
            "The server of the repository at {display_url} does not let this user in ({told});"
            " check the user's name and the key, which must be usable without a question: from an"
            " agent, or without a passphrase."
        ),
    ),
)
"""The first that fits.  ssh complains about keys, too, before it cannot connect at all."""


def ssh_failure(said: str, exit_code: int | None, display_url: str) -> CesbrError:
    """Return what it means that the command behind `display_url` ended.

    `said` is what it wrote to its standard error, `exit_code` None when it had to be killed.
    """
    lines = [line for part in said.splitlines() if (line := part.strip())]
    for pattern, kind, sentence in _KINDS:
        if found := [line for line in lines if pattern.search(line)]:
            return kind(sentence.format(display_url=display_url, told=_told(found[-1])))
    rest = [line for line in lines if not _NOISE.match(line)]
    how = "was killed" if exit_code is None or exit_code < 0 else f"ended with code {exit_code}"
    told = _told(rest[-1]) if rest else f"its command {how}"
    return RepositoryUnreachableError(
        f"The repository at {display_url} cannot be reached ({told}); check the address and the"
        " connection."
    )


def _told(line: str) -> str:
    return "".join(char for char in line if char.isprintable())[:_SAID].rstrip(". ")


def text_of(path: bytes) -> str:
    """Return a path on the server as it is shown."""
    return posixpath.normpath(path.decode("utf-8", "backslashreplace"))


def not_sftp(start: bytes, display_url: str) -> CesbrError:
    """Return what it means that a server begins with `start` in place of SFTP."""
    text = start.decode("utf-8", "replace").strip()
    line = "".join(char for char in text.splitlines()[0] if char.isprintable()) if text else ""
    return StorageError(
        f"The server of the repository at {display_url} does not speak SFTP (it sends"
        f" {line[:60]!r}); the start files of its shell must print nothing."
    )


def refused(status: SftpStatus, path: str, display_url: str) -> CesbrError:
    """Return what a STATUS other than OK means for `path`."""
    if status.code == Code.NO_SUCH_FILE:
        return FileMissingError(f"{path} does not exist in {display_url}.")
    if status.code == Code.PERMISSION_DENIED:
        return RepositoryDeniedError(
            f"The repository at {display_url} cannot be read: permission denied on {path}; give"
            " the user that logs in there the right to read it."
        )
    reason = "".join(char for char in status.message if char.isprintable())[:_SAID]
    return StorageError(
        f"{path} cannot be read in {display_url} ({reason or f'status {status.code}'}); check"
        " the disk of that server."
    )


def timed_out(seconds: float, display_url: str) -> CesbrError:
    """Return the error for a server that was silent for so long."""
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
