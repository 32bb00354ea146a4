"""Include and exclude patterns of a restore. Pure.

A pattern without a slash matches a name at any depth; one with slashes matches the last names of a
path, or with a leading slash all names below the target. A match includes everything below it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cesbrfs.errors import UsageError

Parts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern: a regular expression for each of its names; `anchored` at the target."""

    names: tuple[re.Pattern[str], ...]
    anchored: bool = False

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Parse a pattern; raises UsageError if it is empty."""
        names = [name for name in text.split("/") if name not in ("", ".")]
        if not names:
            raise UsageError(f"Invalid pattern '{text}': it contains no name.")
        compiled = tuple(re.compile(fnmatch.translate(name)) for name in names)
        return cls(compiled, text.startswith("/"))

    def matches(self, parts: Sequence[bytes]) -> bool:
        """Return whether the path with these names matches."""
        count = len(self.names)
        if len(parts) < count or (self.anchored and len(parts) != count):
            return False
        return all(
            name.match(os.fsdecode(part))
            for name, part in zip(self.names, parts[-count:], strict=True)
        )


@dataclass(frozen=True, slots=True)
class Patterns:
    """All patterns of a restore; without `include`, everything is included."""

    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()

    @classmethod
    def of(cls, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Patterns:
        """Parse patterns; raises UsageError."""
        return cls(tuple(map(Pattern.of, include)), tuple(map(Pattern.of, exclude)))

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def excludes(self, parts: Parts) -> bool:
        """Return whether a path is excluded; its parents were tested before."""
        return any(pattern.matches(parts) for pattern in self.exclude)

    def includes(self, parts: Parts) -> bool:
        """Return whether a path, or one of its parents, is included."""
        return not self.include or any(
            pattern.matches(parts[:end])
            for end in range(1, len(parts) + 1)
            for pattern in self.include
        )
