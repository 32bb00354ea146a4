"""How an instance wants to be backed up: the keys below ``/config/backup``, but for the repository.

Nothing here is a secret; `cesbrfs.ces.repository_config` reads the repository's address and its key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from pathlib import Path
from typing import Final

from cesbrfs.ces.redaction import masked_line
from cesbrfs.ces.registry import Registry
from cesbrfs.ces.retention import POLICIES, Policy, named
from cesbrfs.errors import SuspendedError, UsageError

FOLDER: Final = "/config/backup"

_TIME: Final = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)
_NAMES: Final = (
    "active",
    "time",
    "ignore_dogu_health",
    "retention_enabled",
    "retention_strategy",
    "pre_backup_script",
    "post_backup_script",
    "pre_restore_script",
    "post_restore_script",
    "deny_cross_blueprint_restores",
)


@dataclass(frozen=True, slots=True)
class BackupConfig:
    """The values of the keys, read when they are asked for.

    So a value that is wrong raises its UsageError, which names the key, only for those who need it.
    A key that is missing or empty has its default.  `address` is the registry's.
    """

    address: str
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether backups and restores may be made at all."""
        return self._flag("active", default=True)

    @property
    def times(self) -> tuple[time, ...]:
        """When on each day a backup is due, in the instance's local time; sorted, maybe none."""
        written = self._text("time")
        try:
            return tuple(sorted({_time_of_day(text) for text in _listed(written)}))
        except ValueError:
            raise self._wrong("time", 'a time such as 12:30 or {"Times":["12:30:00"]}') from None

    @property
    def ignore_dogu_health(self) -> bool:
        """Whether a backup is made of dogus that are not healthy, too."""
        return self._flag("ignore_dogu_health")

    @property
    def retention_enabled(self) -> bool:
        """Whether backups are forgotten by `retention_strategy`."""
        return self._flag("retention_enabled")

    @property
    def retention_strategy(self) -> str | None:
        """The name of a retention policy; None when there is none."""
        written = self._text("retention_strategy")
        try:
            return named(written).name if written else None
        except UsageError:
            raise self._wrong("retention_strategy", f"one of {', '.join(POLICIES)}") from None

    @property
    def retention_policy(self) -> Policy | None:
        """By which backups are forgotten; None where that is not enabled."""
        if not self.retention_enabled:
            return None
        if self.retention_strategy is None:
            raise UsageError(
                f"{FOLDER}/retention_enabled in the registry {self.address} is true, but"
                f" {FOLDER}/retention_strategy names no policy; set it to one of"
                f" {', '.join(POLICIES)}."
            )
        return named(self.retention_strategy)

    @property
    def pre_backup_script(self) -> Path | None:
        """The program that runs before each backup."""
        return self._script("pre_backup_script")

    @property
    def post_backup_script(self) -> Path | None:
        """The program that runs after each backup that succeeded."""
        return self._script("post_backup_script")

    @property
    def pre_restore_script(self) -> Path | None:
        """The program that runs before each restore."""
        return self._script("pre_restore_script")

    @property
    def post_restore_script(self) -> Path | None:
        """The program that runs after each restore that succeeded."""
        return self._script("post_restore_script")

    @property
    def deny_cross_blueprint_restores(self) -> bool:
        """Whether only backups of the instance's own blueprint may be restored."""
        return self._flag("deny_cross_blueprint_restores")

    def require_active(self) -> None:
        """Raise SuspendedError when the instance suspends its backups and restores."""
        if not self.active:
            raise SuspendedError(
                f"Backup and restore are suspended: {FOLDER}/active in the registry "
                f"{self.address} is false; set it to true, or say --force."
            )

    def describe(self) -> dict[str, dict[str, object]]:
        """Return each key's ``value`` and ``source``, and the ``problem`` of one that is wrong.

        A wrong value is one short line, and hidden where it may be a secret in the wrong place.
        """
        return {name: self._described(name) for name in _NAMES}

    def _described(self, name: str) -> dict[str, object]:
        source = f"registry {FOLDER}/{name}" if self._text(name) else "default"
        try:
            found: object = self.times if name == "time" else getattr(self, name)
        except UsageError as error:
            shown = masked_line(name, self._text(name))
            return {"value": shown, "source": source, "problem": error.message}
        if isinstance(found, tuple):
            found = [f"{entry:%H:%M:%S}" for entry in found]
        elif isinstance(found, Path):
            found = str(found)
        return {"value": found, "source": source}

    def _text(self, name: str) -> str:
        return self.values.get(name, "").strip()

    def _flag(self, name: str, *, default: bool = False) -> bool:
        written = self._text(name).lower()
        if written not in {"", "true", "false"}:
            raise self._wrong(name, "true or false")
        return written == "true" if written else default

    def _script(self, name: str) -> Path | None:
        written = self._text(name)
        if written and (not written.startswith("/") or "\0" in written):
            raise self._wrong(name, "the absolute path of a program")
        return Path(written) if written else None

    def _wrong(self, name: str, right: str) -> UsageError:
        return UsageError(
            f"{FOLDER}/{name} in the registry {self.address} is"
            f" '{masked_line(name, self._text(name))}'; set it to {right}."
        )


async def backup_config(registry: Registry) -> BackupConfig:
    """Read how the instance of `registry` wants to be backed up."""
    found = {name: await registry.get(f"{FOLDER}/{name}") for name in _NAMES}
    return BackupConfig(registry.address, {k: v for k, v in found.items() if v is not None})


def _listed(written: str) -> list[str]:
    """Return the times of a list in JSON, or the only one that is written as it is."""
    if not written:
        return []
    found: object = written
    if written[0] in '{["':
        try:
            found = json.loads(written)
        except RecursionError as error:
            raise ValueError from error
    if isinstance(found, dict):  # as Go reads it, without regard to case
        found = next((value for key, value in found.items() if key.lower() == "times"), None)
    if isinstance(found, str):
        return [found]
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError
    return found


def _time_of_day(text: str) -> time:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError
    return time(int(match[1]), int(match[2]), int(match[3] or 0))
