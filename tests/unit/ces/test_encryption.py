"""CES decryption, tested with an independent encoder, and malformed values."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from cesbrfs.ces.encryption import EncryptedValue, InvalidCiphertextError, decrypt, parse_encrypted
from cesbrfs.ces.registry import FileRegistry, Registry
from cesbrfs.config.settings import Flags, Settings, load
from cesbrfs.errors import UsageError
from cesbrfs.util.secret import Secret
from tests.sample import registry as sample_registry

PROVIDERS = ("oaesp", "pkcs1v15")
KEY, OTHER = sample_registry.private_key("redmine"), sample_registry.private_key("another")
ENCRYPTION_KEY = "/config/backup/encryption_key"


def rsa_encrypt(provider: str, data: bytes, key: rsa.RSAPrivateKey = KEY) -> str:
    pad: padding.AsymmetricPadding = padding.PKCS1v15()
    if provider == "oaesp":
        pad = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=b"ces-config")
    return base64.b64encode(key.public_key().encrypt(data, pad)).decode()


def long_parts(provider: str, data: bytes, key: rsa.RSAPrivateKey = KEY) -> dict[str, object]:
    aes, nonce = os.urandom(32), os.urandom(12)
    return {
        "encryption": {
            "type": "AES_GCM",
            "key": rsa_encrypt(provider, aes, key),
            "nonce": base64.b64encode(nonce).decode(),
        },
        "value": base64.b64encode(AESGCM(aes).encrypt(nonce, data, None)).decode(),
    }


def encrypt(provider: str, data: bytes, key: rsa.RSAPrivateKey = KEY) -> str:
    """Encrypt as CES does: up to 64 bytes with RSA only."""
    if len(data) <= 64:
        return rsa_encrypt(provider, data, key)
    return json.dumps(long_parts(provider, data, key))


def decrypted(value: str, provider: str, key: rsa.RSAPrivateKey = KEY) -> bytes | None:
    encrypted = parse_encrypted(value)
    assert isinstance(encrypted, EncryptedValue)
    return decrypt(encrypted, key, provider)


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=64) | st.binary(min_size=65, max_size=300))
def test_round_trips(provider: str, data: bytes) -> None:
    """Values of both forms are decrypted, and only with the right key."""
    encrypted = encrypt(provider, data)
    assert decrypted(encrypted, provider) == data
    assert decrypted(f" {encrypted}\n", provider) == data
    assert decrypted(encrypted, provider, OTHER) is None


@given(st.text(max_size=100).filter(lambda text: '"encryption"' not in text.lower()))
def test_plain_values_stay_plain(value: str) -> None:
    """Braces or base64 alone do not make a password an encrypted value."""
    assert parse_encrypted(value) is None
    assert parse_encrypted(f"{{{value}}}") is None
    assert parse_encrypted(base64.b64encode(value.encode()).decode()) is None


@pytest.mark.parametrize("size", [16, 32, 64, 255, 257])
def test_base64_of_another_length_is_plain(size: int) -> None:
    """An RSA-2048 ciphertext has exactly 256 bytes."""
    assert parse_encrypted(base64.b64encode(bytes(size)).decode()) is None
    assert parse_encrypted(base64.b64encode(bytes(256)).decode()) == EncryptedValue(bytes(256))


def test_field_names_are_case_insensitive() -> None:
    """Field names of the long form may be in any case, as in Go."""
    parts = long_parts("oaesp", b"x" * 100)
    inner = parts.pop("encryption")
    assert isinstance(inner, dict)
    written = {"Encryption": {name.title(): text for name, text in inner.items()}}
    written["Value"] = parts["value"]  # type: ignore[assignment]
    assert decrypted(json.dumps(written), "oaesp") == b"x" * 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-30] + "}", "invalid JSON"),
        (lambda _: '{"encryption": 1}', "invalid JSON"),
        (lambda _: '{"encryption": {}, "value": "AAAA"}', "type None .*expected 'AES_GCM'"),
        (lambda text: text.replace("AES_GCM", "ROT13"), "encryption type 'ROT13'"),
        (lambda text: text.replace('"nonce"', '"once"'), "key, nonce or value is missing"),
        (lambda text: text.replace('"value": "', '"value": "!'), "base64"),
        (lambda _: '{"encryption":' + "[" * 100_000 + "}", "invalid JSON"),
    ],
)
def test_malformed_long_form(change: Callable[[str], str], message: str) -> None:
    """A malformed value is not used as a plain password; the error has the reason."""
    with pytest.raises(InvalidCiphertextError, match=message):
        parse_encrypted(change(json.dumps(long_parts("oaesp", b"x" * 100))))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_damaged_long_form(provider: str) -> None:
    """With the right key, a modified ciphertext or AES key is detected."""
    parts = long_parts(provider, b"x" * 100)
    data = bytearray(base64.b64decode(str(parts["value"])))
    data[5] ^= 1
    parts["value"] = base64.b64encode(data).decode()
    with pytest.raises(InvalidCiphertextError, match="authentication tag"):
        decrypted(json.dumps(parts), provider)
    parts["encryption"]["key"] = rsa_encrypt(provider, b"short")  # type: ignore[index]
    with pytest.raises(InvalidCiphertextError, match="key length"):
        decrypted(json.dumps(parts), provider)


def test_a_key_of_another_size_does_not_match() -> None:
    """A key decrypts only ciphertexts of its size."""
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - small on purpose
    for provider in PROVIDERS:
        assert decrypted(rsa_encrypt(provider, b"x"), provider, small) is None


# In a registry


def write_key(file: Path, key: rsa.RSAPrivateKey = KEY) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pem = serialization.PrivateFormat.TraditionalOpenSSL
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption())
    )
    return file


def dogus_key(root: Path, dogu: str) -> Path:
    return root / "var/lib/ces" / dogu / "volumes/_private/private.pem"


def settings_of(registry: Registry, root: Path, **variables: str) -> Settings:
    environ = {f"CESBR_{name.upper()}": value for name, value in variables.items()}
    return load(Flags(registry=registry.address, root=str(root), repository="/repo"), environ)


@pytest.mark.parametrize("provider", ["", *PROVIDERS, "PKCS1v15\n"])
@pytest.mark.parametrize("key", [" short, 0x00 not \u00e4 trimmed \n", "long " * 50])
async def test_an_encrypted_key(
    registry: Registry, tmp_path: Path, provider: str, key: str
) -> None:
    """Any dogu's key may decrypt it; invalid key files are skipped; nothing is trimmed."""
    await registry.set("/config/_global/key_provider", provider)
    padding_of = provider.strip().lower() or "oaesp"
    await registry.set(ENCRYPTION_KEY, encrypt(padding_of, key.encode()))
    write_key(dogus_key(tmp_path, "cas"), OTHER)
    dogus_key(tmp_path, "damaged").parent.mkdir(parents=True)
    dogus_key(tmp_path, "damaged").write_text("-----BEGIN RSA PRIVATE KEY-----\n")
    (dogus_key(tmp_path, "directory") / "x").mkdir(parents=True)
    write_key(dogus_key(tmp_path, "redmine"))
    access = await settings_of(registry, tmp_path).access()
    assert access.key == Secret(key.encode())


