"""Classify the content of untagged snapshots, such as those of other tools, by path. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cesbrfs.errors import UsageError

KINDS: Final = ("metadata", "volumes", "configuration", "registry")
"""Kinds of data that a rule can assign to a path."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Assigns `kind` to paths that fully match; groups ``dogu`` and ``volume`` are the owner."""

    match: re.Pattern[str]
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"invalid rule kind {self.kind!r}. Use one of {', '.join(KINDS)}.")


DEFAULT_BACKUP_TAG: Final = re.compile(r"(?P<id>[^=]+)")
"""The default pattern of tags that contain a Backup ID: any tag without ``=``."""

DEFAULT_RULES: Final[tuple[Rule, ...]] = (
    Rule(re.compile(r"(?:.*/)?ces/(?P<dogu>[^/]+)/volumes/(?P<volume>[^/]+)"), "volumes"),
    Rule(re.compile(r"(?:.*/)?etc/(?:ces|cesapp)"), "configuration"),
    Rule(re.compile(r"(?:.*/)?(?P<dogu>[^/]+)/dogu\.json"), "metadata"),
    Rule(re.compile(r"/?dogu\.json"), "metadata"),
    Rule(re.compile(r"(?:.*/)?(?P<dogu>[^/]+)/registry\.json"), "registry"),
    Rule(re.compile(r"/?registry\.json"), "registry"),
)
