"""Restoring registry data: what a backup's registry.json has, against the registry as it is now.

    planned = await plan_registry(view, backup, instance, ["redmine"])
    report = RegistryReport(planned)
    await write_registry(instance.registry, report)

A key is written only where it still has the value that the plan was made with.  What was written
stays written: a restore that was interrupted is done again, and only the rest is left to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import Backup
from cesbrfs.ces.instance import Instance, RegistryData
from cesbrfs.ces.redaction import is_secret, masked
from cesbrfs.ces.registry import Registry
from cesbrfs.errors import (
    DamagedError,
    NotFoundError,
    PartialError,
    RegistryError,
    RegistryUnreachableError,
)
from cesbrfs.util.escape import show
from cesbrfs.util.suggest import did_you_mean
from cesbrfs.vfs.entries import VirtualFile
from cesbrfs.vfs.tree import BackupTree

Action = Literal["add", "change", "remove"]

_DOCUMENT_MAX: Final = 256 << 20
_TREES: Final = ("config", "dogu", "dogu_v2")


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One key that differs: `old` is its value now, `new` the one it gets; None for none."""

    key: str
    old: str | None = field(repr=False)
    new: str | None = field(repr=False)

    @property
    def action(self) -> Action:
        """What happens to the key."""
        if self.new is None:
            return "remove"
        return "add" if self.old is None else "change"

    def as_json(self) -> dict[str, object]:
        """Return ``{key, action, old, new, secret}``; secrets are masked."""
        return {
            "key": self.key,
            "action": self.action,
            "old": masked(self.key, self.old),
            "new": masked(self.key, self.new),
            "secret": any(is_secret(self.key, v) for v in (self.old, self.new) if v is not None),
        }


@dataclass(frozen=True, slots=True)
class KeyFailure:
    """A key that is not restored, and why."""

    key: str
    error: str

    def as_json(self) -> dict[str, object]:
        """Return ``{key, error}``."""
        return {"key": self.key, "error": self.error}


