"""Fill volumes with real files of this machine, in the layout of each dogu.

Content is copied from libraries and documentation of the machine, so it compresses and deduplicates
like real data. The result is deterministic for a given machine.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import shutil
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Scale = Literal["tiny", "full"]

BIG_BYTES = 50 << 20
_SMALL_BYTES = {"tiny": 4 << 10, "full": 64 << 10}
_TINY_COUNT = 3
_SMALL_SOURCES = (
    "/usr/share/doc",
    "/usr/share/zoneinfo",
    "/usr/share/perl",
    "/usr/lib/python3",
    "/etc",
    sysconfig.get_paths()["stdlib"],  # exists wherever these tests run
)
_BIG_SOURCES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/bin", "/usr/lib")


@dataclass(frozen=True, slots=True)
class Layout:
    """How to fill a volume: `count` files at full scale, named by `pattern`.

    Placeholders of the pattern: `i` is a counter, `year` and `month` increase, `hex` is a hash and
    `name` the base name of the copied file.
    """

    count: int
    pattern: str
    mode: int = 0o640
    directory_mode: int = 0o750
    big: str = ""  # name of a file of at least 50 MB


LAYOUTS: dict[tuple[str, str], Layout] = {
    ("redmine", "files"): Layout(
        1200, "{year}/{month:02}/{i:012}_{name}", big="2026/02/installation medium.iso"
    ),
    ("redmine", "plugins"): Layout(150, "redmine_cas/app/{hex:.1}/{i}_{name}", 0o644, 0o755),
    ("redmine", "logs"): Layout(5, "production.log.{i}"),
    ("redmine", "tmp"): Layout(20, "cache/{hex:.3}/{name}"),
    ("jenkins", "data"): Layout(
        1500, "jobs/build {month}/builds/{i}/{name}", 0o644, 0o755, big="war/jenkins.war"
    ),
    ("jenkins", "custom.init.groovy.d"): Layout(4, "{i:02}_{name}.groovy", 0o755, 0o755),
    ("jenkins", "tmp"): Layout(10, "hsperfdata/{i}"),
    ("scm", "data"): Layout(900, "repositories/{month}/data/objects/{hex:.2}/{hex}", 0o444),
    ("scm", "custom.init.script.d"): Layout(2, "{i}_{name}.sh", 0o755),
    ("scm", "cache"): Layout(20, "{hex:.2}/{hex}"),
    ("scm", "temp"): Layout(5, "upload_{i}.tmp"),
    ("postgresql", "data"): Layout(300, "base/16384/{i}", 0o600, 0o700),
    ("nexus", "data"): Layout(
        800,
        "blobs/default/content/vol-{month:02}/chap-{hex:.2}/{hex}.bytes",
        0o644,
        0o755,
        big="blobs/default/content/vol-43/chap-01/7d2c.bytes",
    ),
    ("nexus", "migration"): Layout(3, "{i}_{name}"),
    ("nexus", "repository_component_uploads"): Layout(5, "upload-{hex:.8}"),
    ("ldap", "db"): Layout(4, "{i}.mdb", 0o600, 0o700),
    ("ldap", "config"): Layout(20, "cn=config/olcDatabase={{{i}}}mdb.ldif", 0o600),
    ("ldap", "crontab-logs"): Layout(3, "cron.{i}.log"),
    ("usermgt", "data"): Layout(5, "{i}.properties"),
    ("usermgt", "importHistory"): Layout(30, "{year}/{hex:.8}/{name}.json"),
    ("cas", "logs"): Layout(5, "cas-{i}.log"),
    ("cas", "services"): Layout(12, "{name}-{i}.json"),
    ("cas", "gauth"): Layout(6, "gauth-{i}.json", 0o600),
    ("nginx", "customhtml"): Layout(200, "{name}.d/{i}.html", 0o644, 0o755),
    ("nginx", "app.conf.d"): Layout(10, "{i:02}-{name}.conf", 0o644, 0o755),
    ("nginx", "appconf"): Layout(2, "{name}", 0o644, 0o755),
    ("mariadb", "data"): Layout(120, "redmine/{i}.ibd", 0o660, 0o700),
    ("smeagol", "data"): Layout(60, "wiki/{year}/{name}.md"),
}
_ELSE = Layout(3, "{name}")


@functools.cache
def _small_files(at_most: int) -> tuple[Path, ...]:
    """Find world-readable files of 1 to `at_most` bytes, in a fixed order."""
    found: list[Path] = []
    for source in _SMALL_SOURCES:
        for directory, directories, names in os.walk(source):
            directories.sort()
            if "__pycache__" in directories:
                directories.remove("__pycache__")  # depends on which programs have run
            for name in sorted(names):
                path = Path(directory, name)
                about = path.lstat()
                everyone = stat.S_ISREG(about.st_mode) and about.st_mode & stat.S_IROTH
                if everyone and 0 < about.st_size <= at_most:
                    found.append(path)
    # Adjacent files are similar: use a step, so that even a few files differ.
    return tuple(found[first::97][i] for first in range(97) for i in range(len(found[first::97])))


def small_files(scale: Scale, seed: str) -> Iterator[Path]:
    """Yield small real files endlessly, starting at a position that depends on `seed`."""
    pool = _small_files(_SMALL_BYTES[scale])
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) % len(pool)
    return itertools.chain(pool[start:], itertools.cycle(pool))


@functools.cache
def _big_files() -> tuple[Path, ...]:
    found = [
        (-path.stat().st_size, path)
        for source in _BIG_SOURCES
        if Path(source).is_dir()
        for path in Path(source).iterdir()
        if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
    ]
    return tuple(path for _, path in sorted(found))


def write_big(target: Path, offset: int) -> None:
    """Write at least BIG_BYTES by concatenating real programs and libraries.

    Each `offset` starts with another file, so that the big files differ.
    """
    pool = _big_files()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        for source in itertools.chain(pool[offset:], itertools.cycle(pool)):
            with source.open("rb") as stream:
                shutil.copyfileobj(stream, out, 1 << 20)
            if out.tell() >= BIG_BYTES:
                return


def fill(directory: Path, dogu: str, volume: str, scale: Scale) -> None:
    """Fill the directory of a volume as the dogu would."""
    layout = LAYOUTS.get((dogu, volume), _ELSE)
    directory.mkdir(parents=True, exist_ok=True)
    count = layout.count if scale == "full" else min(layout.count, _TINY_COUNT)
    sources = small_files(scale, f"{dogu}/{volume}")
    for i in range(1, count + 1):
        source = next(sources)
        target = directory / layout.pattern.format(
            i=i,
            year=2024 + i % 3,
            month=1 + i % 12,
            hex=hashlib.sha256(f"{dogu}{i}".encode()).hexdigest(),
            name=source.name,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    for path in directory.rglob("*"):
        path.chmod(layout.directory_mode if path.is_dir() else layout.mode)
    directory.chmod(layout.directory_mode)
    if scale == "full" and layout.big:
        offset = [key for key, value in LAYOUTS.items() if value.big].index((dogu, volume))
        write_big(directory / layout.big, offset * 7)
