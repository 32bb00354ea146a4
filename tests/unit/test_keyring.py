"""What a password was stretched to stays in the kernel, for who has the password, for a while."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from cesbrfs.access import Secret
from cesbrfs.repo import ahead, keyring
from cesbrfs.repo.model import KeyFile
from cesbrfs.repo.scrypt import stretch

SECONDS = 20.0


@pytest.fixture
def key_file() -> KeyFile:
    """A key file that nobody else has, and whose key is derived at once."""
    return KeyFile("scrypt", 2, 8, 1, os.urandom(64), b"the master key, sealed")


@pytest.fixture(autouse=True)
def _needs_keyrings() -> None:
    probe = KeyFile(salt=os.urandom(8))
    keyring.keep(b"", probe, bytes(64), SECONDS)
    if keyring.recall(b"", probe) is None:
        pytest.skip("the kernel lets nobody use keyrings here")


def _entry(key_file: KeyFile) -> str:
    """Return what the kernel lists of a key file's entry."""
    name = keyring._name(key_file).decode()
    (line,) = [line for line in Path("/proc/keys").read_text().splitlines() if name in line]
    return line


def test_kept_for_the_same_password_and_key_file(key_file: KeyFile) -> None:
    """Another password, or a key file changed in anything, finds nothing."""
    assert keyring.recall(b"pw", key_file) is None
    raw = stretch(b"pw", key_file)
    keyring.keep(b"pw", key_file, raw, SECONDS)
    assert keyring.recall(b"pw", key_file) == raw
    assert keyring.recall(b"pw ", key_file) is None
    for other in ({"N": 4}, {"p": 2}, {"salt": bytes(64)}, {"data": b"another"}):
        assert keyring.recall(b"pw", msgspec.structs.replace(key_file, **other)) is None


def test_is_forgotten_and_closed_to_others(key_file: KeyFile) -> None:
    """The kernel has a time for it, and lets other users not even look."""
    keyring.keep(b"pw", key_file, bytes(64), SECONDS)
    _, _, _, time_left, permissions, user, *_ = _entry(key_file).split()
    assert time_left.endswith("s")
    assert int(time_left[:-1]) <= SECONDS
    assert permissions.endswith("0000")  # group and others
    assert int(user) == os.geteuid()


def test_does_not_hold_the_key_itself(key_file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the password what is kept opens nothing."""
    held: list[bytes] = []
    raw = stretch(b"pw", key_file)
    call = keyring._call

    def look(which: int, *arguments: object) -> int:
        held.extend(given for given in arguments if isinstance(given, bytes))
        return call(which, *arguments)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr(keyring, "_call", look)
    keyring.keep(b"pw", key_file, raw, SECONDS)
    assert keyring.recall(b"pw", key_file) == raw
    (kept,) = [given for given in held if len(given) > 64]
    assert not any(raw[at : at + 4] in kept for at in range(len(raw) - 3))


def test_a_second_derivation_takes_it_up(
    key_file: KeyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where that is asked for, only what took its time, and a wrong password is derived."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "k").write_bytes(msgspec.json.encode(key_file))
    raw = stretch(b"pw", key_file)

    def derive(password: bytes, seconds: float) -> bytes:
        ahead.derive_ahead(str(tmp_path), Secret(password), tmp_path, seconds)
        return ahead.derived(password, key_file)

    assert derive(b"pw", SECONDS) == raw
    assert keyring.recall(b"pw", key_file) is None  # it was derived in no time
    monkeypatch.setattr(ahead, "_WORTH_KEEPING", -1)
    assert derive(b"pw", 0) == raw
    assert keyring.recall(b"pw", key_file) is None
    assert derive(b"pw", SECONDS) == raw
    assert derive(b"other", SECONDS) == stretch(b"other", key_file)
    assert derive(b"pw", SECONDS) == raw
    monkeypatch.setattr(ahead, "stretch", None)
    assert derive(b"pw", SECONDS) == raw
