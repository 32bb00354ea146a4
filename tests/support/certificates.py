"""Generate a test certificate authority with server and client certificates."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY: Final = dt.timedelta(days=1)


@dataclass(frozen=True)
class Certificates:
    """PEM files: a CA, a server certificate with key for 127.0.0.1, and a client certificate.

    The client certificate and its key are in one file. `stranger` is a client certificate of an
    unknown CA, `other` is another CA.
    """

    authority: Path
    server: Path
    server_key: Path
    client: Path
    stranger: Path
    other: Path


def make(directory: Path) -> Certificates:
    """Create all files in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    key, authority = _authority("The tests' authority")
    other_key, other = _authority("Another authority")
    found = Certificates(
        *(
            directory / f"{name}.pem"
            for name in ("ca", "server", "key", "client", "stranger", "other")
        )
    )
    found.authority.write_bytes(_pem(authority))
    found.other.write_bytes(_pem(other))
    server_key, server = _signed(authority, key, "server")
    found.server.write_bytes(_pem(server))
    found.server_key.write_bytes(_key_pem(server_key))
    for path, signer, signer_key in (
        (found.client, authority, key),
        (found.stranger, other, other_key),
    ):
        client_key, client = _signed(signer, signer_key, "client")
        path.write_bytes(_pem(client) + _key_pem(client_key))
    return found


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _begun(
    subject: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer or name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )


def _authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _begun(name, None, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    return key, builder.sign(key, hashes.SHA256())


def _signed(
    authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, name: str
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if name == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _begun(name, authority.subject, key)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    return key, builder.sign(authority_key, hashes.SHA256())
