"""An instance of the Cloudogu EcoSystem: what is on it that a backup holds, and where that lies.

Below the instance's root: volumes at ``var/lib/ces/<dogu>/volumes/<volume>``, the configuration at
``etc/ces`` and ``etc/cesapp``.  The registry knows the rest.  Reading only.
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
from cesbrfs.errors import DoguError, RegistryError, RegistryUnreachableError

_TREES: Final = ("/dogu_v2", "/dogu")
"""Where the registry keeps dogu.json: the new form first, then the old one."""

_HIDDEN: Final = ("_global", "_host")
"""Folders of /config that etcd leaves out of its listings, as their names begin with ``_``."""

_MISSING: Final = "it does not exist"


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """A volume of an installed dogu: declared, on disk, or both.

    With `needs_backup` and no `reason` it can be backed up; with a `reason` it should be and
    cannot, for that reason.  Without `needs_backup` the reason says why it is left out.
    """

    name: str
    path: Path
    needs_backup: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class InstalledDogu:
    """A dogu that has a ``current`` version in the registry.

    `text` is its dogu.json as the registry holds it, None when it has none; `dogu` what that says,
    None when it cannot be understood: `problem` then says why, and all its volumes need backup.
    """

    name: str
    version: str
    text: str | None = field(default=None, repr=False)
    dogu: Dogu | None = None
    problem: str = ""
    volumes: tuple[FoundVolume, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryData:
    """Keys and values of the registry, and the keys that could not be read with the reasons."""

    values: dict[str, str] = field(repr=False)
    failed: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> bytes:
        """Return the content of a registry.json: one flat object, sorted, UTF-8."""
        text = json.dumps(self.values, sort_keys=True, ensure_ascii=False, indent=2)
        return text.encode() + b"\n"


class Instance:
    """The instance whose files lie below `root` and whose keys are in `registry`."""

    def __init__(self, root: Path, registry: Registry) -> None:
        # Links stay unresolved, for paths in a backup are those that administrators know; but
        # restic removes "..", which pathlib's absolute() would keep.
        self.root = Path(os.path.abspath(root))
        self.registry = registry

    @property
    def dogus_folder(self) -> Path:
        """The folder of all dogus' volumes, ``ROOT/var/lib/ces``."""
        return self.root / "var/lib/ces"

    def volumes_folder(self, dogu: str) -> Path:
        """The folder that holds the volumes of `dogu`."""
        return self.dogus_folder / dogu / "volumes"

    async def fqdn(self) -> str | None:
        """Return the instance's full host name, None when the registry does not know it."""
        return (await self.registry.get("/config/_global/fqdn") or "").strip() or None

    async def dogus(self) -> list[InstalledDogu]:
        """Return the installed dogus by name.

        A description that is missing or damaged is told in the dogu; RegistryError only when the
        registry cannot be listed or does not answer.
        """
        listed = [await self.registry.children(tree) for tree in _TREES]
        found = [await self._dogu(name) for name in sorted(set().union(*listed))]
        return [dogu for dogu in found if dogu is not None]

    async def _dogu(self, name: str) -> InstalledDogu | None:
        version, text, dogu = "", None, None
        try:
            version = await self._current(name)
            if not version:  # removed dogus keep their old descriptions, without "current"
                return None
            text = await self._description(name, version)
            dogu = parse_dogu(text)
            problem = ""
        except RegistryUnreachableError:
            raise  # which is no dogu's own problem
        except (RegistryError, DoguError) as error:
            problem = error.message
        volumes = await trio.to_thread.run_sync(_volumes, self.volumes_folder(name), dogu)
        return InstalledDogu(name, version, text, dogu, problem, volumes)

    async def _current(self, name: str) -> str:
        for tree in _TREES:
            version = (await self.registry.get(f"{tree}/{name}/current") or "").strip()
            if version:
                return version
        return ""

    async def _description(self, name: str, version: str) -> str:
        for tree in _TREES:
            text = await self.registry.get(f"{tree}/{name}/{version}")
            if text is not None:
                return text
        raise DoguError(
            f"The registry has no dogu.json of {name} {version}; install the dogu again."
        )

    async def configuration(self) -> tuple[FoundVolume, ...]:
        """Return the instance's configuration folders; one that does not exist is left out."""
        folders = (self.root / "etc/ces", self.root / "etc/cesapp")
        return await trio.to_thread.run_sync(_configuration, folders)

    async def strays(self, installed: Iterable[str]) -> list[Path]:
        """Return the folders of volumes that belong to none of the `installed` dogus."""
        names = frozenset(installed)
        return await trio.to_thread.run_sync(_strays, self.dogus_folder, names)

    async def dogu_registry(self, name: str) -> RegistryData:
        """Return the registry data of the dogu `name`."""
        return await self._collect(f"/config/{name}", f"/dogu/{name}", f"/dogu_v2/{name}")

    async def instance_registry(self) -> RegistryData:
        """Return the registry data of the instance itself.

        Never ``/state`` and ``/services``, which tell only what is running at the moment.
        """
        names = {name for name in await self.registry.children("/config") if name.startswith("_")}
        names.update(_HIDDEN)
        prefixes = [f"/config/{name}" for name in sorted(names)]
        return await self._collect(*prefixes, "/config/backup", "/blueprint")

    async def _collect(self, *prefixes: str) -> RegistryData:
        """Read what is below `prefixes`; a key that cannot be read does not keep the others out.

        RegistryUnreachableError when the registry does not answer.
        """
        values: dict[str, str] = {}
        failed: list[tuple[str, str]] = []
        waiting = list(reversed(prefixes))
        while waiting:
            prefix = waiting.pop()
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
                waiting.extend(f"{prefix}/{name}" for name in reversed(names))
        return RegistryData(dict(sorted(values.items())), tuple(failed))


