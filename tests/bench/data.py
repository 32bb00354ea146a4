"""Create the repositories to measure, once each, with restic, in one work directory.

`main` contains small real files, a file of random bytes and a text file. The larger repositories
for scaling get synthetic snapshots, indexes and trees, encrypted with the repository's key.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import zstandard

from cesbrfs.repo.format.crypto import Keys, open_master_key, seal_record
from cesbrfs.repo.format.model import parse_key_file
from cesbrfs.repo.format.pack import decode_unpacked
from cesbrfs.repo.kdf import derive_keys
from tests.bench.grown import grow
from tests.sample.instance import build
from tests.support import restic_repo

PASSWORD: Final = "a throw-away key"
BACKUP: Final = "b1"
MIB: Final = 1 << 20

_SOURCES: Final = ("/usr/lib/python3", "/usr/include", "/usr/lib/python3.11", "/usr/share")
_SMALL_BYTES: Final = 64 << 10
_TEXT_SUFFIXES: Final = (".txt", ".py", ".h", ".html", ".md", ".pm", ".xml", ".json", "copyright")
_XATTR_EVERY: Final = 100
_DOGUS: Final = 12
_BLOBS_PER_INDEX: Final = 50_000
_BLOBS_PER_PACK: Final = 40
_TREE_PACK_EVERY: Final = 20
_DOCUMENTS: Final = 28
"""Metadata, registry data and manifest of a backup of the sample instance."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the repositories: numbers of files, backups and blobs; sizes in MiB.

    `history` is the number of backups and of files in each; `tab_files` of names in a directory.
    """

    mode: str
    small_files: int
    small_directories: int
    grep_files: int
    random_mib: int
    text_mib: int
    directory_files: tuple[int, ...]
    backups: tuple[int, ...]
    blobs: tuple[int, ...]
    history: tuple[int, int]
    tab_files: tuple[int, ...]
    tab_backups: int
    far_files: int
    far_few: int
    far_mib: int
    restore_files: int
    restore_directories: int
    restore_one_of: int


FULL: Final = Sizes(
    mode="full",
    small_files=70_000,
    small_directories=10_000,
    grep_files=10_000,
    random_mib=1024,
    text_mib=512,
    directory_files=(1_000, 10_000, 100_000, 1_000_000),
    backups=(10, 100, 1_000),
    blobs=(100_000, 1_000_000, 5_000_000),
    history=(200, 50_000),
    tab_files=(20, 1_000, 100_000),
    tab_backups=1_000,
    far_files=20_000,
    far_few=1_000,
    far_mib=256,
    restore_files=70_000,
    restore_directories=10_000,
    restore_one_of=100_000,
)
QUICK: Final = Sizes(
    mode="quick",
    small_files=4_000,
    small_directories=570,
    grep_files=2_000,
    random_mib=128,
    text_mib=64,
    directory_files=(5_000,),
    backups=(100,),
    blobs=(100_000,),
    history=(20, 5_000),
    tab_files=(20, 5_000),
    tab_backups=100,
    far_files=4_000,
    far_few=200,
    far_mib=64,
    restore_files=5_000,
    restore_directories=700,
    restore_one_of=5_000,
)


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository in `directory`; `volume` was backed up as `snapshot`, tagged b1.

    `url` is its address if it is not local, with the required `options` and `environment`.
    """

    name: str
    directory: str
    volume: str
    snapshot: str
    url: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Points:
    """A sample instance, and the same number of paths to back up; `empty` is a new repository."""

    root: Path
    paths: Sequence[str]
    empty: Path


