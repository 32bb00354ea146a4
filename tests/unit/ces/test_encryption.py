"""CES encryption: what an independent encoder sealed comes back, what is broken is told."""

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

from cesbrfs.ces.encryption import BrokenValueError, Sealed, parse_sealed, unseal
from cesbrfs.ces.registry import FileRegistry, Registry
from cesbrfs.config.settings import Flags, Settings, load
from cesbrfs.errors import UsageError
from cesbrfs.util.secret import Secret
from tests.sample import registry as sample_registry

PROVIDERS = ("oaesp", "pkcs1v15")
KEY, OTHER = sample_registry.private_key("redmine"), sample_registry.private_key("another")
ENCRYPTION_KEY = "/config/backup/encryption_key"


def rsa_seal(provider: str, data: bytes, key: rsa.RSAPrivateKey = KEY) -> str:
    pad: padding.AsymmetricPadding = padding.PKCS1v15()
    if provider == "oaesp":
        pad = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=b"ces-config")
    return base64.b64encode(key.public_key().encrypt(data, pad)).decode()


def long_parts(provider: str, data: bytes, key: rsa.RSAPrivateKey = KEY) -> dict[str, object]:
    aes, nonce = os.urandom(32), os.urandom(12)
    return {
        "encryption": {
            "type": "AES_GCM",
            "key": rsa_seal(provider, aes, key),
            "nonce": base64.b64encode(nonce).decode(),
        },
        "value": base64.b64encode(AESGCM(aes).encrypt(nonce, data, None)).decode(),
    }


def seal(provider: str, data: bytes, key: rsa.RSAPrivateKey = KEY) -> str:
    """Encrypt as CES does: by RSA alone up to 64 bytes."""
    if len(data) <= 64:
        return rsa_seal(provider, data, key)
    return json.dumps(long_parts(provider, data, key))


def opened(value: str, provider: str, key: rsa.RSAPrivateKey = KEY) -> bytes | None:
    sealed = parse_sealed(value)
    assert isinstance(sealed, Sealed)
    return unseal(sealed, key, provider)


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=64) | st.binary(min_size=65, max_size=300))
def test_round_trips(provider: str, data: bytes) -> None:
    """Any value of either form comes back byte for byte, and only with its own key."""
    sealed = seal(provider, data)
    assert opened(sealed, provider) == data
    assert opened(f" {sealed}\n", provider) == data
    assert opened(sealed, provider, OTHER) is None


@given(st.text(max_size=100).filter(lambda text: '"encryption"' not in text.lower()))
def test_plain_values_stay_plain(value: str) -> None:
    """No password is taken for an encrypted one because of braces or base64."""
    assert parse_sealed(value) is None
    assert parse_sealed(f"{{{value}}}") is None
    assert parse_sealed(base64.b64encode(value.encode()).decode()) is None


@pytest.mark.parametrize("size", [16, 32, 64, 255, 257])
def test_base64_of_another_length_is_plain(size: int) -> None:
    """Only what RSA can have made counts, which is one length exactly."""
    assert parse_sealed(base64.b64encode(bytes(size)).decode()) is None
    assert parse_sealed(base64.b64encode(bytes(256)).decode()) == Sealed(bytes(256))


def test_go_reads_names_in_any_case() -> None:
    """The long form's fields are found however they are written."""
    parts = long_parts("oaesp", b"x" * 100)
    inner = parts.pop("encryption")
    assert isinstance(inner, dict)
    written = {"Encryption": {name.title(): text for name, text in inner.items()}}
    written["Value"] = parts["value"]  # type: ignore[assignment]
    assert opened(json.dumps(written), "oaesp") == b"x" * 100


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[:-30] + "}", "no JSON"),
        (lambda _: '{"encryption": 1}', "no JSON"),
        (lambda _: '{"encryption": {}, "value": "AAAA"}', "None instead of 'AES_GCM'"),
        (lambda text: text.replace("AES_GCM", "ROT13"), "'ROT13' instead of"),
        (lambda text: text.replace('"nonce"', '"once"'), "lacks its key, its nonce"),
        (lambda text: text.replace('"value": "', '"value": "!'), "base64"),
        (lambda _: '{"encryption":' + "[" * 100_000 + "}", "no JSON"),
    ],
)
def test_a_broken_long_form(change: Callable[[str], str], told: str) -> None:
    """What has the long form and is not whole is no password, and says what is wrong."""
    with pytest.raises(BrokenValueError, match=told):
        parse_sealed(change(json.dumps(long_parts("oaesp", b"x" * 100))))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_changed_long_value(provider: str) -> None:
    """A value that was changed after it was sealed is broken, its key being the right one."""
    parts = long_parts(provider, b"x" * 100)
    data = bytearray(base64.b64decode(str(parts["value"])))
    data[5] ^= 1
    parts["value"] = base64.b64encode(data).decode()
    with pytest.raises(BrokenValueError, match="check sum"):
        opened(json.dumps(parts), provider)
    parts["encryption"]["key"] = rsa_seal(provider, b"short")  # type: ignore[index]
    with pytest.raises(BrokenValueError, match="no length"):
        opened(json.dumps(parts), provider)


def test_a_key_of_another_size_is_another_key() -> None:
    """Whatever RSA key an instance has, it only fits values of its own size."""
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - it is small on purpose
    for provider in PROVIDERS:
        assert opened(rsa_seal(provider, b"x"), provider, small) is None


