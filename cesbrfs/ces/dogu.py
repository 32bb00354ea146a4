"""Parse a dogu.json: the volumes of a dogu and which of them need backup. Pure.

The format is ``core.Dogu`` of cesapp-lib. Keys are case-insensitive, as in Cloudogu's own tools
(written in Go), because real files mix upper and lower case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.errors import DoguError

PRIVATE_VOLUME: Final = "_private"
"""Directory next to the volumes of a dogu with the only copy of its private key."""

_PORT_LIMIT: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Volume:
    """A declared volume; `path` is its path inside the container."""

    name: str
    path: str = ""
    owner: str = ""
    group: str = ""
    needs_backup: bool = True


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A health check of `type` ``tcp``, ``http`` or ``state``.

    `port` is 0 and `type` is empty if missing or invalid.
    """

    type: str
    port: int = 0
    path: str = "/health"
    state: str = "ready"

    def __str__(self) -> str:
        what = {"tcp": str(self.port), "http": f"{self.port}{self.path}", "state": self.state}
        return f"{self.type or 'no type'} {what.get(self.type, '')}".strip()


@dataclass(frozen=True, slots=True)
class Dogu:
    """A parsed dogu.json; `name` is ``namespace/simple``.

    `needs` are the simple names of the dogus it depends on. `commands` maps the names of exposed
    commands to the commands.
    """

    name: str
    version: str
    volumes: tuple[Volume, ...] = ()
    health_checks: tuple[HealthCheck, ...] = ()
    needs: tuple[str, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)


def parse_dogu(text: str) -> Dogu:
    """Parse a dogu.json; raises DoguError if it is invalid."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DoguError(f"Invalid dogu.json: not JSON ({error}). Reinstall the dogu.") from error
    dogu = _fields(parsed, "it")
    name = _text(dogu, "name")
    if not name.rpartition("/")[2]:
        raise DoguError("Invalid dogu.json: no Name. Reinstall the dogu.")
    declared = dogu.get("volumes", [])
    if not isinstance(declared, list):
        raise DoguError("Invalid dogu.json: Volumes is not a list. Reinstall the dogu.")
    return Dogu(
        name,
        _text(dogu, "version"),
        tuple(_volume(entry) for entry in declared),
        health_checks=_health_checks(dogu),
        needs=_needs(dogu.get("dependencies")),
        commands=_commands(dogu.get("exposedcommands")),
    )


def _fields(parsed: object, what: str) -> dict[str, object]:
    """Return the fields of a JSON object with lower-case names; the last duplicate wins.

    Null fields are omitted, as in Go.
    """
    if not isinstance(parsed, dict):
        raise DoguError(f"Invalid dogu.json: {what} is not a JSON object. Reinstall the dogu.")
    return {key.lower(): value for key, value in parsed.items() if value is not None}


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or not _is_unicode(value):
        raise DoguError(f"Invalid dogu.json: {name.title()} is not text. Reinstall the dogu.")
    return value


def _is_unicode(text: str) -> bool:
    """Return whether `text` has no lone surrogates, which JSON escapes can produce."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _volume(entry: object) -> Volume:
    fields = _fields(entry, "a volume")
    name = _text(fields, "name")
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise DoguError(
            f"Invalid dogu.json: the volume name {name!r} is not a valid directory name."
            " Reinstall the dogu."
        )
    # The default is true: cesapp-lib's code takes precedence over its documentation (false).
    needs_backup = fields.get("needsbackup", True)
    if not isinstance(needs_backup, bool):
        raise DoguError(
            f"Invalid dogu.json: NeedsBackup of volume {name} is not a boolean. Reinstall the dogu."
        )
    return Volume(
        name=name,
        path=_text(fields, "path"),
        owner=_text(fields, "owner"),
        group=_text(fields, "group"),
        needs_backup=needs_backup,
    )


# The fields below are not required for a complete backup: invalid entries are skipped instead of
# rejecting the whole dogu.json.


def _health_checks(dogu: dict[str, object]) -> tuple[HealthCheck, ...]:
    """Return the HealthChecks, or the single HealthCheck of an older dogu.json."""
    checks = tuple(_health_check(fields) for fields in _objects(dogu.get("healthchecks")))
    return checks or tuple(_health_check(fields) for fields in _objects([dogu.get("healthcheck")]))


def _health_check(fields: dict[str, object]) -> HealthCheck:
    port = fields.get("port")
    usable = isinstance(port, int) and not isinstance(port, bool) and 0 < port < _PORT_LIMIT
    path = _word(fields.get("path")) or "/health"
    return HealthCheck(
        _word(fields.get("type")).lower(),
        port if usable and isinstance(port, int) else 0,
        path if path.startswith("/") else f"/{path}",
        _word(fields.get("state")) or "ready",
    )


def _needs(declared: object) -> tuple[str, ...]:
    """Return the dependencies that are dogus; older dogu.json files list plain names."""
    names = [_word(entry) for entry in declared] if isinstance(declared, list) else []
    dogus = (f for f in _objects(declared) if _word(f.get("type")).lower() in {"", "dogu"})
    names += [_word(fields.get("name")) for fields in dogus]
    return tuple(simple for name in names if (simple := name.rpartition("/")[2]))


def _commands(declared: object) -> dict[str, str]:
    commands = {_word(f.get("name")): _word(f.get("command")) for f in _objects(declared)}
    return {name: command for name, command in commands.items() if name and command}


def _objects(declared: object) -> Iterator[dict[str, object]]:
    for entry in declared if isinstance(declared, list) else ():
        if isinstance(entry, dict):
            yield _fields(entry, "an entry")


def _word(value: object) -> str:
    return value if isinstance(value, str) and _is_unicode(value) else ""
