"""Interpretation of restic's error messages in each supported version."""

from __future__ import annotations

import pytest

from cesbrfs.errors import (
    BucketMissingError,
    CesbrError,
    InterruptedByUserError,
    RepositoryDamagedError,
    RepositoryDeniedError,
    RepositoryLockedError,
    RepositoryMissingError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    ResticError,
    StorageError,
    UsageError,
    WrongKeyError,
)
from cesbrfs.restic import Version, classify
from cesbrfs.restic.errors import is_hopeless

OLD = Version(0, 14, 0)
NEW = Version(0, 18, 0)
URL = "the-address"

FRAME = "Fatal: unable to open config file: {}\nIs there a repository at the following location?\nX"
FRAME_10 = (
    "Fatal: repository does not exist: unable to open config file: {}\n"
    "Is there a repository at the following location?\nX"
)
FAILED = "Stat(<config/>) failed: {0}\n" + FRAME.replace("{}", "{0}")
OPEN = "Fatal: unable to open repository at X: {}"
LOCK = (
    "unable to create lock in backend: repository is already locked {}by PID 9345 on vm by root"
    " (UID 0, GID 0)\nlock was created at 2026-11-23 01:57:27 (555.982411ms ago)\n"
    "storage ID 3d4b3821\nthe `unlock` command can be used to remove stale locks"
)
STACK = (
    "\nmain.open\n\tgithub.com/restic/restic/cmd/restic/global.go:760\nruntime.goexit\n\ta.s:1594"
)

NOT_FOUND = {
    "local": "stat /srv/repo: a/config: no such file or directory",
    "sftp": "Lstat: file does not exist",
    "rest": "<config/> does not exist",
    "s3": "Stat: The specified key does not exist.",
    "s3-short": "The specified key does not exist.",
}
REFUSED = {
    "local": "stat /srv/repo/config: permission denied",
    "sftp": "Lstat: permission denied",
    "rest-401": "unexpected HTTP response (401): 401 Unauthorized",
    "rest-403": "unexpected HTTP response (403): 403 Forbidden",
    "s3": "Stat: Access Denied.",
    "s3-key": "Stat: The Access Key Id you provided does not exist in our records."
    " InvalidAccessKeyId",
    "s3-key-only-told": "Stat: The access key ID you provided does not exist in our records.",
    "s3-secret": "Stat: The request signature we calculated does not match the signature you"
    " provided. Check your key and signing method.",
    "s3-none": "s3.getCredentials: no credentials found. Use `-o s3.unsafe-anonymous-auth=true` for"
    " anonymous authentication",
    "client's certificate": 'Head "https://127.0.0.1:1/config": remote error: tls: bad certificate',
}
UNTRUSTED = {
    "old": 'client.Head: Head "https://h/config": x509: certificate signed by unknown authority',
    "new": 'Stat: Get "https://h/b/?location=": tls: failed to verify certificate: x509:'
    " certificate signed by unknown authority",
    "ssh": "unable to start the sftp session. Host key verification failed.",
}
DEAD = {
    "refused": 'client.Head: Head "http://127.0.0.1:1/config": dial tcp 127.0.0.1:1: connect:'
    " connection refused",
    "name": 'client.Head: Head "http://x/config": dial tcp: lookup x on 10.0.0.1:53: no such host',
    "rest-500": "unexpected HTTP response (500): 500 Internal Server Error",
    "socket": "dial unix /run/x.sock: connect: no such file or directory",
    "unknown": "something that no version has said so far",
}


@pytest.mark.parametrize("reason", NOT_FOUND.values(), ids=NOT_FOUND)
def test_missing_is_told_by_text_in_the_old_and_by_code_in_the_new_version(reason: str) -> None:
    """Both raise the error for a missing repository, with exit code 10 and the address."""
    for version, code, frame in ((OLD, 1, FRAME), (NEW, 10, FRAME_10)):
        error = classify(version, code, frame.format(reason), URL)
        assert type(error) is RepositoryMissingError
        assert error.exit_code == 10
        assert URL in error.message


