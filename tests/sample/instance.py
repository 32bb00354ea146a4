"""Build the sample instance: a complete Cloudogu EcoSystem in one directory, for tests and demo.

    ROOT/var/lib/ces/<dogu>/volumes/<volume>   real files; special ones in redmine's
    ROOT/etc/ces  ROOT/etc/cesapp              the instance's configuration
    ROOT/var/lib/cesbr/registry                the embedded registry, one file a key

Instances of one scale on one machine are identical, except for the generated keys.
"""

from __future__ import annotations

import os
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.sample import files, oddities, registry
from tests.sample.dogus import DOGUS, Dogu
from tests.sample.files import Scale

DEFAULT_KEY = "sample key, no secret"
_FIRST_SECOND = 1_704_067_200  # 2024-01-01: time of the oldest regular file
_SPAN_SECONDS = 2 * 365 * 86_400
_CHANGES_SECOND = 1_790_000_000  # autumn 2026: later than all files
_DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Instance:
    """A sample instance: its root, and the repository and key in its registry.

    `notes` lists what the machine did not allow, such as changing owners without root.
    """

    root: Path
    repository: Path
    key: str = field(repr=False)
    dogus: tuple[Dogu, ...] = DOGUS
    notes: tuple[str, ...] = ()

    @property
    def registry(self) -> Path:
        """The directory of the embedded registry."""
        return self.root / "var/lib/cesbr/registry"

    @property
    def access(self) -> Access:
        """Address and key of the repository, for our reader and restic."""
        return Access(str(self.repository), Secret(self.key.encode()))

    def volume(self, dogu: str, volume: str) -> Path:
        """Return the directory of a volume."""
        return self.root / "var/lib/ces" / dogu / "volumes" / volume

    @property
    def oddities(self) -> Path:
        """The directory of the special files, inside a volume that is backed up."""
        return self.volume("redmine", "files") / "oddities"

    def set(self, key: str, value: str) -> None:
        """Set a registry key such as ``/config/backup/active``."""
        registry.write(self.registry, key, value)


def build(
    root: Path,
    *,
    scale: Scale = "tiny",
    repository: Path | None = None,
    key: str = DEFAULT_KEY,
) -> Instance:
    """Build a sample instance in the directory `root`, which is created.

    "tiny" has a few files per volume and all special files; "full" has thousands of files, three of
    them of at least 50 MB. The repository (default: ROOT/srv/backup) is configured, not created.
    """
    root = root.resolve()
    instance = Instance(root, (repository or root / "srv/backup").resolve(), key)
    registry.fill(instance.registry, instance.repository, key)
    _configure(root)
    for dogu in DOGUS:
        for volume in dogu.volumes:
            files.fill(instance.volume(dogu.name, volume.name), dogu.name, volume.name, scale)
        if dogu.volumes:
            private = instance.volume(dogu.name, "_private") / "private.pem"
            private.parent.mkdir(mode=0o700)
            private.write_bytes(registry.private_pem(dogu.name))
            private.chmod(0o600)
    (instance.volume("usermgt", "data") / "importHistory").mkdir()  # mountpoint of the other one
    (instance.volume("mariadb", "data") / "lost+found").mkdir(mode=0o700)
    jobs = instance.volume("jenkins", "data") / "jobs/build 2"
    (jobs / "builds/lastSuccessfulBuild").symlink_to("1")
    notes = oddities.plant(instance.oddities, scale)
    notes += _give_to_owners(instance)
    notes += oddities.dress(instance.oddities)
    _stamp(root)
    notes += oddities.set_times(instance.oddities)
    return Instance(root, instance.repository, key, notes=tuple(notes))


def _configure(root: Path) -> None:
    """Write the configuration files of the instance."""
    for name, content, mode in (
        ("etc/ces/node_master", "192.0.2.10", 0o644),
        ("etc/ces/type", "vm", 0o644),
        ("etc/cesapp/config.json", '{"log_level": "info", "registry": "local"}\n', 0o644),
        ("etc/cesapp/credential.store/dogu", "not a real credential", 0o600),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)


def _give_to_owners(instance: Instance) -> list[str]:
    if os.geteuid() != 0:
        return ["owners: only root can give files away"]
    for dogu in instance.dogus:
        for volume in dogu.volumes:
            top = instance.volume(dogu.name, volume.name)
            for path in (top, *top.rglob("*")):
                os.chown(path, dogu.uid, dogu.gid, follow_symlinks=False)
    return []


def _stamp(top: Path) -> None:
    """Set the times of everything below `top`, in nanoseconds, derived from the path."""
    for directory, directories, names in os.walk(top, topdown=False):
        for name in (*sorted(names), *sorted(directories)):
            path = os.path.join(directory, name)
            number = zlib.crc32(os.fsencode(os.path.relpath(path, top)))
            time_ns = (_FIRST_SECOND + number % _SPAN_SECONDS) * 10**9 + number * 7919 % 10**9
            os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
    os.utime(top, ns=(_FIRST_SECOND * 10**9, _FIRST_SECOND * 10**9))


def change(root: Path, *, day: int = 1) -> list[Path]:
    """Change the instance as a `day` of work would; return the changed paths.

    Files are edited, added, deleted, renamed and made unreadable, and redmine gets a new version.
    Each day (1, 2, …) changes something else.
    """
    root = root.resolve()
    instance = Instance(root, root, "")
    data = instance.volume("jenkins", "data")
    attachments = instance.volume("redmine", "files")
    time_ns = (_CHANGES_SECOND * 10**9) + day * _DAY_NS + day
    report = attachments / "report.txt"
    with report.open("a") as out:
        out.write(f"day {day}: the report grows by a line\n")
    build_directory = data / "jobs/build 2/builds" / f"day {day}"
    build_directory.mkdir()
    log = build_directory / "log"
    log.write_text(f"Started by timer\nFinished: SUCCESS, day {day}\n")
    latest = data / "jobs/build 2/builds/lastSuccessfulBuild"
    latest.unlink()
    latest.symlink_to(build_directory.name)
    touched = [report, log, build_directory, latest]
    touched += _edit_and_drop(instance, day)
    for path in touched:
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
    redmine = next(dogu for dogu in DOGUS if dogu.name == "redmine")
    registry.install(instance.registry, redmine, f"6.1.3-{2 + day}")
    instance.set("/config/redmine/logging/root", "DEBUG" if day % 2 else "WARN")
    return touched


def _edit_and_drop(instance: Instance, day: int) -> list[Path]:
    """Edit, rename, chmod and delete one regular file each; other files each day."""
    touched = []
    services = instance.volume("cas", "services")
    ordinary = sorted(path for path in services.iterdir() if not path.name.startswith("moved "))
    if len(ordinary) > 1:
        with ordinary[0].open("ab") as out:
            out.write(f"\n// edited on day {day}\n".encode())
        touched.append(ordinary[0])
        touched.append(ordinary[1].rename(services / f"moved on day {day}"))
    tables = instance.volume("postgresql", "data").rglob("[0-9]*")
    objects = sorted(path for path in tables if path.is_file())
    if len(objects) > 1:
        objects[0].chmod(0o640)
        objects[-1].unlink()
        touched.append(objects[0])
    added = instance.volume("nginx", "customhtml") / f"added on day {day}.html"
    shutil.copyfile(os.__file__, added)
    touched.append(added)
    return touched
