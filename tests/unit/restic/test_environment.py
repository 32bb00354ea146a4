"""The environment of restic processes: none of the user's settings, the exact key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import Access
from cesbrfs.restic.backup_args import absolute, backup_flags
from cesbrfs.restic.environment import (
    environment,
    flags,
    has_usable_cache,
    inherited,
    is_read_exactly,
    passed_bytes,
    passed_key,
    repository_address,
)
from cesbrfs.util.secret import Secret


def access(url: str = "/srv/repo", **environ: str) -> Access:
    return Access(url, Secret(b"pw"), environment=environ)


def test_the_users_own_restic_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repository, key and host filter of the user must not reach our restic."""
    for name in ("REPOSITORY", "REPOSITORY_FILE", "PASSWORD", "PASSWORD_COMMAND", "HOST", "FOO"):
        monkeypatch.setenv(f"RESTIC_{name}", "theirs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "theirs")
    monkeypatch.setenv("https_proxy", "http://proxy")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    env = environment(access(RESTIC_PASSWORD="theirs", RESTIC_HOST="theirs", AWS_PROFILE="ours"))
    assert "theirs" not in env.values()
    assert env["RESTIC_REPOSITORY"] == "/srv/repo"
    assert env["AWS_PROFILE"] == "ours"
    assert env["https_proxy"] == "http://proxy"
    assert env["SSH_AUTH_SOCK"] == "/agent"
    assert env["LC_ALL"] == "C"
    assert env["PATH"] == os.environ["PATH"]
    assert env["HOME"] == os.environ["HOME"]


def test_the_cache_is_where_we_say(tmp_path: Path) -> None:
    """Our setting overrides the user's RESTIC_CACHE_DIR, which is the default."""
    assert environment(access(), cache_dir=tmp_path)["RESTIC_CACHE_DIR"] == str(tmp_path)
    assert environment(access())["RESTIC_CACHE_DIR"] == os.environ["RESTIC_CACHE_DIR"]


def test_the_cache_is_used_only_where_it_can_be_written(tmp_path: Path) -> None:
    """`restic` 0.19 fails if it cannot create the cache."""
    (tmp_path / "file").touch()
    assert has_usable_cache({"RESTIC_CACHE_DIR": str(tmp_path / "a/b")})
    assert (tmp_path / "a/b").is_dir()
    assert has_usable_cache({"HOME": str(tmp_path / "home")})
    assert has_usable_cache({"HOME": "/nowhere", "XDG_CACHE_HOME": str(tmp_path / "xdg")})
    assert not has_usable_cache({"RESTIC_CACHE_DIR": str(tmp_path / "file/b")})
    assert not has_usable_cache({})


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("rest:http://host:8000/repo/", "rest:http://u%2Fs:p%40w@host:8000/repo/"),
        ("rest:https://host", "rest:https://u%2Fs:p%40w@host"),
        ("rest:http://host/a@b/", "rest:http://u%2Fs:p%40w@host/a@b/"),
        ("rest:http://x:y@host/", "rest:http://x:y@host/"),
        ("s3:http://host/bucket", "s3:http://host/bucket"),
    ],
)
def test_credentials_of_rest_servers_reach_old_versions_too(url: str, address: str) -> None:
    """Before 0.16.1 they are put in the address, unless it has its own."""
    given_access = access(url, RESTIC_REST_USERNAME="u/s", RESTIC_REST_PASSWORD="p@w")
    assert repository_address(given_access, knows_rest_variables=False) == address
    assert repository_address(given_access, knows_rest_variables=True) == url
    assert repository_address(access(url), knows_rest_variables=False) == url


def test_options_and_certificates_become_flags() -> None:
    """0.14 supports the certificate only as an option; no option contains a secret."""
    given_access = Access(
        "s3:host/bucket",
        Secret(b"pw"),
        {"s3.region": "eu"},
        {"RESTIC_CACERT": "/ca.pem", "AWS_SECRET_ACCESS_KEY": "secret"},
    )
    assert flags(given_access) == ["--cacert", "/ca.pem", "--option", "s3.region=eu"]


def test_arguments_for_ssh_become_a_command_that_every_restic_knows() -> None:
    """0.14 has no sftp.args; restic parses commas and quotes in options as CSV."""
    given_access = Access(
        "sftp://user@host:2222//srv", Secret(b"pw"), {"sftp.args": '-J a,b -i "my key"'}
    )
    assert flags(given_access) == [
        "--option",
        '"sftp.command=ssh host -p 2222 -l user -J a,b -i ""my key"" -s sftp"',
    ]
    with pytest.raises(UsageError, match="both be set"):
        flags(Access("sftp:h:/x", Secret(b"pw"), {"sftp.args": "-v", "sftp.command": "ssh"}))