@pytest.mark.parametrize("version", [OLD, NEW], ids=str)
@pytest.mark.parametrize("frame", [FRAME, FAILED], ids=["old frame", "new frame"])
@pytest.mark.parametrize("reason", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_never_missing(version: Version, frame: str, reason: str) -> None:
    """The text "Is there a repository" after a refusal is ignored."""
    error = classify(version, 1, frame.format(reason), URL)
    assert type(error) is RepositoryDeniedError
    assert reason.rstrip(".") in error.message


@pytest.mark.parametrize("version", [OLD, NEW], ids=str)
@pytest.mark.parametrize(
    "text",
    [
        FRAME.format("Get: x509: certificate signed by unknown authority"),
        "subprocess ssh: Host key verification failed.\n"
        + OPEN.format("unable to start the sftp session, error: EOF"),
    ],
)
def test_a_server_that_is_not_trusted(version: Version, text: str) -> None:
    """It is neither missing nor unreachable: a retry cannot help."""
    error = classify(version, 1, text, URL)
    assert type(error) is RepositoryUntrustedError
    assert is_hopeless(text)


@pytest.mark.parametrize("version", [OLD, NEW], ids=str)
@pytest.mark.parametrize("reason", DEAD.values(), ids=DEAD)
def test_a_dead_connection_is_never_missing(version: Version, reason: str) -> None:
    """The question is also ignored after a timeout or an unknown error."""
    error = classify(version, 1, FRAME.format(reason), URL)
    assert type(error) is RepositoryUnreachableError


@pytest.mark.parametrize("version", [OLD, NEW], ids=str)
@pytest.mark.parametrize("reason", UNTRUSTED.values(), ids=UNTRUSTED)
def test_who_is_not_trusted_is_never_missing(version: Version, reason: str) -> None:
    """An untrusted certificate or host key; a retry would not help."""
    error = classify(version, 1, FRAME.format(reason), URL)
    assert type(error) is RepositoryUntrustedError
    assert is_hopeless(reason)


@pytest.mark.parametrize("version", [OLD, NEW], ids=str)
def test_no_bucket_is_a_kind_of_missing(version: Version) -> None:
    """It has its own error, so that no bucket is created by accident."""
    reason = "Stat: The specified bucket does not exist"
    error = classify(version, 1, FRAME.format(reason), URL)
    assert type(error) is BucketMissingError
    assert error.exit_code == 10
    assert is_hopeless(reason)


TEXTS: dict[str, tuple[int, str, type[CesbrError]]] = {
    "wrong key": (1, "Fatal: wrong password or no key found", WrongKeyError),
    "locked": (1, LOCK.format(""), RepositoryLockedError),
    "locked exclusively": (1, LOCK.format("exclusively "), RepositoryLockedError),
    "empty key": (1, "Fatal: an empty password is not a password", UsageError),
    "empty key, new": (
        1,
        (
            "Fatal: an empty password is not allowed by default. Pass the flag"
            " `--insecure-no-password` to restic to disable this check"
        ),
        UsageError,
    ),
    "empty config": (
        1,
        "config file has zero size, invalid repository?" + STACK,
        RepositoryDamagedError,
    ),
    "broken config": (
        1,
        "Fatal: config or key 34d7a7 is damaged: ciphertext verification failed",
        RepositoryDamagedError,
    ),
    "broken key file": (
        1,
        "Fatal: Unmarshal: invalid character 'g' looking for beginning of value",
        RepositoryDamagedError,
    ),
    "broken key file, new": (
        1,
        "Fatal: LoadRaw(<key/ccf78af46c>): invalid data returned",
        RepositoryDamagedError,
    ),
    "unreadable config": (
        1,
        (
            "Load(<config/0000000000>, 0, 0) failed: open R/config: permission denied\n"
            "Fatal: config cannot be loaded: open R/config: permission denied"
        ),
        RepositoryDeniedError,
    ),
    "unreadable keys": (
        1,
        OPEN.format("ReadDir: open R2/keys: permission denied"),
        RepositoryDeniedError,
    ),
    "a file": (
        1,
        OPEN.format("ReadDir: open /a/keys: not a directory"),
        RepositoryUnreachableError,
    ),
    "ssh refused": (
        1,
        "subprocess ssh: u@h: Permission denied (publickey).\n"
        + OPEN.format("unable to start the sftp session, error: EOF"),
        RepositoryDeniedError,
    ),
    "ssh dead": (
        1,
        "subprocess ssh: ssh: connect to host h port 22: Connection refused\n"
        + OPEN.format("unable to start the sftp session, error: EOF"),
        RepositoryUnreachableError,
    ),
    "no ssh": (
        1,
        OPEN.format("cmd.Start: fork/exec /nonexistent/ssh: no such file or directory"),
        RepositoryUnreachableError,
    ),
    "no rclone": (
        1,
        OPEN.format('exec: "rclone": executable file not found in $PATH'),
        RepositoryUnreachableError,
    ),
    "bad address": (
        1,
        (
            "Fatal: parsing repository location failed: invalid backend\n"
            "If the repository is in a local directory, you need to add a `local:` prefix"
        ),
        UsageError,
    ),
    "initialised": (
        1,
        "Fatal: create repository at X failed: config file already exists",
        ResticError,
    ),
    "lost its config": (
        1,
        "Fatal: create key in repository at X failed: repository already contains keys",
        ResticError,
    ),
    "no right to create": (
        1,
        "Fatal: create repository at ro/new failed: mkdir ro/new: permission denied",
        RepositoryDeniedError,
    ),
    "full": (1, "Fatal: write /r/data/x: no space left on device", StorageError),
    "interrupted": (130, "signal interrupt received, cleaning up", InterruptedByUserError),
    "killed": (-9, "", ResticError),
    "something else": (1, "Fatal: unknown flag: --nonsense", ResticError),
    "silent": (1, "", ResticError),
}


@pytest.mark.parametrize("version", [OLD, NEW], ids=str)
@pytest.mark.parametrize(("code", "text", "kind"), TEXTS.values(), ids=TEXTS)
def test_each_text_has_its_meaning(
    version: Version, code: int, text: str, kind: type[CesbrError]
) -> None:
    """Only the text decides, whatever the version; the message names the repository."""
    error = classify(version, code, text, URL)
    assert type(error) is kind
    assert URL in error.message or kind is InterruptedByUserError
    assert "\n" not in error.message


def test_the_codes_count_where_the_version_has_them() -> None:
    """10 and 11 since 0.17.0, 12 since 0.17.1, also without a text; not before."""
    kinds = [
        [type(classify(version, code, "", URL)) for code in (10, 11, 12)]
        for version in (Version(0, 16, 5), Version(0, 17, 0), Version(0, 17, 1))
    ]
    assert kinds == [
        [ResticError, ResticError, ResticError],
        [RepositoryMissingError, RepositoryLockedError, ResticError],
        [RepositoryMissingError, RepositoryLockedError, WrongKeyError],
    ]


def test_errors_in_json_read_as_those_in_text() -> None:
    """0.18 prints the reason of a failed --json command as an event on stderr."""
    text = (
        '{"message_type":"exit_error","code":11,"message":"unable to create lock in backend:'
        ' repository is already locked by PID 9558 on vm by root (UID 0, GID 0)\\nlock was"}'
    )
    error = classify(NEW, 11, text, URL)
    assert type(error) is RepositoryLockedError
    assert "by PID 9558 on vm by root" in error.message


def test_a_complaint_about_the_cache_does_not_make_it_a_refusal() -> None:
    """Only the error that ended restic is interpreted."""
    text = "unable to open cache: mkdir /c: permission denied\n" + FRAME.format(NOT_FOUND["local"])
    assert type(classify(OLD, 1, text, URL)) is RepositoryMissingError


def test_an_unreadable_source_does_not_make_it_a_refusal() -> None:
    """Error events of a backup do not count either."""
    text = (
        '{"message_type":"error","error":{"message":"open /a: permission denied"},"item":"/a"}\n'
        "Fatal: unable to save snapshot: unexpected EOF"
    )
    assert type(classify(NEW, 1, text, URL)) is RepositoryUnreachableError


def test_an_interrupted_look_is_never_missing() -> None:
    """`restic` also prints "Is there a repository" if interrupted during its retries."""
    text = (
        "Stat(<config/>) returned error, retrying after 0.8s: unexpected HTTP response (500)\n"
        "\x1b[2Ksignal interrupt received, cleaning up\n" + FRAME.format("context canceled")
    )
    assert type(classify(NEW, 1, text, URL)) is RepositoryUnreachableError