@dataclass(frozen=True, slots=True)
class RegistryPlan:
    """What a restore would write, in its order.

    `same` keys are as the backup has them; `kept` are keys of the registry that the backup lacks
    and that stay; `refused` are keys of the backup that cannot be restored.
    """

    backup: str
    address: str
    changes: tuple[KeyChange, ...]
    same: int
    kept: tuple[str, ...] = ()
    refused: tuple[KeyFailure, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return the plan as ``--dry-run --json`` shows it."""
        return {
            "backup": self.backup,
            "registry": self.address,
            "changes": [change.as_json() for change in self.changes],
            "same": self.same,
            "kept": list(self.kept),
            "refused": [refused.as_json() for refused in self.refused],
        }


@dataclass(slots=True)
class RegistryReport:
    """What was done: keys `written` and `removed`, `same` as they were before.

    `conflicts` were modified after planning and are kept; `failed` could not be written.
    """

    plan: RegistryPlan
    written: int = 0
    removed: int = 0
    conflicts: list[str] = field(default_factory=list)
    failed: list[KeyFailure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.failed.extend(self.plan.refused)

    @property
    def settled(self) -> int:
        """How many of the plan's changes were tried."""
        failed = len(self.failed) - len(self.plan.refused)
        return self.written + self.removed + len(self.conflicts) + failed

    @property
    def exit_code(self) -> int:
        """0, or 3 when a key was not restored."""
        return PartialError.exit_code if self.conflicts or self.failed else 0

    def as_json(self) -> dict[str, object]:
        """Return the report as ``--json`` prints it; `changes` are what was to be done."""
        return {
            "backup": self.plan.backup,
            "registry": self.plan.address,
            "changes": [change.as_json() for change in self.plan.changes],
            "written": self.written,
            "removed": self.removed,
            "same": self.plan.same,
            "conflicts": self.conflicts,
            "failed": [failure.as_json() for failure in self.failed],
        }


async def plan_registry(
    view: BackupTree,
    backup: Backup,
    instance: Instance,
    owners: Sequence[str | None] = (),
    keys: Sequence[str] = (),
    *,
    delete: bool = False,
) -> RegistryPlan:
    """Compare a backup's registry data with the registry.

    `owners` are dogus, None is the instance; without any it is everything in the backup.  `keys`
    are keys, or directories of them, to be restored alone.  Only with `delete` are keys removed
    that the backup does not have.  Raises NotFoundError for what the backup lacks, RegistryError
    when the registry does not answer.
    """
    await instance.registry.get("/config/_global/fqdn")  # one error for all where it is away
    wanted = [_normal(key) for key in keys]
    lost = await _lost_keys(view, backup)
    changes: list[KeyChange] = []
    kept: list[str] = []
    refused: list[KeyFailure] = []
    same, seen = 0, set[str]()
    for owner in owners or await _owners(view, backup):
        saved, wrong = await _saved(view, backup, owner)
        live = await _live(instance, owner)
        wrong += [KeyFailure(key, error) for key, error in live.failed]
        unknown = [*lost.get(owner, ()), *(failure.key for failure in wrong)]
        for key in sorted(saved.keys() | live.values.keys()):
            if not _is_wanted(key, wanted):
                continue
            seen.add(key)
            old, new = live.values.get(key), saved.get(key)
            if old == new:
                same += 1
            elif any(_below(key, directory) for directory, _ in live.failed):
                continue  # refused as a whole
            elif new is not None or (delete and not any(_below(key, path) for path in unknown)):
                changes.append(KeyChange(key, old, new))
            else:
                kept.append(key)
        refused += [failure for failure in wrong if _is_wanted(failure.key, wanted)]
    for key in wanted:
        if not any(_below(found, key) for found in (*seen, *(r.key for r in refused))):
            raise NotFoundError(
                f"Neither backup {backup.id} nor the registry contains {key} in the selected part."
                " Use 'cat' on a registry.json of the backup to see its keys."
            )
    address = instance.registry.address
    return RegistryPlan(backup.id, address, _in_order(changes), same, tuple(kept), tuple(refused))


async def write_registry(
    registry: Registry,
    report: RegistryReport,
    on_progress: Callable[[], None] | None = None,
) -> None:
    """Write the keys of the plan into the registry and record the results in `report`.

    They are recorded also if it is cancelled.

    A key that fails does not keep the others from being written; only when the registry is away
    nothing more is tried.
    """
    away: str | None = None
    for change in report.plan.changes:
        if away is not None:
            report.failed.append(KeyFailure(change.key, away))
            continue
        try:
            await _write(registry, change, report)
        except RegistryError as error:
            report.failed.append(KeyFailure(change.key, error.message))
            if isinstance(error, RegistryUnreachableError):
                away = "Not tried, because the registry does not respond. Restore it again."
        if on_progress:
            on_progress()


async def _write(registry: Registry, change: KeyChange, report: RegistryReport) -> None:
    replaced = await registry.compare_and_set(change.key, change.new, change.old)
    if not replaced and await registry.get(change.key) != change.new:
        report.conflicts.append(change.key)
    elif change.new is None:
        report.removed += 1
    else:
        report.written += 1


# What the backup has


async def read_document(view: BackupTree, backup: Backup, owner: str | None) -> dict[str, object]:
    """Return the registry.json of a dogu, or of the instance for None.

    NotFoundError when the backup has none, DamagedError when it is no JSON object.
    """
    directory = directory_names.INSTANCE if owner is None else directory_names.directory_name(owner)
    try:
        entry = await view.at((backup.name, directory, directory_names.REGISTRY_JSON))
    except NotFoundError:
        of, hint = "of the instance", f". Run 'cesbr ls {show(backup.name)}' to see its content."
        if owner is not None:
            dogus = [saved for saved in await _owners(view, backup) if saved is not None]
            of, hint = f"of {owner}", did_you_mean(owner, dogus, hint)
        raise NotFoundError(f"Backup {backup.id} contains no registry data {of}{hint}") from None
    content = await view.content(entry)
    size = len(content.content) if isinstance(content, VirtualFile) else content.size
    if size > _DOCUMENT_MAX:
        raise DamagedError(f"{show(directory)}/registry.json of backup {backup.id} is too large.")
    data = content.content if isinstance(content, VirtualFile) else await content.read(0, size)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        document = error
    if not isinstance(document, dict):
        raise DamagedError(
            f"Invalid {show(directory)}/registry.json in backup {backup.id}: not a JSON object of"
            " keys and values. Choose another backup."
        )
    return document


async def _owners(view: BackupTree, backup: Backup) -> list[str | None]:
    """Return whose registry data the backup has: the instance's first."""
    directory = await view.at((backup.name,))
    found: list[str | None] = []
    for name, entry in sorted((await view.children(directory)).items()):
        if name == directory_names.SNAPSHOTS or entry.node.type != "dir":
            continue
        if await view.child(entry, directory_names.REGISTRY_JSON) is not None:
            owner = unquote_to_bytes(name).decode("utf-8", "surrogateescape")
            found.append(None if name == directory_names.INSTANCE else owner)
    if not found:
        raise NotFoundError(f"Backup {backup.id} contains no registry data. Choose another backup.")
    return found


async def _saved(
    view: BackupTree, backup: Backup, owner: str | None
) -> tuple[dict[str, str], list[KeyFailure]]:
    """Return what the backup has for `owner`, and what of it cannot be restored."""
    values: dict[str, str] = {}
    wrong: list[KeyFailure] = []
    for written, value in (await read_document(view, backup, owner)).items():
        key = _normal(written)
        if not _belongs(key, owner):
            wrong.append(KeyFailure(key, "this registry.json must not contain this key"))
        elif not isinstance(value, str):
            wrong.append(KeyFailure(key, "its value in the backup is not text"))
        else:
            values[key] = value
    return values, wrong


async def _lost_keys(view: BackupTree, backup: Backup) -> dict[str | None, list[str]]:
    """Return the keys that could not be read for the backup, whose values are unknown."""
    manifest = (await view.reports.of(backup)).manifest
    lost: dict[str | None, list[str]] = {}
    for point in manifest.points if manifest else ():
        if point.kind == "registry":
            lost.setdefault(point.dogu, []).extend(_normal(failed.path) for failed in point.failed)
    return lost


async def _live(instance: Instance, owner: str | None) -> RegistryData:
    if owner is None:
        return await instance.instance_registry()
    return await instance.dogu_registry(owner)


# Keys


def _normal(key: str) -> str:
    return "/" + key.strip("/")


def _below(key: str, directory: str) -> bool:
    return key == directory or key.startswith(directory.rstrip("/") + "/")


def _is_wanted(key: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(_below(key, directory) for directory in wanted)


def _belongs(key: str, owner: str | None) -> bool:
    """Return whether backups contain `key` for `owner`."""
    top, _, rest = key.removeprefix("/").partition("/")
    first, _, below = rest.partition("/")
    if owner is not None:
        return top in _TREES and first == owner and bool(below)
    if top == "config":
        return bool(below) and (first.startswith("_") or first == "backup")
    return top == "blueprint"


def _in_order(changes: Iterable[KeyChange]) -> tuple[KeyChange, ...]:
    """Return the changes so that a restore may end between any two of them.

    A dogu counts as installed by its key ``current``, which comes after all that it refers to and
    is the first to be removed.  Else nothing is removed before everything is written, but for keys
    that would be in the way: where a directory becomes a value, or a value a directory.
    """
    changes = list(changes)
    added = {change.key for change in changes if change.action == "add"}
    above = {directory for key in added for directory in _directories(key)}

    def rank(change: KeyChange) -> tuple[int, str]:
        current = change.key.endswith("/current") and change.key.startswith("/dogu")
        if change.action == "remove":
            if change.key in above or not added.isdisjoint(_directories(change.key)):
                return 0, change.key
            return (4 if current else 5), change.key
        if current:
            return 3, change.key
        return (2 if change.key.startswith("/dogu") else 1), change.key

    return tuple(sorted(changes, key=rank))


def _directories(key: str) -> list[str]:
    """Return the parent directories of `key`."""
    parts = key.split("/")
    return ["/".join(parts[:length]) for length in range(2, len(parts))]


def values_below(document: Mapping[str, object], directory: str) -> dict[str, str]:
    """Return the texts of a registry.json at and below `directory`."""
    return {
        _normal(key): value
        for key, value in document.items()
        if isinstance(value, str) and _below(_normal(key), directory)
    }