# In the registry


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
    """The key of any dogu opens it, whichever that is, and the value counts byte for byte."""
    await registry.set("/config/_global/key_provider", provider)
    padding_of = provider.strip().lower() or "oaesp"
    await registry.set(ENCRYPTION_KEY, seal(padding_of, key.encode()))
    write_key(dogus_key(tmp_path, "cas"), OTHER)
    dogus_key(tmp_path, "damaged").parent.mkdir(parents=True)
    dogus_key(tmp_path, "damaged").write_text("-----BEGIN RSA PRIVATE KEY-----\n")
    (dogus_key(tmp_path, "folder") / "x").mkdir(parents=True)
    write_key(dogus_key(tmp_path, "redmine"))
    access = await settings_of(registry, tmp_path).access()
    assert access.key == Secret(key.encode())


async def test_a_named_private_key(tmp_path: Path) -> None:
    """With private_key set, that one alone counts; what is wrong with it is told."""
    registry = FileRegistry(tmp_path / "registry")
    await registry.set(ENCRYPTION_KEY, seal("oaesp", b"s3cret"))
    write_key(dogus_key(tmp_path, "redmine"))
    named = write_key(tmp_path / "named.pem")
    found = settings_of(registry, tmp_path, private_key=str(named))
    assert (await found.access()).key == Secret(b"s3cret")
    assert found.describe()["private_key"] == {
        "value": str(named),
        "source": "environment CESBR_PRIVATE_KEY",
    }
    write_key(named, OTHER)
    with pytest.raises(UsageError, match=r"no private key that can be read at .*named\.pem opens"):
        await found.access()
    other_kind = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for data in (b"", b"no key", other_kind):
        named.write_bytes(data)
        with pytest.raises(UsageError, match=r"named\.pem cannot be used: it holds no RSA key"):
            await found.access()
    named.unlink()
    with pytest.raises(UsageError, match=r"named\.pem cannot be used: No such file"):
        await found.access()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (seal("oaesp", b"s3cret"), f"{ENCRYPTION_KEY} .*has the form of an encrypted one"),
        (seal("oaesp", b"s3cret" * 20), f"{ENCRYPTION_KEY} .*no private key"),
        ('{"encryption": {}}', f"The encrypted value of {ENCRYPTION_KEY} .*is broken: .*set it"),
    ],
)
async def test_values_that_cannot_be_opened(tmp_path: Path, value: str, told: str) -> None:
    """A wrong key, no key and a broken value say which value it is, and show nothing of it."""
    registry = FileRegistry(tmp_path / "registry")
    await registry.set(ENCRYPTION_KEY, value)
    for _ in range(2):
        with pytest.raises(UsageError, match=told) as caught:
            await settings_of(registry, tmp_path).access()
        assert value not in caught.value.message
        assert caught.value.__cause__ is None
        write_key(dogus_key(tmp_path, "cas"), OTHER)


async def test_an_unknown_provider(tmp_path: Path) -> None:
    """Only an encrypted value needs the provider; one that is not known is told."""
    registry = FileRegistry(tmp_path / "registry")
    await registry.set("/config/_global/key_provider", "rot13")
    await registry.set(ENCRYPTION_KEY, "plain")
    assert (await settings_of(registry, tmp_path).access()).key == Secret(b"plain")
    await registry.set(ENCRYPTION_KEY, seal("oaesp", b"s3cret"))
    with pytest.raises(
        UsageError, match=r"key_provider .* is 'rot13'; set it to oaesp or pkcs1v15"
    ):
        await settings_of(registry, tmp_path).access()


@pytest.mark.parametrize("key", ["_global/key_provider", "backup/backup_type"])
@pytest.mark.parametrize("value", ["x" * 100_000, "-----BEGIN RSA PRIVATE KEY-----\nMIIE"])
async def test_a_wrong_value_is_not_told_whole(tmp_path: Path, key: str, value: str) -> None:
    """What somebody pasted into the wrong key fits on a line, and no secret is told."""
    registry = FileRegistry(tmp_path / "registry")
    await registry.set(ENCRYPTION_KEY, seal("oaesp", b"s3cret"))
    await registry.set(f"/config/{key}", value)
    found = load(Flags(registry=registry.address, root=str(tmp_path)), {})
    with pytest.raises(UsageError, match=f"/config/{key} in the registry .*; set it to") as told:
        await found.access()
    assert len(told.value.message) < 500
    assert "MIIE" not in told.value.message


async def test_encrypted_s3_credentials(registry: Registry, tmp_path: Path) -> None:
    """The credentials of S3 may be encrypted, or only one of them."""
    write_key(dogus_key(tmp_path, "redmine"))
    folder = "/config/backup/s3_bucket_config"
    for key, value in {
        "/config/backup/backup_type": "S3",
        f"{folder}/address": "https://minio/bucket",
        f"{folder}/access_key_id": "plain id",
        f"{folder}/secret_access_key": seal("oaesp", b"s3cret\n"),
        ENCRYPTION_KEY: "key",
    }.items():
        await registry.set(key, value)
    flags = Flags(registry=registry.address, root=str(tmp_path))
    assert (await load(flags, {}).access()).environment == {
        "AWS_ACCESS_KEY_ID": "plain id",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
    }
    await registry.set(f"{folder}/secret_access_key", seal("oaesp", b"a\0b"))
    with pytest.raises(UsageError, match=f"{folder}/secret_access_key .* is no text"):
        await load(flags, {}).access()
