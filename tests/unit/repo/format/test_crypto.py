"""Keys and encryption: published test vectors, and everything that must not decrypt."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.crypto import (
    BadMacError,
    Keys,
    open_master_key,
    open_record,
    seal_record,
)
from cesbrfs.repo.format.model import KeyFile, parse_key_file
from cesbrfs.repo.kdf import derive_keys
from cesbrfs.repo.storage import FileType
from tests.support.memory_repo import PASSWORD, MemoryRepo

KEYS = Keys(b"e" * 32, b"k" * 16, b"r" * 16)
NONCE = bytes(range(16))


@pytest.mark.parametrize(
    ("message", "r", "k", "nonce", "tag"),
    [
        (
            "f3f6",
            "851fc40c3467ac0be05cc20404f3f700",
            "ec074c835580741701425b623235add6",
            "fb447350c4e868c52ac3275cf9d4327e",
            "f4c633c3044fc145f84f335cb81953de",
        ),
        (
            "",
            "a0f3080000f46400d0c7e9076c834403",
            "75deaa25c09f208e1dc4ce6b5cad3fbf",
            "61ee09218d29b0aaed7e154a2c5509cc",
            "dd3fab2251f11ac759f0887129cc2ee7",
        ),
    ],
)
def test_the_vectors_of_poly1305_aes(message: str, r: str, k: str, nonce: str, tag: str) -> None:
    """Test vectors of Bernstein's paper, appendix B."""
    keys = Keys(bytes(32), bytes.fromhex(k), bytes.fromhex(r))
    record = bytes.fromhex(nonce + message + tag)
    assert seal_record(keys, open_record(keys, record), record[:16]) == record


@pytest.mark.parametrize(
    ("password", "salt", "cost", "block", "parallel", "raw"),
    [
        (
            b"password", b"NaCl", 1024, 8, 16,
            (
                "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
                "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
            ),
        ),
        (
            b"pleaseletmein", b"SodiumChloride", 16384, 8, 1,
            (
                "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
                "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
            ),
        ),
    ],
)  # fmt: skip
def test_the_vectors_of_scrypt(
    password: bytes, salt: bytes, cost: int, block: int, parallel: int, raw: str
) -> None:
    """Test vectors of RFC 7914, split into encryption key, k and r."""
    keys = derive_keys(password, KeyFile("scrypt", cost, block, parallel, salt))
    assert (keys.encrypt + keys.mac_k + keys.mac_r).hex() == raw


@given(st.binary(max_size=300), st.binary(min_size=16, max_size=16).filter(any))
def test_a_record_opens_to_what_was_sealed(plain: bytes, nonce: bytes) -> None:
    """Any content with any nonce except zero, as bytes and as a memoryview."""
    record = seal_record(KEYS, plain, nonce)
    assert len(record) == len(plain) + 32
    assert open_record(KEYS, record) == plain
    assert open_record(KEYS, memoryview(b"x" + record)[1:]) == plain


@given(st.binary(max_size=40), st.data())
def test_a_flipped_bit_anywhere_is_noticed(plain: bytes, data: st.DataObject) -> None:
    """The MAC covers nonce, ciphertext and tag."""
    record = bytearray(seal_record(KEYS, plain, NONCE))
    bit = data.draw(st.integers(0, len(record) * 8 - 1))
    record[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadMacError):
        open_record(KEYS, bytes(record))


def test_a_record_cut_anywhere_is_damage() -> None:
    """Truncated to any length, including 0; a short record is not a wrong key."""
    record = seal_record(KEYS, b"content", NONCE)
    for length in range(len(record)):
        with pytest.raises(DamagedError) as caught:
            open_record(KEYS, record[:length])
        assert isinstance(caught.value, BadMacError) == (length >= 32)
    with pytest.raises(BadMacError):
        open_record(KEYS, record + b"\0")


def test_the_nonce_zero_is_refused() -> None:
    """`restic` neither writes nor accepts it, even with a valid MAC."""
    with pytest.raises(DamagedError, match="nonce"):
        open_record(KEYS, seal_record(KEYS, b"content", bytes(16)))


