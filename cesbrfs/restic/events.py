"""Parse restic's ``--json`` output, of all versions from 0.14, into typed objects. Pure.

Zero fields are left out by restic and are zero here; events and fields that are not known are
skipped, and so are lines that are no JSON.  Names in events have lost their bytes that are not
UTF-8: each became U+FFFD.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec


class Status(msgspec.Struct, tag_field="message_type", tag="status", frozen=True):
    """How far a running backup is; sizes in bytes, times in seconds."""

    seconds_elapsed: int = 0
    seconds_remaining: int = 0
    percent_done: float = 0.0
    """From 0 to 1."""
    total_files: int = 0
    files_done: int = 0
    total_bytes: int = 0
    bytes_done: int = 0
    error_count: int = 0
    current_files: list[str] | None = None


class Failed(msgspec.Struct, tag_field="message_type", tag="error", frozen=True):
    """A file or directory that could not be read; `error` differs from version to version."""

    error: dict[str, object] | str | None = None
    during: str = ""
    """``scan`` (counting in advance) or ``archival``."""
    item: str = ""

    @property
    def reason(self) -> str:
        """Why, in words; empty where restic does not say (0.14 for a directory)."""
        if isinstance(self.error, str):
            return self.error
        if not self.error:
            return ""
        if isinstance(message := self.error.get("message"), str):
            return message
        number = self.error.get("Err")
        if isinstance(number, int):  # 0.14 prints Go's PathError: {"Op", "Path", "Err": errno}
            return f"{self.error.get('Op') or 'read'}: {os.strerror(number).lower()}"
        return ""


class Summary(msgspec.Struct, tag_field="message_type", tag="summary", frozen=True):
    """The totals of a finished backup; sizes in bytes, duration in seconds."""

    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs_new: int = 0
    dirs_changed: int = 0
    dirs_unmodified: int = 0
    data_blobs: int = 0
    tree_blobs: int = 0
    data_added: int = 0
    data_added_packed: int = 0
    total_files_processed: int = 0
    total_bytes_processed: int = 0
    total_duration: float = 0.0
    snapshot_id: str = ""
    dry_run: bool = False


class ExitError(msgspec.Struct, tag_field="message_type", tag="exit_error", frozen=True):
    """Why restic fails, since 0.18 in place of the text on stderr."""

    code: int = 1
    message: str = ""


Event = Status | Failed | Summary | ExitError

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def parse_event(line: bytes) -> Event | None:
    """Return the event that `line` holds, or None for text and for events of other kinds."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@dataclass(frozen=True, slots=True)
class ItemError:
    """A path that a backup could not read, or not wholly."""

    path: bytes
    message: str


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """A finished backup.

    `snapshot_id` has 8 hex digits before restic 0.17 and 64 from then on; it is empty after a dry
    run.  `errors` names every path that is not in the snapshot as it is on disk.
    """

    snapshot_id: str
    totals: Summary
    errors: tuple[ItemError, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether something that was asked for is missing from the snapshot."""
        return bool(self.errors)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What ``restic check`` found; `errors` are its own words, one line each."""

    errors: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the repository is sound, as far as it was checked."""
        return not self.errors


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What ``restic prune`` did, in its own words (``1.5 MiB``); empty where it does not say."""

    removed: str = ""
    remaining: str = ""


_TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")
_ELAPSED = re.compile(r"^\[[\d:]+\]\s*")
_CHECK_PROGRESS = re.compile(
    r"using temporary cache in |create exclusive lock|load indexes|check all packs"
    r"|check snapshots, trees and blobs|read (all|group|%?.* of) |repository contains errors"
    r"|no errors were found|\[[\d:]+\] "
)
_CHECK_ADVICE = re.compile(
    r"The repository (contains damaged|is damaged|index is damaged)|restic repair "
    r"|Damaged pack files can be|.*troubleshooting"
)


def plain(line: bytes) -> str:
    """Return a line of text without what is meant for a terminal."""
    return _TERMINAL.sub("", line.decode("utf-8", "replace")).strip()


def without_elapsed(text: str) -> str:
    """Return a progress line without its clock: what is left changes only with progress."""
    return _ELAPSED.sub("", text)


def check_errors(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines of a failed ``restic check`` that name damage, each once."""
    errors = dict.fromkeys(
        text
        for line in lines
        if (text := line.strip().removeprefix("Fatal: ").removeprefix("error: "))
        and not _CHECK_PROGRESS.match(text)
        and not _CHECK_ADVICE.match(text)
    )
    return tuple(errors) or ("restic found errors and does not name them",)


_PRUNED = re.compile(r"(total prune|remaining):\s+\d+ blobs / (.+)")


def prune_report(lines: Iterable[str]) -> PruneReport:
    """Return the sizes that a finished ``restic prune`` has printed."""
    told = {found[1]: found[2] for line in lines if (found := _PRUNED.fullmatch(line))}
    return PruneReport(told.get("total prune", ""), told.get("remaining", ""))


def as_restic_shows(name: bytes) -> str:
    """Return `name` as in restic's JSON: U+FFFD for each byte that is not UTF-8."""
    text = name.decode("utf-8", "surrogateescape")
    return "".join("\ufffd" if "\udc80" <= char <= "\udcff" else char for char in text)


def bytes_of_path(shown: str, names_in: Callable[[bytes], Iterable[bytes]]) -> bytes:
    """Return the path that restic shows as `shown`, with the bytes that its JSON has lost.

    `names_in` lists a directory.  A component that fits no name, or several, stays as it is shown.
    """
    if "\ufffd" not in shown:
        return shown.encode("utf-8", "surrogateescape")
    path = b"/" if shown.startswith("/") else b""
    for component in shown.strip("/").split("/"):
        found = component.encode("utf-8", "surrogateescape")
        if "\ufffd" in component:
            fitting = [n for n in names_in(path or b".") if as_restic_shows(n) == component]
            if len(fitting) == 1:
                found = fitting[0]
        path = os.path.join(path, found)
    return path
