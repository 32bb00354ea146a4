"""Parse the address of an SFTP repository, and build the command that connects to it.

Sources: restic's ``internal/backend/sftp/config.go`` for addresses, and its ``shell_split.go`` for
splitting a command.
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
_FORMS: Final = "Write it as sftp:user@host:/path or sftp://user@host:port//path"


@dataclass(frozen=True, slots=True)
class SftpAddress:
    """A repository on an SFTP server; a relative `path` starts at the home directory."""

    host: str
    path: str
    user: str = ""
    port: str = ""


def parse_sftp(url: str) -> SftpAddress:
    """Parse ``sftp:user@host:path`` or ``sftp://user@host:port/path``; UsageError if invalid."""
    address = _from_url(url) if url.startswith("sftp://") else _from_words(url)
    if not address.host:
        raise UsageError(f"Invalid repository address: host is missing. {_FORMS}.")
    if address.host.startswith("-") or any(not char.isprintable() for char in address.host):
        raise UsageError(
            f"Invalid repository address: {address.host!r} is not a host name. {_FORMS}."
        )
    if address.path.startswith("~"):
        raise UsageError(
            f"Invalid repository address: '~' in {address.path!r} is not supported. Use a path"
            " relative to the home directory."
        )
    return address


def _from_url(url: str) -> SftpAddress:
    """Parse the URL form; a password is ignored, as in restic."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError(f"Invalid repository address. {_FORMS}.") from None
    if not parts.path:
        raise UsageError(f"Invalid repository address: directory is missing. {_FORMS}.")
    if parts.query or parts.fragment:
        raise UsageError(
            "Invalid repository address: '?' and '#' are not escaped. Write %3F and %23, or use"
            " the form sftp:user@host:/path."
        )
    # urlsplit returns the host in lower case, but host names in ssh_config are case-sensitive.
    written = parts.netloc.rpartition("@")[2]
    start = written.lower().find((host or "").lower())
    return SftpAddress(
        host=unquote(written[start : start + len(host or "")]),
        path=posixpath.normpath(_one_slash(unquote(parts.path)[1:])),
        user=unquote(parts.username or ""),
        port="" if port is None else str(port),
    )


def _from_words(url: str) -> SftpAddress:
    """Parse the form that scp uses."""
    target, colon, path = url.removeprefix("sftp:").partition(":")
    user, _, host = target.rpartition("@")
    if not colon:
        raise UsageError(f"Invalid repository address: host or directory is missing. {_FORMS}.")
    if host.startswith("["):
        raise UsageError(
            "Invalid repository address: an IPv6 host requires the URL form. Write it as"
            " sftp://user@[::1]:22//path."
        )
    return SftpAddress(host=host, path=posixpath.normpath(_one_slash(path)), user=user)


def _one_slash(path: str) -> str:
    """Reduce leading slashes to one; posixpath.normpath keeps two, which POSIX permits."""
    return re.sub(r"^//+", "/", path)


def ssh_command(address: SftpAddress, options: Mapping[str, str]) -> list[str]:
    """Return the command that provides SFTP on its stdin and stdout.

    `options` are restic's: ``sftp.command`` is the complete command, ``sftp.args`` are additional
    arguments for ssh. Raises UsageError if they are invalid or both are set.
    """
    if given := options.get("sftp.command"):
        if options.get("sftp.args"):
            raise UsageError(
                "The options 'sftp.command' and 'sftp.args' cannot both be set. Remove one of them."
            )
        return _split("sftp.command", given)
    args = options.get("sftp.args", "")
    return [*_to_host(address), *(_split("sftp.args", args) if args else ()), "-s", "sftp"]


def command_option(address: SftpAddress, args: str) -> str:
    """Return the ``sftp.command`` that is equivalent to ``sftp.args``, which restic 0.14 lacks.

    Raises UsageError if the address contains characters that cannot be quoted in it.
    """
    _split("sftp.args", args)
    return " ".join([*(_quoted(word) for word in _to_host(address)), args, "-s", "sftp"])


def _to_host(address: SftpAddress) -> list[str]:
    command = ["ssh", address.host]
    if address.port:
        command += ["-p", address.port]
    if address.user:
        command += ["-l", address.user]
    return command


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    if '"' in word or "\\" in word:
        raise UsageError(f"Invalid repository address: {word!r} cannot be passed to ssh.")
    return f'"{word}"'


def _split(option: str, text: str) -> list[str]:
    """Split a command into its words."""
    splitter = _Splitter()
    words = list(splitter.words(text))
    if splitter.quote:
        raise UsageError(f"Unterminated quote in the option '{option}'. Correct it.")
    if not words:
        raise UsageError(f"The option '{option}' contains no command. Correct it.")
    return words


class _Splitter:
    """Splits text into words, as restic does.

    Unlike in a shell, a quote ends a word, and so does a backslash outside quotes.
    """

    def __init__(self) -> None:
        self.quote = ""
        self._last = ""

    def words(self, text: str) -> Iterator[str]:
        """Yield the words; afterwards, `quote` is set if a quote is not closed."""
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