class Store:
    """Creates repositories in `work` with the restic `binary`, each on first use."""

    def __init__(self, work: Path, binary: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.work = work
        self.sizes = sizes
        self._binary = binary
        self._say = say

    def main(self) -> Repo:
        """Small files in ``small/a`` (for grep) and ``small/b``; ``random`` and ``text``."""
        sizes = self.sizes

        def fill(volume: Path) -> None:
            share = sizes.grep_files / sizes.small_files
            some = round(sizes.small_directories * share)
            _spread(volume / "small/a", sizes.grep_files, some)
            _spread(
                volume / "small/b",
                sizes.small_files - sizes.grep_files,
                sizes.small_directories - some,
            )
            _write_random(volume / "random", sizes.random_mib)
            _write_text(volume / "text", sizes.text_mib * MIB)

        wanted = [
            sizes.small_files,
            sizes.small_directories,
            sizes.grep_files,
            sizes.random_mib,
            sizes.text_mib,
        ]
        return self._made(
            "main", wanted, lambda directory: self._backed_up("main", directory, fill)
        )

    def small(self) -> Repo:
        """Small files with different content, evenly distributed over directories."""
        files, directories = self.sizes.restore_files, self.sizes.restore_directories
        return self._made(
            "small",
            [files, directories],
            lambda made: self._backed_up("small", made, lambda v: _spread(v, files, directories)),
        )

    def large(self) -> Repo:
        """``random`` and ``text``."""
        sizes = self.sizes

        def fill(volume: Path) -> None:
            _write_random(volume / "random", sizes.random_mib)
            _write_text(volume / "text", sizes.text_mib * MIB)

        wanted = [sizes.random_mib, sizes.text_mib]
        return self._made("large", wanted, lambda made: self._backed_up("large", made, fill))

    def with_one(self, files: int) -> Repo:
        """`files` one-line files, 100 in each directory, and a file ``one`` of 1 MiB."""

        def fill(volume: Path) -> None:
            for number in range(files):
                directory = volume / f"{number // 100:04}"
                directory.mkdir(exist_ok=True)
                (directory / f"{number % 100:02}").write_text(f"{number}\n")
            _write_random(volume / "one", 1)

        name = f"one-of-{files}"
        return self._made(name, files, lambda made: self._backed_up(name, made, fill))

    def far(self) -> Repo:
        """Small files in ``few`` and ``many``, and ``random``: for remote storages."""
        sizes = self.sizes
        few, many, mib = sizes.far_few, sizes.far_files - sizes.far_few, sizes.far_mib

        def fill(volume: Path) -> None:
            _copy_small(volume / "few", few)
            _copy_small(volume / "many", many)
            _write_random(volume / "random", mib)

        return self._made(
            "far", [few, many, mib], lambda directory: self._backed_up("far", directory, fill)
        )

    def main_as_usual(self) -> Repo:
        """The main repository with restic's key file: key derivation takes half a second."""
        main = self.main()

        def make(directory: Path) -> Repo:
            shutil.copytree(main.directory, directory, copy_function=os.link)
            new = self.work / "password"
            new.write_text(PASSWORD)
            self._restic(directory, "key", "passwd", "--new-password-file", str(new))
            return replace(main, name=directory.name, directory=str(directory))

        return self._made("main-as-usual", main.snapshot, make)

    def files(self, shape: str, count: int) -> Repo:
        """`count` one-line files, in one directory (``flat``) or 100 per directory (``tree``)."""
        return self._made(
            f"{shape}-{count}", count, lambda directory: self._grow(shape, count, directory)
        )

    def backups(self, count: int) -> Repo:
        """`count` backups of the volumes of twelve dogus, one snapshot each."""
        return self._made(
            f"backups-{count}", count, lambda directory: self._multiply(count, directory)
        )

    def blobs(self, count: int) -> Repo:
        """One small backup in a repository with `count` indexed blobs."""
        return self._made(
            f"blobs-{count}", count, lambda directory: self._inflate(count, directory)
        )

    def history(self) -> Repo:
        """Backups of twelve dogus; each backup adds a file ``added-N.txt`` and changes another.

        Unchanged dogus have the same trees again, in separate snapshots.
        """
        backups, files = self.sizes.history
        name = f"history-{backups}"
        return self._made(name, [backups, files], self._go_on)

    def points(self) -> Points:
        """Return the sample instance, whose points of data are volumes and small documents."""
        top = self.work / "points"
        if not top.exists():
            build(top / "instance")
            (top / "documents").mkdir()
            for number in range(_DOCUMENTS):
                (top / f"documents/{number}.json").write_text(json.dumps({"number": number}))
            self._restic(top / "empty", "init", "--repository-version", "2")
        root = top / "instance"
        dogus = sorted((root / "var/lib/ces").glob("*/volumes"))
        paths = [*dogus, root / "etc", *sorted((top / "documents").iterdir())]
        return Points(root, list(map(str, paths)), top / "empty")

    # Creation

    def _made(self, name: str, wanted: object, make: Callable[[Path], Repo]) -> Repo:
        """Return the repository `name`; create it unless it exists with the `wanted` sizes."""
        marker = self.work / "repos" / f"{name}.json"
        if marker.exists():
            said = json.loads(marker.read_bytes())
            if said["wanted"] == wanted:
                return Repo(**said["repo"])
            marker.unlink()
        directory = self.work / "repos" / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        repo = make(directory)
        self._say(f"built the repository {name} in {time.monotonic() - began:.0f} s")
        marker.write_text(json.dumps({"wanted": wanted, "repo": asdict(repo)}))
        return repo

    def _restic(self, directory: Path, *arguments: str) -> None:
        subprocess.run(
            [self._binary, "-r", directory, "--quiet", *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.work),
                "RESTIC_CACHE_DIR": str(self.work / "cache" / "building"),
                "RESTIC_PASSWORD": PASSWORD,
            },
        )

    def _backed_up(self, name: str, directory: Path, fill: Callable[[Path], None]) -> Repo:
        """Fill the only volume of a dogu and back it up."""
        source = self.work / "source" / name
        volume = source / "var/lib/ces/bench/volumes/data"
        shutil.rmtree(source, ignore_errors=True)
        volume.mkdir(parents=True)
        fill(volume)
        # Fast key derivation, unless the start is measured.
        restic_repo.create(self._binary, directory, password=PASSWORD)
        self._restic(directory, "backup", "--tag", BACKUP, str(volume))
        shutil.rmtree(source)
        (snapshot,) = os.listdir(directory / "snapshots")
        return Repo(name, str(directory), str(volume), snapshot)

    def seed(self) -> Repo:
        """Twelve dogus with a few files each, in one snapshot; with restic's key file."""

        def make(directory: Path) -> Repo:
            source = self.work / "source/seed"
            shutil.rmtree(source, ignore_errors=True)
            volumes = [
                source / f"var/lib/ces/dogu{n:02}/volumes/data" for n in range(1, _DOGUS + 1)
            ]
            for volume in volumes:
                volume.mkdir(parents=True)
                for number in range(20):
                    (volume / f"file-{number}.txt").write_text(f"{volume.name} {number}\n")
            self._restic(directory, "init", "--repository-version", "2")
            self._restic(directory, "backup", "--tag", BACKUP, *map(str, volumes))
            shutil.rmtree(source)
            (snapshot,) = os.listdir(directory / "snapshots")
            return Repo("seed", str(directory), str(volumes[0]), snapshot)

        return self._made("seed", None, make)

    def _grow(self, shape: str, count: int, directory: Path) -> Repo:
        def fill(volume: Path) -> None:
            (volume / "file-0000000.txt").write_text("the same line in every file\n")

        repo = self._backed_up(directory.name, directory, fill)
        keys = _keys(directory)
        snapshot, index = grow(directory, PASSWORD, keys, shape, count)
        (directory / "snapshots" / repo.snapshot).unlink()
        _write(directory / "index", keys, index)
        return replace(repo, snapshot=_write(directory / "snapshots", keys, snapshot))

    def _multiply(self, count: int, directory: Path) -> Repo:
        seed = self.seed()
        shutil.copytree(seed.directory, directory)
        keys = _keys(directory)
        only = directory / "snapshots" / seed.snapshot
        model: dict[str, Any] = json.loads(decode_unpacked(keys, only.read_bytes()))
        only.unlink()
        first = datetime(2026, 1, 1, tzinfo=UTC)
        for backup in range(count):
            for number, path in enumerate(sorted(model["paths"])):
                when = first + timedelta(hours=backup, seconds=number)
                tag = BACKUP if not backup else f"backup-{backup:05}"
                made = model | {"time": when.isoformat(), "paths": [path], "tags": [tag]}
                snapshot = _write(directory / "snapshots", keys, json.dumps(made).encode())
        return Repo(directory.name, str(directory), seed.volume, snapshot)

    def _go_on(self, directory: Path) -> Repo:
        backups, files = self.sizes.history
        source = self.work / "source/history"
        shutil.rmtree(source, ignore_errors=True)
        volumes = [source / f"var/lib/ces/dogu{n:02}/volumes/data" for n in range(1, _DOGUS + 1)]
        for number in range(files):
            part = volumes[number % _DOGUS] / f"{number // 4800:02}/{number // 240 % 20:02}"
            part.mkdir(parents=True, exist_ok=True)
            (part / f"file-{number:06}.txt").write_text(f"content {number % 500}\n")
        restic_repo.create(self._binary, directory, password=PASSWORD)
        keys = _keys(directory)
        models: dict[Path, dict[str, Any]] = {}
        first = datetime(2026, 1, 1, tzinfo=UTC)
        snapshot = ""
        for backup in range(backups):
            changed = volumes[backup % _DOGUS]
            (changed / "00/00" / f"added-{backup}.txt").write_text(f"{backup}\n")
            next(changed.glob("00/01/*")).write_text(f"changed {backup}\n")
            for volume in [changed] if backup else volumes:
                there = set((directory / "snapshots").iterdir())
                self._restic(directory, "backup", "--tag", "now", str(volume))
                (made,) = set((directory / "snapshots").iterdir()) - there
                models[volume] = json.loads(decode_unpacked(keys, made.read_bytes()))
                made.unlink()
            for number, volume in enumerate(volumes):
                when = first + timedelta(hours=backup, seconds=number)
                tags = [f"backup-{backup:05}", "kind=volumes", f"dogu=dogu{number + 1:02}"]
                model = models[volume] | {"time": when.isoformat(), "tags": tags}
                snapshot = _write(directory / "snapshots", keys, json.dumps(model).encode())
        shutil.rmtree(source)
        return Repo(directory.name, str(directory), str(volumes[-1]), snapshot)

    def _inflate(self, count: int, directory: Path) -> Repo:
        seed = self.seed()
        shutil.copytree(seed.directory, directory)
        keys = _keys(directory)
        for begin in range(0, count, _BLOBS_PER_INDEX):
            blobs = min(_BLOBS_PER_INDEX, count - begin)
            _write(directory / "index", keys, b"".join(_index_file(blobs)))
        return Repo(directory.name, str(directory), seed.volume, seed.snapshot)


