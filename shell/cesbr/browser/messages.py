"""What the browser asks its reader for, and what it gets.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

Parts = tuple[bytes, ...]
"""The names from the root of the backups on."""
Slot = Literal["list", "details", "page", "selection"]
"""A request replaces an earlier one of the same slot, except in ``selection``."""
LineStyle = Literal["", "title", "faint", "added", "removed", "hunk", "error"]


class Row(NamedTuple):
    """An entry of a directory; `mtime_ns` is None if it is not known.

    At the root it is a backup, or the directory of the snapshots of no backup.
    """

    name: bytes
    type: str
    mode: int = 0
    size: int = 0
    mtime_ns: int | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it can be opened."""
        return self.type == "dir"


class TextLine(NamedTuple):
    """A line of a pane; `target` is the path that it leads to."""

    text: str
    style: LineStyle = ""
    target: Parts | None = None


class BackupInfo(NamedTuple):
    """A backup as the list shows it, and its description as lines of the pane."""

    status: str
    dogus: str
    lines: tuple[TextLine, ...]


# Requests


@dataclass(frozen=True, slots=True)
class ListDirectory:
    """List a directory; the backups, with their descriptions, for the root."""

    slot: ClassVar[Slot] = "list"
    parts: Parts


@dataclass(frozen=True, slots=True)
class Preview:
    """Read the metadata of an entry, and the beginning of its content."""

    slot: ClassVar[Slot] = "details"
    parts: Parts


@dataclass(frozen=True, slots=True)
class ListVersions:
    """List the versions of a file in all backups."""

    slot: ClassVar[Slot] = "details"
    parts: Parts


@dataclass(frozen=True, slots=True)
class DiffLive:
    """Compare an entry with the instance."""

    slot: ClassVar[Slot] = "details"
    parts: Parts


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan a restore of the selection to the default directory, or in place."""

    slot: ClassVar[Slot] = "page"
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Select:
    """Add a path to the selection."""

    slot: ClassVar[Slot] = "selection"
    parts: Parts


@dataclass(frozen=True, slots=True)
class Deselect:
    """Remove a path from the selection."""

    slot: ClassVar[Slot] = "selection"
    parts: Parts


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop what is read for a slot."""

    slot: Slot


TextRequest = Preview | ListVersions | DiffLive | Plan
Request = ListDirectory | TextRequest | Select | Deselect | Cancel
Requests = Sequence[Request]

# Results


@dataclass(frozen=True, slots=True)
class Listed:
    """The entries of a directory in order; `problem` names what cannot be read, in one line."""

    request: ListDirectory
    rows: Sequence[Row]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Described:
    """Descriptions of backups by their directory names."""

    backups: Mapping[bytes, BackupInfo]


@dataclass(frozen=True, slots=True)
class Text:
    """The lines of a pane."""

    request: TextRequest
    lines: Sequence[TextLine]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is selected now."""

    paths: Sequence[Parts]


@dataclass(frozen=True, slots=True)
class Failed:
    """A request failed; `message` is a sentence."""

    request: Request
    message: str


@dataclass(frozen=True, slots=True)
class Warned:
    """A message that was logged while the browser had the terminal."""

    message: str


Result = Listed | Described | Text | Selection | Failed | Warned
