"""Sources of S3 credentials, in restic's order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cesbrfs.errors import RepositoryDeniedError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.s3.credentials import CredentialsProvider
from cesbrfs.util.secret import Secret

_PRINTED = {"Version": 1, "AccessKeyId": "ID", "SecretAccessKey": "s3cr3t", "SessionToken": "t"}


def signer(tmp_path: Path, **environment: str) -> CredentialsProvider:
    """Return a signer with these variables, and no other files."""
    none = str(tmp_path / "none")
    files = {"AWS_SHARED_CREDENTIALS_FILE": none, "MINIO_SHARED_CREDENTIALS_FILE": none}
    return CredentialsProvider(
        Access("s3:http://host/b", Secret(b"key"), {}, {**files, **environment})
    )


def program(tmp_path: Path, text: str) -> dict[str, str]:
    """Return the variables that name a profile whose `credential_process` is a shell script."""
    script = tmp_path / "keys"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    file = tmp_path / "credentials"
    file.write_text(f"[p]\ncredential_process = {script} 'an argument'\naws_access_key_id = NO\n")
    return {"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_PROFILE": "p"}


@pytest.mark.parametrize(
    ("key_id", "secret"),
    [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY", "AWS_SECRET_KEY"),
        ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
        ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
    ],
)
async def test_the_environment(tmp_path: Path, key_id: str, secret: str) -> None:
    """Each pair of variables that restic supports."""
    found = await signer(tmp_path, **{key_id: "ID", secret: "s3cr3t"}).current()
    assert found is not None
    assert (found.key_id, found.secret) == ("ID", Secret(b"s3cr3t"))


async def test_a_program_of_a_profile(tmp_path: Path) -> None:
    """Its output has precedence over keys in the same profile."""
    variables = program(tmp_path, f"[ \"$1\" = 'an argument' ] && echo '{json.dumps(_PRINTED)}'")
    found = await signer(tmp_path, **variables).current()
    assert found is not None
    assert (found.key_id, found.secret) == ("ID", Secret(b"s3cr3t"))
    assert found.token == Secret(b"t")


@pytest.mark.parametrize("text", ["exit 3", "echo topsecret", "echo '{}'", "exec /no/such"])
async def test_a_program_that_gives_none(tmp_path: Path, text: str) -> None:
    """The error names the program, but not its output."""
    with pytest.raises(RepositoryDeniedError, match="credential_process of profile 'p'") as caught:
        await signer(tmp_path, **program(tmp_path, text)).current()
    assert "topsecret" not in caught.value.message


@pytest.mark.parametrize("name", ["aliases", "hosts"])
async def test_the_client_of_minio(tmp_path: Path, name: str) -> None:
    """The alias `s3` in both forms of the configuration of MinIO's client."""
    file = tmp_path / "config.json"
    alias = {"url": "http://host", "accessKey": "ID", "secretKey": "s3cr3t", "api": "S3v4"}
    file.write_text(json.dumps({"version": "10", name: {"s3": alias}}))
    found = await signer(tmp_path, MINIO_SHARED_CREDENTIALS_FILE=str(file)).current()
    assert found is not None
    assert (found.key_id, found.secret) == ("ID", Secret(b"s3cr3t"))
