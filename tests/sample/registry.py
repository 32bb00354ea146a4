"""The registry of the sample instance: an embedded file registry, one file per key."""

from __future__ import annotations

import base64
import functools
import json
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.sample.dogus import DOGUS, REMOVED, Dogu

_BLUEPRINT = "sample-blueprint-2026-02"


def write(registry: Path, key: str, value: str) -> None:
    """Set `key` ("/config/…") to `value`."""
    path = registry / key.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value.encode())


@functools.cache
def private_key(dogu: str) -> rsa.RSAPrivateKey:
    """Return the key pair of `dogu`; it is generated on first use and cached."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(dogu: str) -> bytes:
    """Return the private key of `dogu` as stored on disk (PKCS#1 PEM)."""
    return private_key(dogu).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def encrypted(dogu: str, value: str) -> str:
    """Encrypt a short `value` for `dogu` with the key provider `oaesp`."""
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=b"ces-config")
    sealed = private_key(dogu).public_key().encrypt(value.encode(), oaep)
    return base64.b64encode(sealed).decode()


def fill(registry: Path, repository: Path, key: str) -> None:
    """Write all keys of the instance, with `repository` and its encryption key `key`."""
    registry.mkdir(parents=True)
    registry.chmod(0o700)
    for name, value in {
        "config/_global/fqdn": "ces.example.org",
        "config/_global/domain": "example.org",
        "config/_global/key_provider": "oaesp",
        "config/_global/admin_group": "cesAdmin",
        "config/_global/default_dogu": "cockpit",
        "config/_global/certificate/type": "selfsigned",
        "config/_global/proxy/enabled": "false",
        "config/_global/empty": "",
        "config/_global/banner": 'zwei Zeilen, "Zitat"\nund ein \N{ROCKET}\n',
        "config/_host/logging/level": "INFO",
        "config/backup/active": "true",
        "config/backup/backup_type": "local",
        "config/backup/local_config/path": str(repository),
        "config/backup/encryption_key": key,
        "config/backup/time": '{"Times":["02:30:00"]}',
        "config/backup/ignore_dogu_health": "true",  # none of these dogus is running
        "config/backup/retention_enabled": "true",
        "config/backup/retention_strategy": "keepLastSevenDays",
        "config/backup/deny_cross_blueprint_restores": "false",
        "blueprint": json.dumps({"blueprintId": _BLUEPRINT, "blueprintApi": "v2"}),
    }.items():
        write(registry, name, value)
    for dogu in DOGUS:
        _register(registry, dogu)
    _describe(registry, REMOVED, REMOVED.version)


def _register(registry: Path, dogu: Dogu) -> None:
    public = (
        private_key(dogu.name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    )
    config = f"config/{dogu.name}"
    write(registry, f"{config}/public.pem", public.decode())
    write(registry, f"{config}/logging/root", "WARN")
    write(registry, f"{config}/container_config/memory_limit", "1g")
    for producer in dogu.needs:
        if producer not in {"postgresql", "mariadb", "ldap", "cas"}:
            continue
        account = f"{config}/sa-{producer}"
        write(registry, f"{account}/username", encrypted(dogu.name, f"{dogu.name}_x7"))
        write(registry, f"{account}/password", encrypted(dogu.name, f"secret of {dogu.name}"))
        if producer in {"postgresql", "mariadb"}:
            write(registry, f"{account}/database", encrypted(dogu.name, dogu.name))
    write(registry, f"state/{dogu.name}", "ready")
    for port in dogu.ports:
        service = json.dumps({"name": dogu.name, "service": f"172.18.0.2:{port}", "port": port})
        write(registry, f"services/{dogu.name}/registrator:{dogu.name}:{port}", service)
    install(registry, dogu, dogu.version)


def install(registry: Path, dogu: Dogu, version: str) -> None:
    """Make `version` the current one of `dogu`; earlier versions stay in the registry."""
    _describe(registry, dogu, version)
    write(registry, f"dogu/{dogu.name}/current", version)
    if not dogu.only_v1:
        write(registry, f"dogu_v2/{dogu.name}/current", version)


def _describe(registry: Path, dogu: Dogu, version: str) -> None:
    write(registry, f"dogu/{dogu.name}/{version}", dogu.document(v1=True, version=version))
    if not dogu.only_v1:
        write(registry, f"dogu_v2/{dogu.name}/{version}", dogu.document(version=version))
