"""Maps of recorded to shown user and group IDs, for a mount on another machine.

The lines of a map have the fields of mount(8)'s ``X-mount.idmap``:
``[u|g|b:]recorded:shown[:count]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cesbrfs.errors import UsageError
from cesbrfs.util.escape import printable

_ID_LIMIT: Final = (1 << 32) - 1
"""No ID: chown(2) takes it as "unchanged"."""
_LINE: Final = re.compile(
    r"(?:(?P<kind>[ugb]):)?(?P<recorded>[0-9]{1,10}):(?P<shown>[0-9]{1,10})(?::(?P<count>[0-9]{1,10}))?"
)
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class IdRange:
    """`count` recorded IDs from `recorded`, shown as those from `shown`."""

    recorded: int
    shown: int
    count: int = 1

    @property
    def end(self) -> int:
        """The recorded ID after the last one."""
        return self.recorded + self.count


@dataclass(frozen=True, slots=True)
class IdMap:
    """Ranges of user IDs and of group IDs. IDs outside all ranges are not mapped."""

    users: tuple[IdRange, ...] = ()
    groups: tuple[IdRange, ...] = ()

    def user(self, recorded: int) -> int | None:
        """Return the user ID to show; None for an ID that is not mapped."""
        return _find(self.users, recorded)

    def group(self, recorded: int) -> int | None:
        """Return the group ID to show; None for an ID that is not mapped."""
        return _find(self.groups, recorded)


def _find(ranges: Iterable[IdRange], recorded: int) -> int | None:
    for each in ranges:
        if each.recorded <= recorded < each.end:
            return each.shown + recorded - each.recorded
    return None


def read_id_map(file: str) -> IdMap:
    """Read an ID map; UsageError names the file and the line that is wrong."""
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"The ID map {file} cannot be read: {error.strerror}. Correct -o idmap=."
        ) from error
    if len(content) > _MAX_BYTES:
        raise UsageError(
            f"The ID map {file} is larger than 1 MiB. Use ranges: recorded:shown:count."
        )
    return parse_id_map(content.decode("utf-8", "backslashreplace"), file)


def parse_id_map(text: str, file: str) -> IdMap:
    """Parse the content of the ID map `file`; ``#`` begins a comment. Raises UsageError."""
    users: list[IdRange] = []
    groups: list[IdRange] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        try:
            kind, added = _parse_line(words)
            if kind in "ub":
                _add(users, added)
            if kind in "gb":
                _add(groups, added)
        except ValueError as error:
            raise UsageError(
                f"{file}, line {number}: {error}. Write recorded:shown, u:recorded:shown for users"
                " only, g:recorded:shown for groups only, or append :count for a range."
            ) from None
    return IdMap(tuple(users), tuple(groups))


def _parse_line(words: str) -> tuple[str, IdRange]:
    """Return the kind (``u``, ``g``, ``b``) and the range of a line; raises ValueError."""
    found = _LINE.fullmatch(words)
    if found is None:
        raise ValueError(f"'{printable(words)}' is not a mapping of numeric IDs")
    made = IdRange(int(found["recorded"]), int(found["shown"]), int(found["count"] or 1))
    if not made.count:
        raise ValueError("the count is 0")
    if max(made.recorded, made.shown) + made.count > _ID_LIMIT:
        raise ValueError(f"IDs end at {_ID_LIMIT - 1}")
    return found["kind"] or "b", made


def _add(ranges: list[IdRange], added: IdRange) -> None:
    for known in ranges:
        if known.recorded < added.end and added.recorded < known.end:
            raise ValueError(f"ID {max(known.recorded, added.recorded)} is mapped already")
    ranges.append(added)
