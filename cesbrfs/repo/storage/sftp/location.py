"""Where an SFTP repository is, and the command that leads there: both as restic reads them.

The forms are those of restic's ``internal/backend/sftp/config.go``, the rules for splitting a
command those of its ``shell_split.go``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from cesbrfs.errors import UsageError

_PLAIN: Final = re.compile(r"[^\s'\"\\]+")
_FORMS: Final = "write it as sftp:user@host:/path or sftp://user@host:port//path"


@dataclass(frozen=True, slots=True)
class SftpAddress:
    """One repository on an SFTP server; a `path` without ``/`` in front starts at the home."""

    host: str
    path: str
    user: str = ""
    port: str = ""


def parse_sftp(url: str) -> SftpAddress:
    """Read ``sftp:user@host:path`` or ``sftp://user@host:port/path``; UsageError for others."""
    found = _from_url(url) if url.startswith("sftp://") else _from_words(url)
    if not found.host:
        raise UsageError(f"The address of the repository names no host; {_FORMS}.")
    if found.host.startswith("-") or any(not char.isprintable() for char in found.host):
        raise UsageError(
            f"{found.host!r} in the repository's address is not a host name; {_FORMS}."
        )
    if found.path.startswith("~"):
        raise UsageError(
            f"The repository's directory {found.path!r} starts with '~', which SFTP servers do not"
            " know; leave '~/' out: a path without '/' in front starts at the home there."
        )
    return found


def _from_url(url: str) -> SftpAddress:
    """Read the form with slashes; a password in it is of no use, as restic has it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError(f"The address of the repository cannot be read; {_FORMS}.") from None
    if not parts.path:
        raise UsageError(f"The address of the repository names no directory; {_FORMS}.")
    if parts.query or parts.fragment:
        raise UsageError(
            "'?' and '#' in the repository's address must be written as %3F and %23, or in the"
            " form sftp:user@host:/path."
        )
    # What urlsplit says is in lower case, but the user's ssh_config may not be.
    written = parts.netloc.rpartition("@")[2]
    start = written.lower().find((host or "").lower())
    return SftpAddress(
        host=unquote(written[start : start + len(host or "")]),
        path=posixpath.normpath(_one_slash(unquote(parts.path)[1:])),
        user=unquote(parts.username or ""),
        port="" if port is None else str(port),
    )


def _from_words(url: str) -> SftpAddress:
    """Read the form as scp has it."""
    target, colon, path = url.removeprefix("sftp:").partition(":")
    user, _, host = target.rpartition("@")
    if not colon:
        raise UsageError(f"The address of the repository names no host or no directory; {_FORMS}.")
    if host.startswith("["):
        raise UsageError(
            "An IPv6 address needs the form with slashes;"
            " write the repository's address as sftp://user@[::1]:22//path."
        )
    return SftpAddress(host=host, path=posixpath.normpath(_one_slash(path)), user=user)


def _one_slash(path: str) -> str:
    """Two leading slashes mean nothing of their own here, as they may for posixpath."""
    return re.sub(r"^//+", "/", path)


def ssh_command(address: SftpAddress, options: Mapping[str, str]) -> list[str]:
    """Return the command that speaks SFTP on its standard input and output.

    `options` are restic's: ``sftp.command`` is the whole command, ``sftp.args`` more arguments
    for ssh.  Raises UsageError where they cannot be used.
    """
    if given := options.get("sftp.command"):
        if options.get("sftp.args"):
            raise UsageError("Of the options 'sftp.command' and 'sftp.args' only one can be set.")
        return _split("sftp.command", given)
    args = options.get("sftp.args", "")
    return [*_to_host(address), *(_split("sftp.args", args) if args else ()), "-s", "sftp"]


def command_option(address: SftpAddress, args: str) -> str:
    """Return the ``sftp.command`` that does what ``sftp.args`` does: 0.14 knows only the first.

    Raises UsageError where the address holds what no such command can.
    """
    _split("sftp.args", args)
    return " ".join([*(_quoted(word) for word in _to_host(address)), args, "-s", "sftp"])


def _to_host(address: SftpAddress) -> list[str]:
    found = ["ssh", address.host]
    if address.port:
        found += ["-p", address.port]
    if address.user:
        found += ["-l", address.user]
    return found


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    if '"' in word or "\\" in word:
        raise UsageError(f"{word!r} in the repository's address cannot be handed to ssh.")
    return f'"{word}"'


def _split(option: str, text: str) -> list[str]:
    """Split a command into its words."""
    splitter = _Splitter()
    words = list(splitter.words(text))
    if splitter.quote:
        raise UsageError(f"The option '{option}' has a quote that does not end; correct it.")
    if not words:
        raise UsageError(f"The option '{option}' names no command; correct it.")
    return words


class _Splitter:
    """Quotes only keep spaces together: they end a word, and a backslash outside them does, too."""

    def __init__(self) -> None:
        self.quote = ""
        self._last = ""

    def words(self, text: str) -> Iterator[str]:
        """Give one word after the other."""
        start = -1
        for place, char in enumerate(text):
            if self._splits(char):
                if start >= 0:
                    yield text[start:place]
                start = -1
            elif start < 0:
                start = place
        if start >= 0:
            yield text[start:]

    def _splits(self, char: str) -> bool:
        if self._last != "\\":
            if self.quote and char == self.quote:
                self.quote = ""
                return True
            if not self.quote and char in "\"'":
                self.quote = char
                return True
        self._last = char
        return not self.quote and (char == "\\" or char.isspace())
