"""Read the backup configuration of an instance from the registry keys in ``/config/backup``.

None of these values is secret. `cesbrfs.ces.repository_config` reads the address and the key of the
repository.
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
from cesbrfs.ces.retention import POLICIES, Policy, policy_named
from cesbrfs.errors import SuspendedError, UsageError

PREFIX: Final = "/config/backup"

_TIME_OF_DAY: Final = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)
_KEY_NAMES: Final = (
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
    """Raw values by key name, parsed on access.

    An invalid value raises UsageError, which names the key, only when it is used. A missing or
    empty key has its default. `address` is that of the registry.
    """

    address: str
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether backups and restores are enabled."""
        return self._bool("active", default=True)

    @property
    def times(self) -> tuple[time, ...]:
        """Times of day of scheduled backups, in local time, sorted; may be empty."""
        raw = self._text("time")
        try:
            return tuple(sorted({_time_of_day(text) for text in _times_of(raw)}))
        except ValueError:
            raise self._invalid("time", 'a time such as 12:30 or {"Times":["12:30:00"]}') from None

    @property
    def ignore_dogu_health(self) -> bool:
        """Whether unhealthy dogus are backed up as well."""
        return self._bool("ignore_dogu_health")

    @property
    def retention_enabled(self) -> bool:
        """Whether old backups are removed by `retention_strategy`."""
        return self._bool("retention_enabled")

    @property
    def retention_strategy(self) -> str | None:
        """Name of the retention policy; None if not set."""
        raw = self._text("retention_strategy")
        try:
            return policy_named(raw).name if raw else None
        except UsageError:
            raise self._invalid("retention_strategy", f"one of {', '.join(POLICIES)}") from None

    @property
    def retention_policy(self) -> Policy | None:
        """The retention policy to apply; None if retention is disabled."""
        if not self.retention_enabled:
            return None
        if self.retention_strategy is None:
            raise UsageError(
                f"Retention is enabled in the registry {self.address}, but"
                f" {PREFIX}/retention_strategy is not set. Set it to one of {', '.join(POLICIES)}."
            )
        return policy_named(self.retention_strategy)

    @property
    def pre_backup_script(self) -> Path | None:
        """Script to run before each backup."""
        return self._script("pre_backup_script")

    @property
    def post_backup_script(self) -> Path | None:
        """Script to run after each successful backup."""
        return self._script("post_backup_script")

    @property
    def pre_restore_script(self) -> Path | None:
        """Script to run before each restore."""
        return self._script("pre_restore_script")

    @property
    def post_restore_script(self) -> Path | None:
        """Script to run after each successful restore."""
        return self._script("post_restore_script")

    @property
    def deny_cross_blueprint_restores(self) -> bool:
        """Whether only backups of the same blueprint may be restored."""
        return self._bool("deny_cross_blueprint_restores")

    def require_active(self) -> None:
        """Raise SuspendedError if backups and restores are disabled."""
        if not self.active:
            raise SuspendedError(
                f"Backup and restore are suspended: {PREFIX}/active in the registry "
                f"{self.address} is false. Set it to true, or pass --force."
            )

    def describe(self) -> dict[str, dict[str, object]]:
        """Return ``value`` and ``source`` of each key, and ``problem`` if the value is invalid.

        An invalid value is shortened to one line, and masked if it could be a secret.
        """
        return {name: self._describe_key(name) for name in _KEY_NAMES}

    def _describe_key(self, name: str) -> dict[str, object]:
        source = f"registry {PREFIX}/{name}" if self._text(name) else "default"
        try:
            parsed: object = self.times if name == "time" else getattr(self, name)
        except UsageError as error:
            shown = masked_line(name, self._text(name))
            return {"value": shown, "source": source, "problem": error.message}
        if isinstance(parsed, tuple):
            parsed = [f"{entry:%H:%M:%S}" for entry in parsed]
        elif isinstance(parsed, Path):
            parsed = str(parsed)
        return {"value": parsed, "source": source}

    def _text(self, name: str) -> str:
        return self.values.get(name, "").strip()

    def _bool(self, name: str, *, default: bool = False) -> bool:
        raw = self._text(name).lower()
        if raw not in {"", "true", "false"}:
            raise self._invalid(name, "true or false")
        return raw == "true" if raw else default

    def _script(self, name: str) -> Path | None:
        raw = self._text(name)
        if raw and (not raw.startswith("/") or "\0" in raw):
            raise self._invalid(name, "the absolute path of a script")
        return Path(raw) if raw else None

    def _invalid(self, name: str, expected: str) -> UsageError:
        return UsageError(
            f"Invalid value '{masked_line(name, self._text(name))}' of {PREFIX}/{name} in the"
            f" registry {self.address}. Set it to {expected}."
        )


async def backup_config(registry: Registry) -> BackupConfig:
    """Read the backup configuration from `registry`."""
    values = {name: await registry.get(f"{PREFIX}/{name}") for name in _KEY_NAMES}
    return BackupConfig(registry.address, {k: v for k, v in values.items() if v is not None})


def _times_of(raw: str) -> list[str]:
    """Return the times of a JSON list or object, or a single plain time."""
    if not raw:
        return []
    parsed: object = raw
    if raw[0] in '{["':
        try:
            parsed = json.loads(raw)
        except RecursionError as error:
            raise ValueError from error
    if isinstance(parsed, dict):  # case-insensitive, as in Go
        parsed = next((value for key, value in parsed.items() if key.lower() == "times"), None)
    if isinstance(parsed, str):
        return [parsed]
    if not isinstance(parsed, list) or not all(isinstance(text, str) for text in parsed):
        raise ValueError
    return parsed


def _time_of_day(text: str) -> time:
    match = _TIME_OF_DAY.fullmatch(text.strip())
    if match is None:
        raise ValueError
    return time(int(match[1]), int(match[2]), int(match[3] or 0))
