"""Credentials of AWS roles: requests, renewal, and errors without credentials.

The real services exist only on machines at AWS; the tests use replacements on loopback. restic
reads through them as well, which confirms that they behave like the real ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cesbrfs.errors import CesbrError, RepositoryDeniedError, RepositoryUnreachableError, UsageError
from cesbrfs.readiness import State, by_reader, by_restic
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.s3.credentials import CredentialsProvider
from cesbrfs.restic import Restic
from cesbrfs.util.secret import Secret
from tests.support.processes import free_ports
from tests.support.restic_repo import PASSWORD, create
from tests.support.roles import PROOF, Roles, giving
from tests.support.seaweed import BUCKET, KEY_ID, SECRET, SeaweedFS

_ACCESS = Access("s3:http://127.0.0.1/bucket", Secret(b"key"))


@pytest.fixture
def roles() -> Iterator[Roles]:
    """A service that returns the credentials of the real server."""
    with giving(KEY_ID, SECRET) as made:
        yield made


async def test_reader_and_restic_read_by_the_role_of_a_container(
    seaweed: SeaweedFS, roles: Roles, restic_new: Path, restic_old: Path, tmp_path: Path
) -> None:
    """Both use the service named in the environment, and find the repository ready."""
    repo = create(restic_old, tmp_path / "repository")
    seaweed.upload(repo.directory, BUCKET, tmp_path.name)
    url = f"{seaweed.url}/{BUCKET}/{tmp_path.name}"
    access = Access(url, Secret(PASSWORD.encode()), {}, roles.container)
    assert (await by_reader(access)).state is State.READY
    assert roles.asked == ["GET /container"], "once for all requests"
    for binary in (restic_old, restic_new):
        before = len(roles.asked)
        restic = await Restic.open(access, binary=str(binary))
        assert (await by_restic(restic)).state is State.READY
        assert len(roles.asked) > before


async def test_the_role_of_an_instance(roles: Roles) -> None:
    """Requests a token, the role, and its credentials: once for many requests."""
    signer = CredentialsProvider(_ACCESS, metadata=roles.url)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(signer.current)
    found = await signer.current()
    assert found is not None
    assert (found.key_id, found.secret.value) == (KEY_ID, SECRET.encode())
    where = "/latest/meta-data/iam/security-credentials/"
    assert roles.asked == ["PUT /latest/api/token", f"GET {where}", f"GET {where}the-role"]
    assert SECRET not in repr(signer) + repr(found)


async def test_what_is_written_comes_first(roles: Roles, isolated_env: Path) -> None:
    """The environment, then the file take precedence; the service is not queried."""
    own = {"AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "secret"}
    signer = CredentialsProvider(replace(_ACCESS, environment={**roles.container, **own}))
    assert (found := await signer.current()) is not None
    assert found.key_id == "own"
    (isolated_env / ".aws").mkdir()
    (isolated_env / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = filed\naws_secret_access_key = secret\n"
    )
    signer = CredentialsProvider(replace(_ACCESS, environment=roles.container))
    assert (found := await signer.current()) is not None
    assert found.key_id == "filed"
    assert not roles.asked


async def test_renewed_before_they_end(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials are renewed shortly before they expire; on failure the old ones are used."""
    now = begun = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    roles.seconds = 1_000.0
    signer = CredentialsProvider(replace(_ACCESS, environment=roles.container))

    async def key_id() -> str:
        found = await signer.current()
        assert found is not None
        return found.key_id

    assert await key_id() == KEY_ID
    roles.key_id = "another"
    now = begun + 700
    assert await key_id() == KEY_ID
    now = begun + 850
    assert await key_id() == "another"
    assert len(roles.asked) == 2
    roles.serving = False
    now = begun + 990
    assert await key_id() == "another"
    now = begun + 1_100
    with pytest.raises(RepositoryUnreachableError, match="have expired and cannot be renewed"):
        await key_id()
    roles.serving, roles.seconds = True, None
    assert await key_id() == "another"
    before = len(roles.asked)
    now = begun + 1e9
    assert await key_id() == "another"
    assert len(roles.asked) == before


async def test_no_credentials(roles: Roles, tmp_path: Path) -> None:
    """Each cause has its own message, and none takes long."""
    (nobody,) = free_ports(1)
    full, token = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"
    troubles: list[tuple[dict[str, str], type[CesbrError], str]] = [
        ({}, RepositoryDeniedError, "No credentials .* or assign a role"),
        (
            {full: f"http://127.0.0.1:{nobody}"},
            RepositoryDeniedError,
            r"AWS_CONTAINER_.*invalid response",
        ),
        ({**roles.container, token: ""}, RepositoryDeniedError, "HTTP 401"),
        ({full: "http://elsewhere.invalid/"}, UsageError, "refers to another machine"),
        ({**roles.container, f"{token}_FILE": "/nowhere"}, UsageError, "Cannot read /nowhere"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "x"}, UsageError, "not supported"),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "x"}, UsageError, "restic does not support it"),
        (
            {"RESTIC_AWS_ASSUME_ROLE_ARN": "x", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_KEY": "b"},
            UsageError,
            "assuming a role is not supported",
        ),
    ]
    for environment, kind, sentence in troubles:
        access = replace(_ACCESS, environment=environment)
        signer = CredentialsProvider(access, metadata=f"http://127.0.0.1:{nobody}")
        with trio.fail_after(5), pytest.raises(kind, match=sentence) as raised:
            await signer.current()
        assert PROOF not in raised.value.message
    proof = tmp_path / "proof"
    proof.write_text(PROOF)
    named = {**roles.container, token: "", f"{token}_FILE": str(proof)}
    assert await CredentialsProvider(replace(_ACCESS, environment=named)).current() is not None
