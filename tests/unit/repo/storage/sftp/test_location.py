"""Addresses and commands of SFTP repositories are parsed as in restic."""

from __future__ import annotations

import pytest

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.sftp.location import SftpAddress, command_option, parse_sftp, ssh_command
from cesbrfs.repo.storage.sftp.storage import SftpStorage
from cesbrfs.util.secret import Secret

HERE = SftpAddress("host", "/x")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sftp:host:/srv/repo", SftpAddress("host", "/srv/repo")),
        ("sftp:user@host:/srv//repo/", SftpAddress("host", "/srv/repo", "user")),
        ("sftp:user@host:repo", SftpAddress("host", "repo", "user")),
        ("sftp:user@host:", SftpAddress("host", ".", "user")),
        ("sftp:user@domain@host:a:b", SftpAddress("host", "a:b", "user@domain")),
        ("sftp:user@host://x", SftpAddress("host", "/x", "user")),
        ("sftp://host/repo", SftpAddress("host", "repo")),
        ("sftp://user@host//srv/repo", SftpAddress("host", "/srv/repo", "user")),
        ("sftp://user@Host:2222/repo", SftpAddress("Host", "repo", "user", "2222")),
        ("sftp://u%40d:secret@host/a%20b", SftpAddress("host", "a b", "u@d")),
        ("sftp://user@[::1]:22//srv", SftpAddress("::1", "/srv", "user", "22")),
        ("sftp://[FE80::1%25eth0]//srv", SftpAddress("FE80::1%eth0", "/srv")),
        ("sftp://host/", SftpAddress("host", ".")),
    ],
)
def test_addresses(url: str, expected: SftpAddress) -> None:
    """Both forms of restic."""
    assert parse_sftp(url) == expected


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sftp:", "host"),
        ("sftp:host", "directory"),
        ("sftp::/x", "host"),
        ("sftp:user@:/x", "host"),
        ("sftp://host", "directory"),
        ("sftp:///x", "host"),
        ("sftp://host:port/x", "Invalid repository address"),
        ("sftp://host/x?y", "%3F"),
        ("sftp:host:~/x", "~"),
        ("sftp:[::1]:/x", r"\[::1\]:22"),
        ("sftp:-oProxyCommand=evil:/x", "not a host name"),
    ],
)
def test_what_is_no_address(url: str, hint: str) -> None:
    """The error shows the valid form, before any command is started."""
    with pytest.raises(UsageError, match=hint):
        SftpStorage.from_access(Access(url, Secret(b"key")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b\t c", ["a", "b", "c"]),
        ('a -oX="b c" d', ["a", "-oX=", "b c", "d"]),
        ('\'it"s\' "\\\\q" x\\ y e\\"f', ['it"s', "\\\\q", "x", "y", "e", '"f']),
        ('a,b "" c', ["a,b", "c"]),
        ('"a\\" b" c', ['a\\" b', "c"]),
        ("x'y'z w\u00a0v", ["x", "y", "z", "w", "v"]),
    ],
)
def test_commands_are_split_as_restic_splits_them(text: str, words: list[str]) -> None:
    """Expected values are from restic 0.14 and 0.19, which differ from a shell."""
    assert ssh_command(HERE, {"sftp.command": text}) == words


def test_the_command_is_restics_own() -> None:
    """Host first, then port and user, then the user's arguments."""
    address = SftpAddress("host", "/x", "user", "2222")
    assert ssh_command(address, {}) == ["ssh", "host", "-p", "2222", "-l", "user", "-s", "sftp"]
    found = ssh_command(address, {"sftp.args": "-v -i 'my key'"})
    assert found == ["ssh", "host", "-p", "2222", "-l", "user", "-v", "-i", "my key", "-s", "sftp"]


@pytest.mark.parametrize("args", ["-v", "-i 'my key'", '-o "A=b c" -4'])
@pytest.mark.parametrize("user", ["", "user", "two words"])
def test_arguments_as_a_command(args: str, user: str) -> None:
    """A restic without sftp.args gets a command that splits into the same words."""
    address = SftpAddress("host", "/x", user, "22")
    option = command_option(address, args)
    assert ssh_command(address, {"sftp.command": option}) == ssh_command(
        address, {"sftp.args": args}
    )


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"sftp.command": "ssh", "sftp.args": "-v"}, "both be set"),
        ({"sftp.command": "ssh 'x"}, "quote.*sftp.command"),
        ({"sftp.args": '"x'}, "quote.*sftp.args"),
        ({"sftp.command": " "}, "no command"),
        ({"sftp.connections": "0"}, "sftp.connections"),
        ({"sftp.connections": "many"}, "sftp.connections"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, str], hint: str) -> None:
    """The error names the option."""
    with pytest.raises(UsageError, match=hint):
        SftpStorage.from_access(Access("sftp:host:/x", Secret(b"key"), options))


def test_a_name_that_no_command_can_hold() -> None:
    """An error is better than a login as another user."""
    with pytest.raises(UsageError, match="passed to ssh"):
        command_option(SftpAddress("host", "/x", 'a"b'), "-v")
