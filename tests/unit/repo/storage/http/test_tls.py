"""Certificate files that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.http.tls import trusting
from cesbrfs.util.secret import Secret
from tests.support.certificates import Certificates


def error_for(variable: str, file: Path) -> str:
    """Return the error for a certificate file."""
    with pytest.raises(UsageError, match=f"{re.escape(str(file))} in {variable}: ") as caught:
        trusting(Access("rest:https://host/", Secret(b"key"), environment={variable: str(file)}))
    return caught.value.message


def test_certificate_files(certificates: Certificates, tmp_path: Path) -> None:
    """The variable and the reason are named; nothing asks for the passphrase of a key."""
    (tmp_path / "text").write_text("no certificate")
    for variable in ("RESTIC_CACERT", "RESTIC_TLS_CLIENT_CERT"):
        assert "No such file" in error_for(variable, tmp_path / "missing")
        assert "PEM" in error_for(variable, tmp_path / "text")
    pem = certificates.client.read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    end = pem.index(b"-----BEGIN", 1)
    (tmp_path / "encrypted").write_bytes(pem[:end] + encrypted)
    assert "is encrypted" in error_for("RESTIC_TLS_CLIENT_CERT", tmp_path / "encrypted")
