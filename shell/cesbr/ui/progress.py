"""How far a command is, as a line for people and as an event for programs.  Pure but for the clock.

``with context.out.progress("Restoring") as progress: … progress.update(files=3)`` is all a command
does; `Output` decides whether, where and how often it is shown.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from cesbr.ui import humanize
from cesbrfs.util.escape import printable

_WINDOW_SECONDS: Final = 10.0
"""The rate is that of this last while, so that it follows what happens now."""
_MARK_SECONDS: Final = 0.5
_ENOUGH_SECONDS: Final = 2.0
"""How long a rate is watched before it foretells an end."""
_MINUTE: Final = 60
_GAP: Final = "  "


class Progress:
    """The progress of a running command; `update` may be called at any rate.

    `files` and `bytes` count what is done, the totals what there is; None: not known.  `note` says
    what is being worked on.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.what: Final = what
        self.files: int | None = None
        self.total_files: int | None = None
        self.bytes: int | None = None
        self.total_bytes: int | None = None
        self.note = ""
        self._share: float | None = None
        self._clock = clock
        self._began = clock()
        self._marks: deque[tuple[float, int]] = deque()

    def update(
        self,
        *,
        files: int | None = None,
        total_files: int | None = None,
        bytes: int | None = None,  # noqa: A002 - what it counts
        total_bytes: int | None = None,
        share: float | None = None,
        note: str = "",
    ) -> None:
        """Take over how far it is; what is left out is no longer known.

        `share` is for work whose totals are not known, 0 to 1.
        """
        self._share = share
        self.files, self.total_files = files, total_files
        self.bytes, self.total_bytes = bytes, total_bytes
        self.note = note
        if bytes is None:
            self._marks.clear()
            return
        now = self._clock()
        if self._marks and bytes < self._marks[-1][1]:  # another thing is counted now
            self._marks.clear()
        if not self._marks or now - self._marks[-1][0] >= _MARK_SECONDS:
            self._marks.append((now, bytes))
            while now - self._marks[0][0] > _WINDOW_SECONDS:
                self._marks.popleft()

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return self._clock() - self._began

    @property
    def rate(self) -> float | None:
        """Recent bytes per second, None if unknown."""
        marks = self._marks
        if not marks or self.bytes is None:
            return None
        since, then = marks[0]
        elapsed = self._clock() - since
        return (self.bytes - then) / elapsed if elapsed >= _ENOUGH_SECONDS else None

    @property
    def seconds_left(self) -> float | None:
        """How long it will still take at this rate; None where nothing tells."""
        if self._share and self.seconds >= _ENOUGH_SECONDS:
            return self.seconds * (1 - self._share) / self._share
        rate = self.rate
        if not rate or self.bytes is None or self.total_bytes is None:
            return None
        return max(0, self.total_bytes - self.bytes) / rate

    @property
    def share(self) -> float | None:
        """Which part of it is done, 0 to 1; None where nothing tells."""
        if self._share is not None:
            return self._share
        for done, total in ((self.bytes, self.total_bytes), (self.files, self.total_files)):
            if done is not None and total:
                return min(1.0, done / total)
        return None

    def line(self, columns: int) -> str:
        """Return one line of at most `columns` cells; what matters least is left out first."""
        share, left = self.share, self.seconds_left
        time_left = f"{duration(left)} left" if left is not None else duration(self.seconds)
        parts = [  # by place in the line; the number says how much it matters
            (0, self.what),
            (2, "" if share is None else f"{share:.0%}"),
            (4, _of(self.files, self.total_files, lambda number: f"{number:,}", "files")),
            (3, _of(self.bytes, self.total_bytes, humanize.size, "")),
            (5, f"{humanize.size(int(self.rate))}/s" if self.rate else ""),
            (1, time_left),
        ]
        line = ""
        for least in range(5, -1, -1):
            line = _GAP.join(part for matters, part in parts if part and matters <= least)
            if humanize.width(line) <= columns:
                break
        line += f"{_GAP}{printable(self.note)}" if self.note else ""
        while humanize.width(line) > columns:
            line = line[:-1]
        return line.rstrip()

    def event(self) -> dict[str, object]:
        """Return it for programs: seconds, counts and bytes, null where nothing tells."""
        left, rate = self.seconds_left, self.rate
        return {
            "event": "progress",
            "what": self.what,
            "seconds": round(self.seconds, 1),
            "files": self.files,
            "total_files": self.total_files,
            "bytes": self.bytes,
            "total_bytes": self.total_bytes,
            "bytes_per_second": None if rate is None else round(rate),
            "seconds_left": None if left is None else round(left),
            "share": None if self.share is None else round(self.share, 4),
            "note": self.note,
        }


def _of(done: int | None, total: int | None, say: Callable[[int], str], unit: str) -> str:
    if done is None:
        return ""
    text = f"{say(done)} of {say(total)}" if total else say(done)
    return f"{text} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Return a time as a clock shows it: ``0:07``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
