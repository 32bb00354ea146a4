"""Parse the output of a restic process: progress, messages, and whether to stop waiting."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.restic.errors import is_hopeless, is_missing_file, retry_reason
from cesbrfs.restic.events import (
    Event,
    Failed,
    Status,
    Summary,
    parse_event,
    plain,
    without_elapsed,
)
from cesbrfs.restic.process import LineVerdict

OnEvent = Callable[[Event], None]
OnText = Callable[[str], None]

_INTERRUPTED: Final = "interrupt received"
"""Part of the message that every version prints on stderr after SIGINT."""


@dataclass(slots=True)
class OutputHandler:
    """Handles the output of one restic process, and decides whether it may continue."""

    on_event: OnEvent | None = None
    on_text: OnText | None = None
    on_interrupt: Callable[[], None] | None = None
    retries: float = math.inf
    """Number of restic's retries after which it is stopped."""
    stops_at_missing_file: bool = False
    """Whether restic is stopped when it retries to read a file that does not exist."""
    seen_retries: int = field(default=0, init=False)
    saw_missing_file: bool = field(default=False, init=False)

    def stdout(self, line: bytes) -> LineVerdict:
        """Handle one line of stdout."""
        event = parse_event(line)
        if event is not None and self.on_event is not None:
            self.on_event(event)
            return LineVerdict(keep=False, progress=_progress(event))
        text = plain(line)
        if self.on_text is not None and text:
            self.on_text(text)
        return LineVerdict(progress=without_elapsed(text))

    def stderr(self, line: bytes) -> LineVerdict:
        """Handle one line of stderr."""
        event = parse_event(line)
        if isinstance(event, Failed) and self.on_event is not None:
            self.on_event(event)
            return LineVerdict(keep=False, progress=event)
        text = plain(line)
        reason = retry_reason(text)
        if reason is not None:
            self.seen_retries += 1
            if self.stops_at_missing_file and is_missing_file(reason):
                self.saw_missing_file = True
                return LineVerdict(give_up=True)
            tired = self.retries < math.inf and is_hopeless(reason)
            return LineVerdict(give_up=tired or self.seen_retries >= self.retries)
        if self.on_interrupt is not None and _INTERRUPTED in text:
            self.on_interrupt()
        if self.on_text is not None and text and event is None:
            self.on_text(text)
        return LineVerdict(progress=text)


@dataclass(slots=True)
class BackupOutput:
    """Collects the totals of one backup, and the items that it could not read."""

    on_event: OnEvent | None
    on_interrupt: Callable[[], None] | None = None
    summary: Summary | None = None
    failed: dict[str, Failed] = field(default_factory=dict)

    @property
    def handler(self) -> OutputHandler:
        """The output handler for the backup process."""
        return OutputHandler(on_event=self, on_interrupt=self.on_interrupt)

    def __call__(self, event: Event) -> None:
        """Record an event and pass it to `on_event`."""
        if isinstance(event, Summary):
            self.summary = event
        elif isinstance(event, Failed):
            before = self.failed.get(event.item)
            if before is None or event.reason:  # archival reports it again after scan
                self.failed[event.item] = event
        if self.on_event is not None:
            self.on_event(event)


def _progress(event: Event) -> object:
    """Return the part of `event` that changes only when restic makes progress."""
    if isinstance(event, Status):
        return (event.total_files, event.total_bytes, event.files_done, event.bytes_done)
    return event