def _obstacle(path: Path) -> str:
    """Say why the folder `path` cannot be backed up; "" when it can."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return _MISSING
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISLNK(mode):
        return (
            "it is a symbolic link, of which restic keeps the link and not what it leads to; "
            "use a bind mount instead"
        )
    return "" if stat.S_ISDIR(mode) else "it is not a folder"


def _volumes(folder: Path, dogu: Dogu | None) -> tuple[FoundVolume, ...]:
    """Hold the declared volumes against those below `folder`."""
    present: list[str] = []
    found: dict[str, FoundVolume] = {}
    try:
        present = sorted(os.listdir(folder))
    except FileNotFoundError:
        pass  # the declared ones then report it, each by its own path
    except OSError as error:
        reason = error.strerror or str(error)
        private = FoundVolume(PRIVATE_VOLUME, folder / PRIVATE_VOLUME, True, reason)
        found[PRIVATE_VOLUME] = private
    for volume in dogu.volumes if dogu else ():
        path = folder / volume.name
        reason = _obstacle(path) if volume.needs_backup else "it needs no backup (NeedsBackup)"
        found[volume.name] = FoundVolume(volume.name, path, volume.needs_backup, reason)
    for name in present:
        if name in found:
            continue
        path = folder / name
        if dogu is None or name == PRIVATE_VOLUME:
            found[name] = FoundVolume(name, path, needs_backup=True, reason=_obstacle(path))
        else:
            reason = "the dogu.json does not declare it"
            found[name] = FoundVolume(name, path, needs_backup=False, reason=reason)
    return tuple(found.values())


def _configuration(folders: tuple[Path, ...]) -> tuple[FoundVolume, ...]:
    found = []
    for folder in folders:
        obstacle = _obstacle(folder)
        exists = obstacle != _MISSING  # else it may be there, which is not left out silently
        found.append(FoundVolume(folder.name, folder, exists, obstacle))
    return tuple(found)


def _strays(folder: Path, installed: frozenset[str]) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [
        folder / name / "volumes"
        for name in names
        if name not in installed and (folder / name / "volumes").is_dir()
    ]
