"""Interpretation of messages from ssh and SFTP servers, with texts of OpenSSH."""

from __future__ import annotations

import errno

import pytest

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
from cesbrfs.repo.storage.sftp.errors import not_sftp, refused, ssh_failure
from cesbrfs.repo.storage.sftp.protocol import SftpStatus
from cesbrfs.repo.storage.sftp.ssh import ssh_environment

BOX = "@" * 59
CHANGED = f"""{BOX}
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
{BOX}
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Offending ED25519 key in /root/.ssh/known_hosts:1
Host key for [127.0.0.1]:2222 has changed and you have requested strict checking.
Host key verification failed.
"""
UNKNOWN = """No ED25519 host key is known for [::1]:2222 and you have requested strict checking.
Host key verification failed.
"""
BANNER = "Authorised use only.\nPermission denied to everybody else.\n"


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        (CHANGED, RepositoryUntrustedError, "host key"),
        (UNKNOWN, RepositoryUntrustedError, "known_hosts"),
        ("root@h: Permission denied (publickey,password).", RepositoryDeniedError, "agent"),
        ("Received disconnect from ::1 port 22:2: Too many authentication failures",
         RepositoryDeniedError, "Too many"),
        ("subsystem request failed on channel 0", RepositoryDeniedError, "not enabled"),
        ("ssh: Could not resolve hostname nas: Name or service not known",
         RepositoryUnreachableError, "Cannot resolve"),
        ("ssh: connect to host nas port 22: Connection refused",
         RepositoryUnreachableError, "Connection refused"),
        ("ssh: connect to host nas port 22: No route to host",
         RepositoryUnreachableError, "No route"),
        ("ssh: connect to host nas port 22: Connection timed out",
         RepositoryTimedOutError, "timed out"),
        ("Timeout, server nas not responding.", RepositoryTimedOutError, "timed out"),
        (("kex_exchange_identification: Connection closed by remote host\n"
         "Connection closed by 127.0.0.1 port 22"), RepositoryUnreachableError, "closed"),
        (BANNER + "client_loop: send disconnect: Broken pipe",
         RepositoryUnreachableError, "Broken pipe"),
        ('Load key "/k": Permission denied\nssh: connect to host nas port 22: Connection refused',
         RepositoryUnreachableError, "refused"),
        ("command-line: line 0: Bad configuration option: nosuch", UsageError, "nosuch"),
        ("Can't open user config file /x: No such file or directory", UsageError, "/x"),
        ("debug1: Connection refused? no\nsomething new", RepositoryUnreachableError, "."),
        ("", RepositoryUnreachableError, "code 255"),
    ],
)  # fmt: skip
def test_what_ssh_says(said: str, kind: type[CesbrError], hint: str) -> None:
    """Each has its error class, and a message with the repository and what to do."""
    error = ssh_failure(said, 255, "sftp:nas:/x")
    assert type(error) is kind
    assert hint in error.message
    assert "sftp:nas:/x" in error.message
    assert "\n" not in error.message


def test_a_command_that_was_killed_or_never_ends() -> None:
    """There is a message even if ssh printed nothing."""
    for code in (-9, None):
        assert "was killed" in ssh_failure("", code, "sftp:nas:/x").message


def test_what_is_said_stays_short_and_printable() -> None:
    """Server text is escaped and truncated."""
    message = ssh_failure("\x1b[2Jbad " * 300, 255, "sftp:nas:/x").message
    assert "\x1b" not in message
    assert len(message) < 400


def test_a_server_that_sends_text() -> None:
    """The usual cause is a shell startup file that prints text, so the text is shown."""
    error = not_sftp(b"Last login: today\n\x1b", "sftp:nas:/x")
    assert "'Last login: today'" in error.message
    assert "sftp:nas:/x" in not_sftp(b"", "sftp:nas:/x").message


@pytest.mark.parametrize(
    ("status", "kind", "number"),
    [
        (SftpStatus(2, "No such file"), FileMissingError, errno.EIO),
        (SftpStatus(3, "Permission denied"), RepositoryDeniedError, errno.EACCES),
        (SftpStatus(4, "Failure"), StorageError, errno.EIO),
        (SftpStatus(4, ""), StorageError, errno.EIO),
    ],
)
def test_what_a_server_refuses(status: SftpStatus, kind: type[CesbrError], number: int) -> None:
    """None of these errors looks like a missing file to a reader of the mount."""
    error = refused(status, "/x/config", "sftp:nas:/x")
    assert type(error) is kind
    assert error.errno == number
    assert "/x/config" in error.message


def test_what_ssh_may_see_of_our_environment() -> None:
    """The agent and the home directory, but no secrets and no askpass program."""
    given = {
        "HOME": "/root", "SSH_AUTH_SOCK": "/agent", "LC_ALL": "de_DE.UTF-8",
        "RESTIC_PASSWORD": "secret", "AWS_SECRET_ACCESS_KEY": "secret", "CESBR_ROOT": "/x",
        "SSH_ASKPASS": "/bin/ask", "SSH_ASKPASS_REQUIRE": "force",
    }  # fmt: skip
    assert ssh_environment(given) == {
        "HOME": "/root",
        "SSH_AUTH_SOCK": "/agent",
        "LC_ALL": "C",
        "SSH_ASKPASS_REQUIRE": "never",
    }
