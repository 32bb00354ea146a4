"""Read what an instance of the Cloudogu EcoSystem has to back up.

Volumes are in ``var/lib/ces/<dogu>/volumes/<volume>`` below the instance's root, the configuration
in ``etc/ces`` and ``etc/cesapp``. Dogus, their versions and settings come from the registry. This
module only reads.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from cesbrfs.ces.dogu import PRIVATE_VOLUME, Dogu, parse_dogu
from cesbrfs.ces.registry import Registry
from cesbrfs.errors import CesbrError, DoguError, RegistryError, RegistryUnreachableError

_DOGU_DIRECTORIES: Final = ("/dogu_v2", "/dogu")
"""Registry directories with the dogu.json files: the v2 form is preferred to v1."""

_HIDDEN_DIRECTORIES: Final = ("_global", "_host")
"""Directories of /config that etcd does not list, because their names begin with ``_``."""

FQDN: Final = "/config/_global/fqdn"
"""Registry key with the host name of the instance."""

_MISSING: Final = "no such directory"


@dataclass(frozen=True, slots=True)
class InstalledVolume:
    """A volume of an installed dogu that is declared in its dogu.json, exists on disk, or both.

    If `needs_backup` is true, `reason` is why it cannot be backed up, or empty. If `needs_backup`
    is false, `reason` is why it is excluded.
    """

    name: str
    path: Path
    needs_backup: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class InstalledDogu:
    """A dogu that has a ``current`` version in the registry.

    `text` is its dogu.json, None if missing; `dogu` is the parsed form, None if `text` is invalid.
    `problem` is then the error message, and all volumes on disk need backup.
    """

    name: str
    version: str
    text: str | None = field(default=None, repr=False)
    dogu: Dogu | None = None
    problem: str = ""
    volumes: tuple[InstalledVolume, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryData:
    """Registry keys with their values, and pairs of failed key and error message."""

    values: dict[str, str] = field(repr=False)
    failed: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> bytes:
        """Return the content of a registry.json: a flat JSON object, sorted, in UTF-8."""
        text = json.dumps(self.values, sort_keys=True, ensure_ascii=False, indent=2)
        return text.encode() + b"\n"


class Instance:
    """The instance with its files below `root` and its keys in `registry`."""

    def __init__(self, root: Path, registry: Registry) -> None:
        # Symbolic links are not resolved, so that a backup has the paths that administrators use.
        # ".." is removed, as restic does; pathlib's absolute() would keep it.
        self.root = Path(os.path.abspath(root))
        self.registry = registry

    @property
    def dogus_directory(self) -> Path:
        """The directory of all dogus, ``ROOT/var/lib/ces``."""
        return self.root / "var/lib/ces"

    def volumes_directory(self, dogu: str) -> Path:
        """Return the directory of the volumes of `dogu`."""
        return self.dogus_directory / dogu / "volumes"

    async def fqdn(self) -> str | None:
        """Return the host name of the instance; None if the registry has none."""
        return (await self.registry.get(FQDN) or "").strip() or None

    async def dogus(self) -> list[InstalledDogu]:
        """Return the installed dogus, sorted by name.

        A missing or invalid dogu.json is reported in `InstalledDogu.problem`. Raises RegistryError
        if the registry cannot be listed or does not respond.
        """
        listed = [await self.registry.children(tree) for tree in _DOGU_DIRECTORIES]
        dogus = [await self._dogu(name) for name in sorted(set().union(*listed))]
        return [dogu for dogu in dogus if dogu is not None]

    async def _dogu(self, name: str) -> InstalledDogu | None:
        version, text, dogu = "", None, None
        try:
            version = await self._current(name)
            if not version:  # an uninstalled dogu keeps its dogu.json, but not "current"
                return None
            text = await self._dogu_json(name, version)
            dogu = parse_dogu(text)
            problem = ""
        except RegistryUnreachableError:
            raise  # not a problem of this dogu
        except (RegistryError, DoguError) as error:
            problem = error.message
        volumes = await trio.to_thread.run_sync(_volumes, self.volumes_directory(name), dogu)
        return InstalledDogu(name, version, text, dogu, problem, volumes)

    async def _current(self, name: str) -> str:
        for tree in _DOGU_DIRECTORIES:
            version = (await self.registry.get(f"{tree}/{name}/current") or "").strip()
            if version:
                return version
        return ""

    async def _dogu_json(self, name: str, version: str) -> str:
        for tree in _DOGU_DIRECTORIES:
            text = await self.registry.get(f"{tree}/{name}/{version}")
            if text is not None:
                return text
        raise DoguError(f"The registry has no dogu.json for {name} {version}. Reinstall the dogu.")

    async def configuration(self) -> tuple[InstalledVolume, ...]:
        """Return the configuration directories; `needs_backup` is False for a missing one."""
        directories = (self.root / "etc/ces", self.root / "etc/cesapp")
        return await trio.to_thread.run_sync(_configuration, directories)

    async def orphaned_volumes(self, installed: Iterable[str]) -> list[Path]:
        """Return the volume directories of dogus that are not among `installed`.

        Raises CesbrError if they cannot be listed.
        """
        names = frozenset(installed)
        return await trio.to_thread.run_sync(_orphaned_volumes, self.dogus_directory, names)

    async def dogu_registry(self, name: str) -> RegistryData:
        """Return all registry keys of the dogu `name`."""
        return await self._collect(f"/config/{name}", f"/dogu/{name}", f"/dogu_v2/{name}")

    async def instance_registry(self) -> RegistryData:
        """Return the registry keys of the instance itself.

        Excludes ``/state`` and ``/services``, which describe only the running containers.
        """
        names = {name for name in await self.registry.children("/config") if name.startswith("_")}
        names.update(_HIDDEN_DIRECTORIES)
        prefixes = [f"/config/{name}" for name in sorted(names)]
        return await self._collect(*prefixes, "/config/backup", "/blueprint")

    async def _collect(self, *prefixes: str) -> RegistryData:
        """Read all keys below `prefixes`; keys that cannot be read are reported in `failed`.

        Raises RegistryUnreachableError if the registry does not respond.
        """
        values: dict[str, str] = {}
        failed: list[tuple[str, str]] = []
        pending = list(reversed(prefixes))
        while pending:
            prefix = pending.pop()
            try:
                values.update(await self.registry.read(prefix))
            except RegistryUnreachableError:
                raise
            except RegistryError as error:
                try:
                    names = await self.registry.children(prefix)
                except RegistryError:
                    names = []
                if not names:
                    failed.append((prefix, error.message))
                pending.extend(f"{prefix}/{name}" for name in reversed(names))
        return RegistryData(dict(sorted(values.items())), tuple(failed))


def _why_unreadable(path: Path) -> str:
    """Return why the directory `path` cannot be backed up; "" if it can."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return _MISSING
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISLNK(mode):
        return (
            "a symbolic link, and restic does not follow symbolic links; use a bind mount instead"
        )
    return "" if stat.S_ISDIR(mode) else "not a directory"


