"""A dogu's description, its dogu.json: which volumes it has and which of them need backup.

Real files mix the case of their keys and Cloudogu's tools, written in Go, read them without regard
to it; so does this module.  Pure parsing; the format is that of cesapp-lib's ``core.Dogu``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.errors import DoguError

PRIVATE_VOLUME: Final = "_private"
"""The folder beside a dogu's volumes that holds its private key, the only copy there is."""

_PORTS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that the description declares; `path` is its place inside the container."""

    name: str
    path: str = ""
    owner: str = ""
    group: str = ""
    needs_backup: bool = True


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How to tell whether the dogu is well: a `type` of ``tcp``, ``http`` or ``state``.

    `port` is 0 and `type` empty where the description does not say one that can be used.
    """

    type: str
    port: int = 0
    path: str = "/health"
    state: str = "ready"

    def __str__(self) -> str:
        what = {"tcp": str(self.port), "http": f"{self.port}{self.path}", "state": self.state}
        return f"{self.type or 'of no type'} {what.get(self.type, '')}".strip()


@dataclass(frozen=True, slots=True)
class Dogu:
    """What a dogu.json says; `name` is ``namespace/simple``.

    `needs` are the simple names of the dogus that it depends on; `commands` are those that it
    exposes, by their names.
    """

    name: str
    version: str
    volumes: tuple[Volume, ...] = ()
    health_checks: tuple[HealthCheck, ...] = ()
    needs: tuple[str, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)


def parse_dogu(text: str) -> Dogu:
    """Read a dogu.json; DoguError when it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DoguError(f"The dogu.json is not JSON ({error}); install the dogu again.") from error
    dogu = _fields(found, "the dogu.json")
    name = _text(dogu, "name")
    if not name.rpartition("/")[2]:
        raise DoguError("The dogu.json has no Name; install the dogu again.")
    declared = dogu.get("volumes", [])
    if not isinstance(declared, list):
        raise DoguError("Volumes in the dogu.json is no list; install the dogu again.")
    return Dogu(
        name,
        _text(dogu, "version"),
        tuple(_volume(entry) for entry in declared),
        health_checks=_health_checks(dogu),
        needs=_needs(dogu.get("dependencies")),
        commands=_commands(dogu.get("exposedcommands")),
    )


def _fields(found: object, what: str) -> dict[str, object]:
    """Return an object's fields under lower-case names; of two that differ in case, the last.

    As in Go, a field that is null counts as not there.
    """
    if not isinstance(found, dict):
        raise DoguError(f"A JSON object is missing where {what} needs one; install the dogu again.")
    return {key.lower(): value for key, value in found.items() if value is not None}


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or not _is_unicode(value):
        raise DoguError(f"{name.title()} in the dogu.json is no text; install the dogu again.")
    return value


def _is_unicode(text: str) -> bool:
    """Tell whether `text` can be written down: JSON's escapes can build halves of characters."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _volume(entry: object) -> Volume:
    fields = _fields(entry, "a volume in the dogu.json")
    name = _text(fields, "name")
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise DoguError(
            f"The dogu.json declares a volume {name!r}, which cannot be a folder's name; "
            "install the dogu again."
        )
    # Unset means true: cesapp-lib's code decides so, whatever its documentation says.
    needs_backup = fields.get("needsbackup", True)
    if not isinstance(needs_backup, bool):
        raise DoguError(
            f"NeedsBackup of the volume {name} is neither true nor false; install the dogu again."
        )
    return Volume(
        name=name,
        path=_text(fields, "path"),
        owner=_text(fields, "owner"),
        group=_text(fields, "group"),
        needs_backup=needs_backup,
    )


# What is read below is not what makes a dogu's data whole: a part that cannot be understood is
# passed over, and does not cost the description.


def _health_checks(dogu: dict[str, object]) -> tuple[HealthCheck, ...]:
    """Read HealthChecks, or the one HealthCheck of older descriptions."""
    found = tuple(_health_check(fields) for fields in _objects(dogu.get("healthchecks")))
    return found or tuple(_health_check(fields) for fields in _objects([dogu.get("healthcheck")]))


def _health_check(fields: dict[str, object]) -> HealthCheck:
    port = fields.get("port")
    usable = isinstance(port, int) and not isinstance(port, bool) and 0 < port < _PORTS
    path = _word(fields.get("path")) or "/health"
    return HealthCheck(
        _word(fields.get("type")).lower(),
        port if usable and isinstance(port, int) else 0,
        path if path.startswith("/") else f"/{path}",
        _word(fields.get("state")) or "ready",
    )


def _needs(declared: object) -> tuple[str, ...]:
    """Return the dogus among the dependencies; in the old form they are bare names."""
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