async def test_a_configured_private_key(tmp_path: Path) -> None:
    """With private_key set, only that key is used, and errors with it are reported."""
    registry = FileRegistry(tmp_path / "registry")
    await registry.set(ENCRYPTION_KEY, encrypt("oaesp", b"s3cret"))
    write_key(dogus_key(tmp_path, "redmine"))
    key_file = write_key(tmp_path / "named.pem")
    found = settings_of(registry, tmp_path, private_key=str(key_file))
    assert (await found.access()).key == Secret(b"s3cret")
    assert found.describe()["private_key"] == {
        "value": str(key_file),
        "source": "environment CESBR_PRIVATE_KEY",
    }
    write_key(key_file, OTHER)
    with pytest.raises(UsageError, match=r"no matching private key in .*named\.pem"):
        await found.access()
    other_kind = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for data in (b"", b"no key", other_kind):
        key_file.write_bytes(data)
        with pytest.raises(UsageError, match=r"named\.pem: not an unencrypted RSA key"):
            await found.access()
    key_file.unlink()
    with pytest.raises(UsageError, match=r"named\.pem: No such file"):
        await found.access()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (encrypt("oaesp", b"s3cret"), f"Cannot decrypt the value of {ENCRYPTION_KEY}"),
        (encrypt("oaesp", b"s3cret" * 20), f"{ENCRYPTION_KEY} .*no matching private key"),
        ('{"encryption": {}}', f"Invalid encrypted value of {ENCRYPTION_KEY} .*Set the"),
    ],
)
async def test_values_that_cannot_be_decrypted(tmp_path: Path, value: str, message: str) -> None:
    """The error for a missing or wrong key or a malformed value names the key, not the value."""
    registry = FileRegistry(tmp_path / "registry")
    await registry.set(ENCRYPTION_KEY, value)
    for _ in range(2):
        with pytest.raises(UsageError, match=message) as caught:
            await settings_of(registry, tmp_path).access()
        assert value not in caught.value.message
        assert caught.value.__cause__ is None
        write_key(dogus_key(tmp_path, "cas"), OTHER)


