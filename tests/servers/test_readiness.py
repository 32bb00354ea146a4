"""The state of a repository, and the cases in which it must not be initialised."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio

from cesbrfs import readiness
from cesbrfs.errors import (
    CesbrError,
    RepositoryDamagedError,
    RepositoryDeniedError,
    RepositoryLockedError,
    RepositoryMissingError,
    ResticError,
    WrongKeyError,
)
from cesbrfs.readiness import State, by_reader, by_restic, ensure_ready, initialise, open_ready
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.restic import Restic
from cesbrfs.util.secret import Secret
from tests.support.restic_repo import PASSWORD, create
from tests.support.rights import for_everyone, give_away, open_directory, without_rights

KEY = Secret(PASSWORD.encode())
WRONG_KEY = Secret(b"another key")

A_NAME = "ab" * 32


@dataclass(slots=True)
class Setting:
    """The address of a repository, its restic, and the notices printed to the user."""

    access: Access
    binary: Path
    told: list[str] = field(default_factory=list)
    opened: int = 0
    cache: Path | None = None

    async def open_restic(self) -> Restic:
        """Open restic and count the call."""
        self.opened += 1
        return await Restic.open(self.access, binary=str(self.binary))

    async def ensure(self, *, auto_init: bool = True, through_restic: bool = False) -> bool:
        """Run the check that precedes every command."""
        return await ensure_ready(
            self.access,
            open_restic=self.open_restic,
            auto_init=auto_init,
            say=self.told.append,
            through_restic=through_restic,
            cache_dir=self.cache,
        )

    async def initialise(self, *, force: bool = False) -> bool:
        """Run the command init."""
        return await initialise(
            self.access,
            open_restic=self.open_restic,
            say=self.told.append,
            cache_dir=self.cache,
            force=force,
        )

    async def open(self, cache: Path) -> Repository:
        """Run a command that reads."""
        return await open_ready(
            self.access,
            open_restic=self.open_restic,
            auto_init=True,
            say=self.told.append,
            caching=CacheConfig(directory=cache),
        )


@pytest.fixture
def empty_repository(restic_binary: Path, tmp_path: Path) -> Path:
    """An initialised repository without snapshots, which the test may damage."""
    return create(restic_binary, tmp_path / "repository").directory


through = pytest.mark.parametrize("through_restic", [False, True], ids=["reader", "restic"])


def files_below(top: Path) -> dict[str, bytes | None]:
    """Return the paths below `top` with their content."""
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else None
        for path in top.rglob("*")
    }


class TestTheSeedsTables:
    """The tables of states and required reactions, row by row."""

    @through
    async def test_uninitialised(
        self, restic_binary: Path, tmp_path: Path, through_restic: bool
    ) -> None:
        """With any key the repository is created at the configured address, with a notice."""
        setting = Setting(Access(str(tmp_path / "new"), KEY), restic_binary)
        assert await setting.ensure(through_restic=through_restic) is True
        (sentence,) = setting.told
        assert setting.access.url in sentence
        assert "initialised" in sentence
        assert (await by_reader(setting.access)).state is State.READY
        assert (await by_reader(Access(setting.access.url, WRONG_KEY))).state is State.WRONG_KEY
        assert await setting.ensure(through_restic=through_restic) is False
        assert setting.told == [sentence]

    @through
    async def test_initialised_and_the_key_is_incorrect(
        self, restic_binary: Path, empty_repository: Path, through_restic: bool
    ) -> None:
        """The command fails; the message names the repository and reports a wrong key."""
        before = files_below(empty_repository)
        setting = Setting(Access(str(empty_repository), WRONG_KEY), restic_binary)
        with pytest.raises(WrongKeyError) as raised:
            await setting.ensure(through_restic=through_restic)
        assert raised.value.exit_code == 12
        assert (
            f"Wrong encryption key for the repository at {empty_repository}" in raised.value.message
        )
        assert files_below(empty_repository) == before
        assert setting.told == []

    @through
    async def test_initialised_and_the_key_is_correct(
        self, restic_binary: Path, empty_repository: Path, through_restic: bool
    ) -> None:
        """The repository is unchanged; the command continues, without restic if it only reads."""
        before = files_below(empty_repository)
        setting = Setting(Access(str(empty_repository), KEY), restic_binary)
        assert await setting.ensure(through_restic=through_restic) is False
        assert files_below(empty_repository) == before
        assert setting.told == []
        assert setting.opened == int(through_restic)


Make = Callable[[Path], None]
"""Makes something of an initialised repository."""


def _remove(*names: str) -> Make:
    def make(repository: Path) -> None:
        for name in names:
            for path in repository.glob(name) if name else [repository]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def _write(name: str, content: bytes) -> Make:
    def make(repository: Path) -> None:
        for path in repository.glob(name):
            path.chmod(0o600)
            path.write_bytes(content)

    return make


def _left(name: str) -> Make:
    """Remove everything from a repository except one file."""

    def make(repository: Path) -> None:
        shutil.rmtree(repository)
        (repository / name).parent.mkdir(parents=True)
        (repository / name).write_bytes(b"something")

    return make


def _other_files(repository: Path) -> None:
    shutil.rmtree(repository)
    (repository / "data").mkdir(parents=True)
    (repository / "photo.jpg").write_bytes(b"something")


def _file_in_its_place(repository: Path) -> None:
    shutil.rmtree(repository)
    repository.write_bytes(b"something")


CASES: dict[str, tuple[Make, Secret, State]] = {
    "nothing": (_remove(""), KEY, State.MISSING),
    "an empty directory": (_remove("*"), KEY, State.MISSING),
    "a directory of other files": (_other_files, KEY, State.MISSING),
    "initialised": (_remove(), KEY, State.READY),
    "wrong key": (_remove(), WRONG_KEY, State.WRONG_KEY),
    "lost its config": (_remove("config"), KEY, State.DAMAGED),
    "lost its config, wrong key": (_remove("config"), WRONG_KEY, State.DAMAGED),
    "only a key is left": (_left(f"keys/{A_NAME}"), KEY, State.DAMAGED),
    "only a snapshot is left": (_left(f"snapshots/{A_NAME}"), KEY, State.DAMAGED),
    "only an index is left": (_left(f"index/{A_NAME}"), KEY, State.DAMAGED),
    "only a pack is left": (_left(f"data/ab/{A_NAME}"), KEY, State.DAMAGED),
    "empty config": (_write("config", b""), KEY, State.DAMAGED),
    "empty config, wrong key": (_write("config", b""), WRONG_KEY, State.DAMAGED),
    "broken config": (_write("config", b"x" * 200), KEY, State.DAMAGED),
    "broken config, wrong key": (_write("config", b"x" * 200), WRONG_KEY, State.WRONG_KEY),
    "lost its keys": (_remove("keys/*"), KEY, State.DAMAGED),
    "broken key": (_write("keys/*", b"garbage"), KEY, State.DAMAGED),
    "a file in its place": (_file_in_its_place, KEY, State.UNREACHABLE),
}

EXIT_CODES = {State.MISSING: 10, State.WRONG_KEY: 12}


class TestStates:
    """Reader and restic agree, and only a missing repository is initialised."""

    @pytest.mark.parametrize(("make", "key", "state"), CASES.values(), ids=CASES)
    async def test_reader_and_restic_agree(
        self, restic_binary: Path, empty_repository: Path, make: Make, key: Secret, state: State
    ) -> None:
        """The same state, and an error with the same exit code that names the repository."""
        make(empty_repository)
        setting = Setting(Access(str(empty_repository), key), restic_binary)
        for verdict in (
            await by_reader(setting.access),
            await by_restic(await setting.open_restic()),
        ):
            assert verdict.state is state
            if state is State.READY:
                assert verdict.error is None
            else:
                assert verdict.error is not None
                assert verdict.error.exit_code == EXIT_CODES.get(state, 1)
                assert setting.access.url in verdict.error.message

    @through
    @pytest.mark.parametrize(
        ("make", "key"),
        [case[:2] for case in CASES.values() if case[2] not in (State.MISSING, State.READY)],
        ids=[name for name, case in CASES.items() if case[2] not in (State.MISSING, State.READY)],
    )
    async def test_none_of_these_is_initialised(
        self, restic_old: Path, tmp_path: Path, make: Make, key: Secret, through_restic: bool
    ) -> None:
        """Nothing is written, even by a restic that would write to one without a config file."""
        repository = create(restic_old, tmp_path / "place/repository").directory
        make(repository)
        before = files_below(tmp_path / "place")
        setting = Setting(Access(str(repository), key), restic_old)
        for attempt in (partial(setting.ensure, through_restic=through_restic), setting.initialise):
            with pytest.raises(CesbrError):
                await attempt()
        assert files_below(tmp_path / "place") == before
        assert setting.told == []

    @pytest.mark.parametrize("closed", [".", "config", "keys"], ids=["directory", "config", "keys"])
    async def test_a_refusal_is_no_absence(
        self, restic_binary: Path, empty_repository: Path, closed: str
    ) -> None:
        """If permission is denied, reader and restic report that within seconds."""
        with open_directory() as directory:
            repository = Path(shutil.move(empty_repository, directory / "repository"))
            give_away(repository)
            (repository / closed).chmod(0)
            setting = Setting(Access(str(repository), KEY), for_everyone(restic_binary, directory))
            with without_rights():
                verdicts = [
                    await by_reader(setting.access),
                    await by_restic(await setting.open_restic()),
                ]
                for through_restic in (False, True):
                    with pytest.raises(RepositoryDeniedError):
                        await setting.ensure(through_restic=through_restic)
            (repository / closed).chmod(0o700)
            assert len(os.listdir(repository / "keys")) == 1
        assert [verdict.state for verdict in verdicts] == [State.DENIED, State.DENIED]
        assert setting.told == []

    async def test_no_right_to_create_it(self, restic_binary: Path) -> None:
        """If the directory cannot be created, the error is "permission denied" as well."""
        with open_directory() as directory:
            closed = directory / "closed"
            closed.mkdir(mode=0o555)
            binary = for_everyone(restic_binary, directory)
            setting = Setting(Access(str(closed / "new"), KEY), binary)
            with without_rights(), pytest.raises(RepositoryDeniedError, match="closed/new"):
                await setting.ensure()
            assert os.listdir(closed) == []
        assert setting.told == []


class TestInitialisation:
    """A repository is created once, completely, and only where it is wanted."""

    async def test_parents_are_made(self, restic_old: Path, tmp_path: Path) -> None:
        """Missing parent directories are created."""
        setting = Setting(Access(str(tmp_path / "a/b/c"), KEY), restic_old)
        assert await setting.ensure()

    @pytest.mark.parametrize(
        "other", ["photo.jpg", "photos/1.jpg", "data/1.jpg", "data/ab/1.jpg", "keys/private.pem"]
    )
    @through
    async def test_not_in_a_directory_of_other_files(
        self, restic_old: Path, tmp_path: Path, other: str, through_restic: bool
    ) -> None:
        """The address is probably mistyped: nothing is written, not even by `init`."""
        (tmp_path / "place" / other).parent.mkdir(parents=True)
        (tmp_path / "place" / other).write_bytes(b"photo")
        before = files_below(tmp_path / "place")
        setting = Setting(Access(str(tmp_path / "place"), KEY), restic_old)
        for attempt in (partial(setting.ensure, through_restic=through_restic), setting.initialise):
            with pytest.raises(RepositoryMissingError, match="not empty") as raised:
                await attempt()
            assert raised.value.exit_code == 10
            assert other.partition("/")[0] in raised.value.message
        assert files_below(tmp_path / "place") == before
        assert not setting.told

    async def test_directories_of_an_init_that_was_interrupted(
        self, restic_binary: Path, tmp_path: Path
    ) -> None:
        """Empty directories, or lost+found of a new file system, do not prevent `init`."""
        for name in ("data/ab", "keys", "snapshots", "index", "locks", "lost+found"):
            (tmp_path / "place" / name).mkdir(parents=True)
        setting = Setting(Access(str(tmp_path / "place"), KEY), restic_binary)
        assert await setting.ensure()

    @through
    async def test_not_where_the_cache_knows_one(
        self, restic_old: Path, tmp_path: Path, through_restic: bool
    ) -> None:
        """A cached repository's disk is probably not mounted; `init --force` creates one anyway."""
        cache = tmp_path / "cache"
        place = tmp_path / "mnt/repository"
        setting = Setting(Access(str(place), KEY), restic_old, cache=cache)
        assert await setting.ensure()
        repository = await setting.open(cache)
        await repository.aclose()
        shutil.rmtree(tmp_path / "mnt")
        (tmp_path / "mnt").mkdir()
        for attempt in (
            partial(setting.ensure, through_restic=through_restic),
            setting.initialise,
            partial(setting.open, cache),
        ):
            with pytest.raises(RepositoryMissingError, match="existed when") as raised:
                await attempt()
            assert raised.value.exit_code == 10
            assert "init --force" in raised.value.message
        assert os.listdir(tmp_path / "mnt") == []
        assert await setting.initialise(force=True)

    @through
    async def test_not_below_a_mountpoint_that_is_not_mounted(
        self,
        restic_old: Path,
        tmp_path: Path,
        through_restic: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The backup disk is not mounted: data would be written to the system disk."""
        point = tmp_path / "back up"
        point.mkdir()
        (tmp_path / "link").symlink_to(point)
        fstab = tmp_path / "fstab"
        escaped = str(point).replace(" ", "\\040")
        fstab.write_text(f"# disks\nproc /proc proc defaults 0 0\n/dev/sdx1 {escaped} ext4 ro\n")
        monkeypatch.setenv("LIBMOUNT_FSTAB", str(fstab))
        for place in (point / "a/repository", point, tmp_path / "link/repository"):
            setting = Setting(Access(str(place), KEY), restic_old)
            for attempt in (
                partial(setting.ensure, through_restic=through_restic),
                setting.initialise,
            ):
                with pytest.raises(RepositoryMissingError, match="nothing is mounted") as raised:
                    await attempt()
                assert raised.value.exit_code == 10
        assert os.listdir(point) == []
        beside = Setting(Access(str(tmp_path / "back up2"), KEY), restic_old)
        assert await beside.ensure()

    @through
    async def test_not_where_the_user_does_not_want_it(
        self, restic_old: Path, tmp_path: Path, through_restic: bool
    ) -> None:
        """With --no-init, a missing repository is error 10 with a hint how to create one."""
        setting = Setting(Access(str(tmp_path / "new"), KEY), restic_old)
        with pytest.raises(RepositoryMissingError, match="cesbr init") as raised:
            await setting.ensure(auto_init=False, through_restic=through_restic)
        assert raised.value.exit_code == 10
        assert "new" not in os.listdir(tmp_path)

    async def test_the_command_init_tells_what_it_did(
        self, restic_binary: Path, tmp_path: Path
    ) -> None:
        """`init` creates a repository, keeps an existing one, and fails with a wrong key."""
        setting = Setting(Access(str(tmp_path / "new"), KEY), restic_binary)
        assert await setting.initialise() is True
        before = files_below(tmp_path / "new")
        assert await setting.initialise() is False
        assert files_below(tmp_path / "new") == before
        assert "Initialised the repository" in setting.told[0]
        assert "already exists" in setting.told[1]
        other = Setting(Access(setting.access.url, WRONG_KEY), restic_binary)
        with pytest.raises(WrongKeyError):
            await other.initialise()

    async def test_two_at_once(self, restic_binary: Path, tmp_path: Path) -> None:
        """One process initialises, the others use the result; the repository has one key."""
        settings = [
            Setting(Access(str(tmp_path / "new"), KEY), restic_binary) for _number in range(3)
        ]
        made: list[bool] = []

        async def ensure(setting: Setting) -> None:
            made.append(await setting.ensure())

        async with trio.open_nursery() as nursery:
            for setting in settings:
                nursery.start_soon(ensure, setting)
        assert sorted(made) == [False, False, True]
        assert sum(len(setting.told) for setting in settings) == 1
        assert len(os.listdir(tmp_path / "new/keys")) == 1
        assert (await by_reader(settings[0].access)).state is State.READY

    async def test_anothers_half_done_work_is_waited_for(
        self, restic_old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A key without a config may be an initialisation that is still running."""
        create(restic_old, tmp_path / "new")
        setting = Setting(Access(str(tmp_path / "new"), KEY), restic_old)
        os.rename(tmp_path / "new/config", tmp_path / "aside")
        take_turn = readiness._bound

        def finish_and_take_turn(*arguments: object) -> bool:
            os.rename(tmp_path / "aside", tmp_path / "new/config")
            return take_turn(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(readiness, "_bound", finish_and_take_turn)
        assert await setting.ensure() is False
        assert setting.told == []

    async def test_another_that_never_ends_is_told(
        self, restic_old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wait times out."""
        monkeypatch.setattr(readiness, "_OTHERS_TURN", 0.1)
        setting = Setting(Access(str(tmp_path / "new"), KEY), restic_old)
        async with readiness._only_one(setting.access):
            with pytest.raises(RepositoryLockedError, match=setting.access.url):
                await setting.ensure()
        assert setting.told == []

    async def test_another_host_was_faster(self, restic_old: Path, tmp_path: Path) -> None:
        """If `init` fails but the repository is ready by then, that is not an error."""
        access = Access(str(tmp_path / "new"), KEY)

        class Late(Restic):
            async def init(self, source: Restic | None = None) -> None:
                create(restic_old, Path(access.url))
                await super().init(source)

        async def open_late() -> Restic:
            opened = await Restic.open(access, binary=str(restic_old))
            return Late(opened.binary, opened.version, access)

        told: list[str] = []
        assert not await ensure_ready(
            access, open_restic=open_late, auto_init=True, say=told.append
        )
        assert told == []

    async def test_without_restic_it_says_so(self, tmp_path: Path) -> None:
        """With a missing repository and no restic, the reason is reported, nothing created."""
        setting = Setting(Access(str(tmp_path / "new"), KEY), tmp_path / "no-restic")
        with pytest.raises(ResticError, match="no-restic"):
            await setting.ensure()
        assert "new" not in os.listdir(tmp_path)

    async def test_the_opened_repository_is_handed_on(
        self, restic_old: Path, tmp_path: Path
    ) -> None:
        """One call initialises if necessary and opens; a damaged repository is not opened."""
        setting = Setting(Access(str(tmp_path / "new"), KEY), restic_old)
        call = partial(
            open_ready,
            setting.access,
            open_restic=setting.open_restic,
            auto_init=True,
            say=setting.told.append,
        )
        ids = set()
        for _attempt in range(2):
            repository = await call()
            assert await repository.snapshots() == []
            ids.add(repository.id)
            await repository.aclose()
        assert len(ids) == len(setting.told) == setting.opened == 1
        os.remove(tmp_path / "new/config")
        with pytest.raises(RepositoryDamagedError):
            await call()
