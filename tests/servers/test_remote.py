"""The same checks on every kind of storage: restores equal restic's, states are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from cesbrfs.errors import BucketMissingError, CesbrError
from cesbrfs.readiness import State, by_reader, by_restic, ensure_ready, initialise
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.restic import Restic
from cesbrfs.restore import ToDirectory, execute, make_plan, select
from cesbrfs.util.secret import Secret
from cesbrfs.vfs.tree import BackupTree
from tests.sample.instance import Instance
from tests.support.compare import Record, differences, records
from tests.support.rest import PASSWORD as REST_PASSWORD
from tests.support.rest import RestServer
from tests.support.restic_repo import PASSWORD, ResticRepo, create
from tests.support.seaweed import BUCKET, SECRET, SeaweedFS

KEY = Secret(PASSWORD.encode())
_VOLUMES = ("files", "plugins")
_REST = {
    "rest": "rest_server",
    "rest-tls": "rest_tls_server",
    "rest-server": "own_rest_server",
}
"""The fixtures: rclone with and without TLS, and restic's own."""


@dataclass(frozen=True)
class Place:
    """A storage for repositories, with functions to access it and to copy files to it."""

    base: str
    environment: Mapping[str, str]
    put: Callable[[Path, str], None]

    def access(self, name: str) -> Access:
        """Return the access to the repository `name`."""
        return Access(f"{self.base}/{name}", KEY, {}, self.environment)