async def test_an_unknown_provider(tmp_path: Path) -> None:
    """An unknown provider is an error only if a value is encrypted."""
    registry = FileRegistry(tmp_path / "registry")
    await registry.set("/config/_global/key_provider", "rot13")
    await registry.set(ENCRYPTION_KEY, "plain")
    assert (await settings_of(registry, tmp_path).access()).key == Secret(b"plain")
    await registry.set(ENCRYPTION_KEY, encrypt("oaesp", b"s3cret"))
    with pytest.raises(
        UsageError, match=r"'rot13' of .*key_provider .* Set it to oaesp or pkcs1v15"
    ):
        await settings_of(registry, tmp_path).access()


@pytest.mark.parametrize("key", ["_global/key_provider", "backup/backup_type"])
@pytest.mark.parametrize("value", ["x" * 100_000, "-----BEGIN RSA PRIVATE KEY-----\nMIIE"])
async def test_error_messages_are_short_and_without_secrets(
    tmp_path: Path, key: str, value: str
) -> None:
    """An invalid value is shortened, and masked if it may be secret."""
    registry = FileRegistry(tmp_path / "registry")
    await registry.set(ENCRYPTION_KEY, encrypt("oaesp", b"s3cret"))
    await registry.set(f"/config/{key}", value)
    found = load(Flags(registry=registry.address, root=str(tmp_path)), {})
    with pytest.raises(UsageError, match=f"/config/{key} in the registry .* Set it to") as caught:
        await found.access()
    assert len(caught.value.message) < 500
    assert "MIIE" not in caught.value.message


async def test_encrypted_s3_credentials(registry: Registry, tmp_path: Path) -> None:
    """Each of the two S3 credentials may be encrypted."""
    write_key(dogus_key(tmp_path, "redmine"))
    directory = "/config/backup/s3_bucket_config"
    for key, value in {
        "/config/backup/backup_type": "S3",
        f"{directory}/address": "https://minio/bucket",
        f"{directory}/access_key_id": "plain id",
        f"{directory}/secret_access_key": encrypt("oaesp", b"s3cret\n"),
        ENCRYPTION_KEY: "key",
    }.items():
        await registry.set(key, value)
    flags = Flags(registry=registry.address, root=str(tmp_path))
    assert (await load(flags, {}).access()).environment == {
        "AWS_ACCESS_KEY_ID": "plain id",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
    }
    await registry.set(f"{directory}/secret_access_key", encrypt("oaesp", b"a\0b"))
    with pytest.raises(UsageError, match=f"{directory}/secret_access_key .* NUL bytes"):
        await load(flags, {}).access()