def _copy_small(target: Path, count: int) -> None:
    """Copy `count` real files up to 64 KiB, some with an extended attribute."""
    target.mkdir(parents=True)
    left = count
    turn = 0
    while left:
        copied = 0
        for path in _small_files():
            if copied == left:
                break
            place = target / str(turn) / path.relative_to("/usr")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            copied += 1
            if copied % _XATTR_EVERY == 0:
                with contextlib.suppress(OSError):  # not supported by all file systems
                    os.setxattr(place, "user.bench", b"a value")
        if not copied:
            raise FileNotFoundError(f"There are no small files below {', '.join(_SOURCES)}.")
        left -= copied
        turn += 1


def _small_files() -> Iterator[Path]:
    for source in _SOURCES:
        for directory, directories, names in os.walk(source):
            directories.sort()
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= _SMALL_BYTES:
                    yield path


def _spread(target: Path, count: int, directories: int) -> None:
    """Write `count` files, each a real small file with a line that makes it different."""
    originals = [path.read_bytes() for path in itertools.islice(_small_files(), count)]
    for number in range(count):
        directory = (
            target / f"{number % directories // 100:03}" / f"{number % directories % 100:02}"
        )
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"file-{number}"
        path.write_bytes(originals[number % len(originals)] + b"\n# %d\n" % number)
        if number % _XATTR_EVERY == 0:
            with contextlib.suppress(OSError):  # not supported by all file systems
                os.setxattr(path, "user.bench", b"a value")