def test_an_unclamped_r_is_clamped() -> None:
    """A stored r may contain bits that Poly1305 ignores."""
    clamped = Keys(KEYS.encrypt, KEYS.mac_k, bytes.fromhex("ffffff0ffcffff0ffcffff0ffcffff0f"))
    unclamped = Keys(KEYS.encrypt, KEYS.mac_k, b"\xff" * 16)
    assert open_record(clamped, seal_record(unclamped, b"content", NONCE)) == b"content"


@pytest.mark.parametrize("key", ["encrypt", "mac_k", "mac_r"])
def test_another_key_does_not_open_a_record(key: str) -> None:
    """Only the MAC keys are checked; the MAC does not cover the encryption key."""
    other = Keys(**({k: getattr(KEYS, k) for k in ("encrypt", "mac_k", "mac_r")} | {
        key: b"\0" * len(getattr(KEYS, key))
    }))  # fmt: skip
    record = seal_record(KEYS, b"content", NONCE)
    if key == "encrypt":
        assert open_record(other, record) != b"content"
    else:
        with pytest.raises(BadMacError):
            open_record(other, record)


@pytest.mark.parametrize(
    "fields",
    [
        {"kdf": "argon2"}, {"kdf": None}, {"salt": None}, {"N": None}, {"r": 0}, {"p": None},
        {"N": 0}, {"N": 1}, {"N": 3}, {"N": -2}, {"r": -1}, {"p": -1},
        {"N": 1 << 70}, {"N": 1 << 30}, {"r": 1 << 40}, {"p": 1 << 62},
        {"N": 1 << 20, "r": 7, "p": 1 << 15},
    ],
)  # fmt: skip
def test_absurd_parameters_are_refused_at_once(fields: dict[str, Any]) -> None:
    """A key file cannot make us use unlimited memory or time."""
    key_file = KeyFile(kdf="scrypt", N=2, r=1, p=1, salt=b"salt")
    derive_keys(b"password", key_file)
    began = time.process_time()
    with pytest.raises(DamagedError):
        derive_keys(b"password", msgspec.structs.replace(key_file, **fields))
    assert time.process_time() - began < 1


def test_the_parameters_restic_may_choose_are_taken() -> None:
    """Up to N = 2**17 and several lanes, as calibrated on fast machines."""
    derive_keys(b"password", KeyFile(kdf="scrypt", N=1 << 15, r=8, p=1, salt=bytes(64)))


def test_only_the_right_password_opens_the_master_key() -> None:
    """Passwords are compared byte for byte, including white space."""
    repo = MemoryRepo()
    raw = repo.storage.files[FileType.KEY, repo.add_key(b"pw ")]
    key_file = parse_key_file(raw)
    assert open_master_key(derive_keys(b"pw ", key_file), key_file) == repo.keys
    for wrong in (b"pw", b"", b"pw \n", b"\xff", PASSWORD):
        with pytest.raises(BadMacError):
            open_master_key(derive_keys(wrong, key_file), key_file)


@pytest.mark.parametrize(
    "master",
    [
        {}, {"mac": None, "encrypt": None}, {"mac": {"k": "AA==", "r": "AA=="}, "encrypt": "AA=="},
        {"mac": {"k": "A" * 22 + "==", "r": "AA=="}, "encrypt": "A" * 43 + "="},
        {"mac": {"k": "A" * 22 + "=="}, "encrypt": "A" * 43 + "="}, [], {"encrypt": "%%"},
    ],
)  # fmt: skip
def test_an_incomplete_master_key_is_damage(master: object) -> None:
    """It was decrypted, so the password is right: the error is not a wrong key."""
    key_file = KeyFile(kdf="scrypt", N=2, r=1, p=1, salt=b"salt")
    sealed = seal_record(derive_keys(PASSWORD, key_file), json.dumps(master).encode(), NONCE)
    with pytest.raises(DamagedError) as caught:
        open_master_key(
            derive_keys(PASSWORD, key_file), msgspec.structs.replace(key_file, data=sealed)
        )
    assert not isinstance(caught.value, BadMacError)


def test_keys_do_not_show_themselves() -> None:
    """A repr, as in a log line or a traceback, contains no key."""
    assert repr(KEYS) == "Keys()"