def _volumes(directory: Path, dogu: Dogu | None) -> tuple[InstalledVolume, ...]:
    """Compare the declared volumes with the directories in `directory`."""
    present: list[str] = []
    volumes: dict[str, InstalledVolume] = {}
    try:
        present = sorted(os.listdir(directory))
    except FileNotFoundError:
        pass  # reported for each declared volume
    except OSError as error:
        reason = error.strerror or str(error)
        private = InstalledVolume(PRIVATE_VOLUME, directory / PRIVATE_VOLUME, True, reason)
        volumes[PRIVATE_VOLUME] = private
    for volume in dogu.volumes if dogu else ():
        path = directory / volume.name
        reason = (
            _why_unreadable(path) if volume.needs_backup else "NeedsBackup is false in dogu.json"
        )
        volumes[volume.name] = InstalledVolume(volume.name, path, volume.needs_backup, reason)
    for name in present:
        if name in volumes:
            continue
        path = directory / name
        if dogu is None or name == PRIVATE_VOLUME:
            volumes[name] = InstalledVolume(
                name, path, needs_backup=True, reason=_why_unreadable(path)
            )
        else:
            reason = "not declared in dogu.json"
            volumes[name] = InstalledVolume(name, path, needs_backup=False, reason=reason)
    return tuple(volumes.values())


def _configuration(directories: tuple[Path, ...]) -> tuple[InstalledVolume, ...]:
    volumes = []
    for directory in directories:
        reason = _why_unreadable(directory)
        exists = reason != _MISSING  # any other error must be reported, not skipped
        volumes.append(InstalledVolume(directory.name, directory, exists, reason))
    return tuple(volumes)


def _orphaned_volumes(directory: Path, installed: frozenset[str]) -> list[Path]:
    try:
        names = sorted(os.listdir(directory))
        return [
            directory / name / "volumes"
            for name in names
            if name not in installed and (directory / name / "volumes").is_dir()
        ]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    except OSError as error:
        raise CesbrError(
            f"Cannot list the volumes in {directory}: {error.strerror}. Check the disk."
        ) from error
