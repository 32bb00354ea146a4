"""Early key derivation gives the same keys, and each derivation is used once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cesbrfs.errors import DamagedError
from cesbrfs.repo import kdf
from cesbrfs.repo.format.model import parse_key_file
from cesbrfs.repo.kdf import scrypt_key
from cesbrfs.util.secret import Secret

JSON = b'{"kdf":"scrypt","N":2,"r":8,"p":1,"salt":"c3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nz"}'


def repository(directory: Path, *contents: bytes) -> str:
    (directory / "keys").mkdir()
    for number, content in enumerate(contents):
        (directory / "keys" / f"{number}").write_bytes(content)
    return str(directory)


def test_what_was_derived_ahead_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work in progress is not repeated, and the keys are right."""
    directory = repository(tmp_path, JSON)
    key_file = parse_key_file(JSON)
    expected = scrypt_key(b"pw", key_file)
    kdf.derive_ahead(directory, Secret(b"pw"), tmp_path)
    monkeypatch.setattr(kdf, "scrypt_key", None)
    assert kdf.derived(b"pw", key_file) == expected


def test_what_is_under_way_is_not_begun_again(tmp_path: Path) -> None:
    """Two requests for the same key share one derivation."""
    directory = repository(tmp_path, JSON)
    kdf.derive_ahead(directory, Secret(b"pw"), tmp_path)
    (begun,) = kdf._started.values()
    kdf.derive_ahead(directory, Secret(b"pw"), tmp_path)
    assert list(kdf._started.values()) == [begun]
    kdf.derived(b"pw", parse_key_file(JSON))


def test_another_password_is_derived_anew(tmp_path: Path) -> None:
    """A derivation for one password is not used for another."""
    kdf.derive_ahead(repository(tmp_path, JSON), Secret(b"pw"), tmp_path)
    key_file = parse_key_file(JSON)
    assert kdf.derived(b"other", key_file) == scrypt_key(b"other", key_file)
    assert kdf.derived(b"pw", key_file) == scrypt_key(b"pw", key_file)


@pytest.mark.parametrize("contents", [(), (JSON, JSON), (b"no key file",)])
def test_nothing_is_begun_in_doubt(tmp_path: Path, contents: tuple[bytes, ...]) -> None:
    """Derivation starts early only with exactly one readable key file."""
    kdf.derive_ahead(repository(tmp_path, *contents), Secret(b"pw"), tmp_path)
    kdf.derive_ahead(str(tmp_path / "missing"), Secret(b"pw"), tmp_path)
    kdf.derive_ahead("rest:http://server/", Secret(b"pw"), tmp_path)
    assert not kdf._started


def test_an_impossible_key_file_is_told_to_who_asks(tmp_path: Path) -> None:
    """Parameters that scrypt rejects raise an error when the keys are needed."""
    absurd = JSON.replace(b'"N":2', b'"N":3')
    kdf.derive_ahead(repository(tmp_path, absurd), Secret(b"pw"), tmp_path)
    with pytest.raises(DamagedError):
        kdf.derived(b"pw", parse_key_file(absurd))