def test_anonymous_requests_of_old_versions() -> None:
    """0.14 sends them by default, and does not support the option."""
    anonymous = Access("s3:host/bucket", Secret(b"pw"), {"s3.unsafe-anonymous-auth": "true"})
    assert flags(anonymous) == ["--option", "s3.unsafe-anonymous-auth=true"]
    assert flags(anonymous, knows_anonymous=False) == []


@pytest.mark.parametrize(
    ("key", "exact"),
    [
        (b"pw", True),
        (b"two\nlines", True),
        (b"in the middle", True),
        (b"\xff\x85", True),
        (b"pw\xc2\x85", False),
        (b"pw ", False),
        (b"\tpw", False),
        (b"pw\n", False),
        ("pw\u00a0".encode(), False),
        ("\u2028pw".encode(), False),
        (b"\xef\xbb\xbfpw", False),
        (b"\xff\xfepw", False),
    ],
)
def test_which_keys_restic_reads_as_they_are(key: bytes, exact: bool) -> None:
    """`restic` trims Unicode white space and removes byte order marks."""
    assert is_read_exactly(key) is exact


@given(st.binary(min_size=1, max_size=200))
def test_any_key_arrives_byte_for_byte_or_is_refused(key: bytes) -> None:
    """Through a pipe if restic would not change it, else through the environment."""
    if b"\0" in key and not is_read_exactly(key):
        with pytest.raises(UsageError, match="null byte"), passed_key(Secret(key)):
            pass
        return
    with passed_key(Secret(key)) as (env, descriptors):
        if descriptors:
            assert env == {"RESTIC_PASSWORD_FILE": f"/dev/fd/{descriptors[0]}"}
            assert Path(env["RESTIC_PASSWORD_FILE"]).read_bytes() == key
            assert Path(env["RESTIC_PASSWORD_FILE"]).read_bytes() == b""  # only once
        else:
            assert os.fsencode(env["RESTIC_PASSWORD"]) == key


def test_no_descriptor_is_left_open() -> None:
    """Neither the pipe of the key nor a memory file stays open after the call."""
    before = os.listdir("/proc/self/fd")
    with passed_key(Secret(b"pw")), passed_bytes(b"data") as held:
        assert os.read(held, 9) == b"data"
        assert len(os.listdir("/proc/self/fd")) == len(before) + 2
    assert os.listdir("/proc/self/fd") == before


def test_an_empty_key_is_refused() -> None:
    """`restic` would prompt for it."""
    with pytest.raises(UsageError, match="empty"), passed_key(Secret(b"")):
        pass


def test_what_restic_inherits_can_be_named() -> None:
    """Only variables on the allowlist are passed."""
    assert inherited({"PATH": "/bin", "LD_PRELOAD": "x", "LANG": "de", "NO_PROXY": "h"}) == {
        "PATH": "/bin",
        "NO_PROXY": "h",
        "LC_ALL": "C",
    }


def test_values_are_never_flags_and_excludes_never_patterns() -> None:
    """A host named --help is a host, and [1] matches only [1]."""
    assert backup_flags(
        tags=["kind=volumes", "-x"],
        host="--help",
        parent=None,
        time="2026-11-22 21:30:00",
        exclude=[b"/a/WR[1].t*t", "/b\\?"],
    ) == [
        "--tag=kind=volumes",
        "--tag=-x",
        "--host=--help",
        "--time=2026-11-22 21:30:00",
        "--exclude=/a/WR\\[1].t\\*t",
        "--exclude=/b\\\\\\?",
    ]


@pytest.mark.parametrize("tag", ["", "a,b"])
def test_tags_that_restic_would_take_apart_are_refused(tag: str) -> None:
    """`restic` splits tags at commas."""
    with pytest.raises(UsageError, match="tag"):
        backup_flags(tags=[tag], host=None, parent=None, time=None, exclude=())


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`restic` reports errors with the path it was given."""
    monkeypatch.chdir(tmp_path)
    assert absolute("a/b") == os.fsencode(tmp_path / "a/b")
    assert absolute(b"/x\xff") == b"/x\xff"