@pytest.fixture(params=["s3", "s3-tls", "rest", "rest-tls", "rest-server", "rclone"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of storage, with a real server."""
    kind: str = request.param
    if kind.startswith("s3"):
        s3: SeaweedFS = request.getfixturevalue("seaweed")
        url = s3.tls_url if kind.endswith("tls") else s3.url

        def upload(directory: Path, name: str) -> None:
            s3.upload(directory, BUCKET, name)

        return Place(f"{url}/{BUCKET}", s3.environment, upload)
    if kind == "rclone":
        request.getfixturevalue("rclone")
        root = tmp_path / "remote"
        root.mkdir()
        base, environment = f"rclone:{root}", {}
    else:
        server: RestServer = request.getfixturevalue(_REST[kind])
        root, base, environment = server.root, server.url, server.environment
    return Place(base, environment, lambda directory, name: _copy(directory, root / name))


def _copy(directory: Path, target: Path) -> None:
    shutil.copytree(directory, target)


@pytest.fixture(scope="module")
def sample_repo(
    tmp_path_factory: pytest.TempPathFactory,
    make_instance: Callable[[Path], Instance],
    restic_old: Path,
) -> ResticRepo:
    """A snapshot of the sample volumes with all unusual files; only to be copied."""
    directory = tmp_path_factory.mktemp("remote")
    sample = make_instance(directory / "instance")
    repo = create(restic_old, directory / "repository")
    volumes = [sample.volume("redmine", name) for name in _VOLUMES]
    repo.backup(*volumes, tags=["B1"])
    return repo


def _comparable(found: dict[bytes, Record]) -> dict[bytes, Record]:
    """Exclude what restic does not restore: sockets, links between symlinks, the year 2400."""
    return {
        path: replace(record, twins=frozenset())
        for path, record in found.items()
        if not path.endswith((b"/socket", b"/times/2400"))
    }


async def test_reading_equals_restic_s_restore(
    place: Place, sample_repo: ResticRepo, restic_old: Path, restic_new: Path, tmp_path: Path
) -> None:
    """Our reader and each restic restore the same files from the server."""
    place.put(sample_repo.directory, tmp_path.name)
    access = place.access(tmp_path.name)
    ours = tmp_path / "ours"
    repository = await Repository.open(open_storage(access), access.key)
    view = BackupTree(repository)
    selection = select([await view.resolve("/B1/redmine/volumes")])
    report = await execute(view, await make_plan(view, selection, ToDirectory(ours)))
    await repository.aclose()
    assert not report.failed
    found = {name: _comparable(records(str(ours / "redmine/volumes" / name))) for name in _VOLUMES}
    assert sum(map(len, found.values())) > 20
    for binary in (restic_old, restic_new):
        theirs = tmp_path / f"theirs {binary == restic_new}"
        driver = await Restic.open(access, binary=str(binary))
        flags = [*driver._flags, "--no-cache", "restore", "latest", "--no-lock", "-q"]
        await trio.run_process(
            [binary, *flags, "--target", theirs],
            env={**driver._environment, "RESTIC_PASSWORD": PASSWORD},
            capture_stdout=True,
        )
        for name in _VOLUMES:
            (top,) = theirs.glob(f"**/redmine/volumes/{name}")
            assert not differences(found[name], _comparable(records(str(top))))


async def test_states(
    place: Place, sample_repo: ResticRepo, restic_binary: Path, tmp_path: Path
) -> None:
    """Reader and restic report the same state: missing, ready, or wrong key."""
    access = place.access(tmp_path.name)
    wrong = replace(access, key=Secret(b"another"))

    async def states(access: Access) -> list[State]:
        restic = await Restic.open(access, binary=str(restic_binary))
        return [(await by_reader(access)).state, (await by_restic(restic)).state]

    assert await states(access) == [State.MISSING, State.MISSING]
    place.put(sample_repo.directory, tmp_path.name)
    assert await states(access) == [State.READY, State.READY]
    assert await states(wrong) == [State.WRONG_KEY, State.WRONG_KEY]


async def test_what_lost_its_config_is_not_initialised(
    place: Place, sample_repo: ResticRepo, restic_binary: Path, tmp_path: Path
) -> None:
    """Keys and packs exist: a new config would make them inaccessible."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(sample_repo.directory, spoilt)
    (spoilt / "config").unlink()
    place.put(spoilt, tmp_path.name)
    access = place.access(tmp_path.name)
    restic = await Restic.open(access, binary=str(restic_binary))
    assert (await by_reader(access)).state is State.DAMAGED
    assert (await by_restic(restic)).state is State.DAMAGED


_NO_ROLE = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"}
"""Else both would ask the network for an EC2 instance's service."""

TROUBLES: dict[str, tuple[str, str, dict[str, str], State]] = {
    "s3, wrong secret": ("s3", BUCKET, {"AWS_SECRET_ACCESS_KEY": "wrong"}, State.DENIED),
    "s3, wrong key id": ("s3", BUCKET, {"AWS_ACCESS_KEY_ID": "wrong"}, State.DENIED),
    "s3, no credentials": (
        "s3",
        BUCKET,
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", **_NO_ROLE},
        State.DENIED,
    ),
    "s3, no permission": (
        "s3",
        BUCKET,
        {"AWS_ACCESS_KEY_ID": "another-key-id", "AWS_SECRET_ACCESS_KEY": "another-secret"},
        State.DENIED,
    ),
    "s3, untrusted": ("s3-tls", BUCKET, {"RESTIC_CACERT": ""}, State.UNTRUSTED),
    "rest, wrong password": ("rest", "x", {"RESTIC_REST_PASSWORD": "wrong"}, State.DENIED),
    "rest, untrusted": ("rest-tls", "x", {"RESTIC_CACERT": ""}, State.UNTRUSTED),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_reader_and_restic_agree_on_troubles(
    trouble: str,
    seaweed: SeaweedFS,
    rest_server: RestServer,
    rest_tls_server: RestServer,
    restic_binary: Path,
) -> None:
    """Both report the same error, and none counts as a missing repository."""
    kind, name, changed, state = TROUBLES[trouble]
    url, environment = {
        "s3": (seaweed.url, seaweed.environment),
        "s3-tls": (seaweed.tls_url, seaweed.environment),
        "rest": (rest_server.url, rest_server.environment),
        "rest-tls": (rest_tls_server.url, rest_tls_server.environment),
    }[kind]
    access = Access(f"{url}/{name}", KEY, {}, {**environment, **changed})
    verdicts = [
        await by_reader(access),
        await by_restic(await Restic.open(access, binary=str(restic_binary))),
    ]
    assert [verdict.state for verdict in verdicts] == [state, state]
    for verdict in verdicts:
        assert verdict.error is not None
        assert verdict.error.exit_code == 1
        assert not [secret for secret in (SECRET, REST_PASSWORD) if secret in verdict.error.message]


async def test_no_bucket_is_made_unasked(
    seaweed: SeaweedFS, restic_binary: Path, tmp_path: Path
) -> None:
    """A missing bucket suggests a wrong address: only `init` creates it."""
    bucket = f"new-{tmp_path.name.rpartition('_')[2]}"
    access = Access(f"{seaweed.url}/{bucket}/place", KEY, {}, seaweed.environment)
    told: list[str] = []

    async def open_restic() -> Restic:
        return await Restic.open(access, binary=str(restic_binary))

    for verdict in (await by_reader(access), await by_restic(await open_restic())):
        assert verdict.state is State.MISSING
        assert type(verdict.error) is BucketMissingError
        assert verdict.error.exit_code == 10
    for through_restic in (False, True):
        with pytest.raises(CesbrError, match=r"bucket of .* does not exist"):
            await ensure_ready(
                access,
                open_restic=open_restic,
                auto_init=True,
                say=told.append,
                through_restic=through_restic,
            )
    assert not seaweed.names(bucket)
    assert await initialise(access, open_restic=open_restic, say=told.append)
    assert seaweed.names(bucket) == {"place"}
    assert len(told) == 1
    assert (await by_reader(access)).state is State.READY