def _write_random(target: Path, size_mib: int) -> None:
    with target.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))


def _write_text(target: Path, size: int) -> None:
    """Write `size` bytes of real text without duplicates, so that restic stores all of it."""
    texts = [path.read_bytes() for path in _small_files() if path.name.endswith(_TEXT_SUFFIXES)]
    written = turn = 0
    with target.open("wb") as file:
        while written < size:
            for number, text in enumerate(texts):
                part = b"==> part %d of turn %d <==\n%s" % (number, turn, text)
                written += file.write(part[: size - written])
            turn += 1


def _keys(directory: Path) -> Keys:
    (path,) = (directory / "keys").iterdir()
    key_file = parse_key_file(path.read_bytes())
    return open_master_key(derive_keys(PASSWORD.encode(), key_file), key_file)


def _write(directory: Path, keys: Keys, document: bytes) -> str:
    """Write a snapshot or index file in format 2; return its name."""
    packed = b"\x02" + zstandard.compress(document)
    raw = seal_record(keys, packed, os.urandom(16))
    name = hashlib.sha256(raw).hexdigest()
    (directory / name).write_bytes(raw)
    return name


def _index_file(blobs: int) -> Iterator[bytes]:
    """Yield the parts of an index file with `blobs` blobs, whose packs do not exist."""
    yield b'{"packs":['
    for begin in range(0, blobs, _BLOBS_PER_PACK):
        number = begin // _BLOBS_PER_PACK
        kind = "data" if number % _TREE_PACK_EVERY else "tree"
        here = min(_BLOBS_PER_PACK, blobs - begin)
        ids = os.urandom(32 * here).hex()
        entries = ",".join(
            f'{{"id":"{ids[64 * n : 64 * n + 64]}","type":"{kind}","offset":{n * 400_123},'
            f'"length":{390_000 + n},"uncompressed_length":{800_000 + n}}}'
            for n in range(here)
        )
        comma = "," if begin else ""
        yield f'{comma}{{"id":"{os.urandom(32).hex()}","blobs":[{entries}]}}'.encode()
    yield b"]}"
