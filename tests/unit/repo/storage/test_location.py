"""Repository addresses are parsed as in restic."""

from __future__ import annotations

import pytest

from cesbrfs.errors import UsageError
from cesbrfs.repo.storage.location import LocalAddress, RcloneAddress, RestAddress, S3Address
from cesbrfs.repo.storage.registry import parse
from cesbrfs.util.secret import Secret

NOTHING = Secret(b"")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("/srv/backup", LocalAddress("/srv/backup")),
        ("local:/srv/backup", LocalAddress("/srv/backup")),
        ("local:s3:odd", LocalAddress("s3:odd")),
        ("some:thing", LocalAddress("some:thing")),
        ("s3:http://host:9000/bucket", S3Address("http", "host:9000", "bucket", "")),
        ("s3:https://host/bucket/a/b/", S3Address("https", "host", "bucket", "a/b")),
        ("s3:https://host:443/bucket", S3Address("https", "host", "bucket", "")),
        ("s3:http://host/bucket/a%20b", S3Address("http", "host", "bucket", "a b")),
        ("s3:host/bucket/a%20b", S3Address("https", "host", "bucket", "a%20b")),
        ("s3://host/bucket//a//../b", S3Address("https", "host", "bucket", "/b")),
        ("s3:[::1]:8333/bucket", S3Address("https", "[::1]:8333", "bucket", "")),
        ("rest:http://host:8000", RestAddress("http://host:8000/", "", NOTHING)),
        ("rest:https://host/a%20b", RestAddress("https://host/a%20b/", "", NOTHING)),
        ("rest:http://u%2Fs:p%40w@host/", RestAddress("http://host/", "u/s", Secret(b"p@w"))),
        ("rest:http://user@host:80/", RestAddress("http://host/", "user", NOTHING)),
        (
            "rest:http+unix:///run/a.socket:/a%20b",
            RestAddress("http://localhost/a%20b/", "", NOTHING, "/run/a.socket"),
        ),
        (
            "rest:http+unix:///run/a.socket:/",
            RestAddress("http://localhost/", "", NOTHING, "/run/a.socket"),
        ),
        ("rclone:remote:a/b", RcloneAddress("remote:a/b")),
    ],
)
def test_forms(url: str, address: LocalAddress | S3Address | RestAddress | RcloneAddress) -> None:
    """Each form in restic's documentation, with its special cases."""
    assert parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "", "local:", "s3:", "s3:host", "s3:host/", "s3:host/ab", "s3:host/a_bucket?",
        "s3:https:///bucket", "s3:http://h:port/bucket",
        "rest:", "rest:host/path", "rest:http+unix:///socket", "rest:http+unix:socket:/",
        "rest:http+unix://host/socket:/path",
        "rest:http://", "rclone:",
        "rest:http://user:secret@host:port/", "b2:bucket:path", "azure:x:/", "gs:x:/", "swift:x:/",
    ],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    """The message shows the form to write, and never a password."""
    with pytest.raises(UsageError) as raised:
        parse(url)
    assert "secret" not in raised.value.message
    assert raised.value.exit_code == 2
