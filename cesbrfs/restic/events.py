"""Parse restic's ``--json`` output, of all versions from 0.14, into typed objects. Pure.

restic omits fields that are zero; they are zero here as well. Unknown events and fields, and lines
that are not JSON, are skipped. In the names in events, restic has replaced each byte that is not
UTF-8 by U+FFFD.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec


class Status(msgspec.Struct, tag_field="message_type", tag="status", frozen=True):
    """The progress of a running backup; sizes in bytes, times in seconds."""

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
    """A file or directory that could not be read; the form of `error` depends on the version."""

    error: dict[str, object] | str | None = None
    during: str = ""
    """``scan`` (counting in advance) or ``archival``."""
    item: str = ""

    @property
    def reason(self) -> str:
        """The reason as text; empty if restic reports none (0.14 for a directory)."""
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
    """The reason of a failure; printed by 0.18 and later instead of text on stderr."""

    code: int = 1
    message: str = ""


Event = Status | Failed | Summary | ExitError

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def parse_event(line: bytes) -> Event | None:
    """Return the event in `line`; None for text and for unknown events."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        return _decoder.decode(line)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class ItemError:
    """A path that a backup could not read, or not completely."""

    path: bytes
    message: str


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """A finished backup.

    `snapshot_id` has 8 hex digits before restic 0.17, and 64 from 0.17 on; it is empty after a dry
    run. `errors` lists every path that is missing or incomplete in the snapshot.
    """

    snapshot_id: str
    totals: Summary
    errors: tuple[ItemError, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether the snapshot lacks some of the requested data."""
        return bool(self.errors)


class RepositoryKey(msgspec.Struct, frozen=True, rename="camel"):
    """A key of the repository, as ``restic key list`` prints it."""

    id: str
    """8 hex digits before restic 0.17, 64 from then on."""
    current: bool = False
    """Whether it is the key that the password in use opens."""
    user_name: str = ""
    host_name: str = ""
    created: str = ""
    """``YYYY-MM-DD HH:MM:SS`` in local time."""

    @property
    def short_id(self) -> str:
        """The first 8 hex digits of the ID."""
        return self.id[:8]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of ``restic check``; `errors` are its messages, one line each."""

    errors: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the check has detected no damage."""
        return not self.errors


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The sizes that ``restic prune`` printed (``1.5 MiB``); empty if it printed none."""

    removed: str = ""
    remaining: str = ""


_TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")
_ELAPSED = re.compile(r"^\[[\d:]+\]\s*")
_CHECK_PROGRESS = re.compile(
    r"using temporary cache in |create exclusive lock|load indexes|check all packs"
    r"|check snapshots, trees and blobs|read (all|group|%?.* of) |repository contains errors"
    r"|no errors were found|LoadIndex returned errors|\[[\d:]+\] "
)
_CHECK_ADVICE = re.compile(
    r"The repository (contains damaged|is damaged|index is damaged)|restic repair "
    r"|Damaged pack files can be|.*troubleshooting"
)


def plain(line: bytes) -> str:
    """Return a line as text, without terminal escape sequences and surrounding white space."""
    return _TERMINAL.sub("", line.decode("utf-8", "replace")).strip()


def without_elapsed(text: str) -> str:
    """Return a progress line without its clock, so that it changes only with progress."""
    return _ELAPSED.sub("", text)


def check_errors(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines of a failed ``restic check`` that report damage, without duplicates."""
    errors = dict.fromkeys(
        text
        for line in lines
        if (text := line.strip().removeprefix("Fatal: ").removeprefix("error: "))
        and not _CHECK_PROGRESS.match(text)
        and not _CHECK_ADVICE.match(text)
    )
    return tuple(errors) or ("restic found errors but did not list them",)


_PRUNED = re.compile(r"(total prune|remaining):\s+\d+ blobs / (.+)")


def prune_report(lines: Iterable[str]) -> PruneReport:
    """Return the sizes in the output of ``restic prune``."""
    sizes = {match[1]: match[2] for line in lines if (match := _PRUNED.fullmatch(line))}
    return PruneReport(sizes.get("total prune", ""), sizes.get("remaining", ""))


def as_restic_shows(name: bytes) -> str:
    """Return `name` as in restic's JSON, with U+FFFD for each byte that is not UTF-8."""
    text = name.decode("utf-8", "surrogateescape")
    return "".join("\ufffd" if "\udc80" <= char <= "\udcff" else char for char in text)


def bytes_of_path(shown: str, names_in: Callable[[bytes], Iterable[bytes]]) -> bytes:
    """Return the exact bytes of the path `shown` in restic's JSON, which replaces invalid UTF-8.

    `names_in` lists a directory. A component that matches no name, or several, is not changed.
    """
    if "\ufffd" not in shown:
        return shown.encode("utf-8", "surrogateescape")
    path = b"/" if shown.startswith("/") else b""
    for component in shown.strip("/").split("/"):
        name = component.encode("utf-8", "surrogateescape")
        if "\ufffd" in component:
            fitting = [n for n in names_in(path or b".") if as_restic_shows(n) == component]
            if len(fitting) == 1:
                name = fitting[0]
        path = os.path.join(path, name)
    return path
