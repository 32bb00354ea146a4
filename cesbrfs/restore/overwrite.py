"""The rule about existing files, and what is planned for one file. Pure."""

from __future__ import annotations

from enum import StrEnum


class Overwrite(StrEnum):
    """Whether existing files are replaced: never, always, by newer or by changed ones.

    The rule applies to everything but directories. An existing directory gets the recorded mode,
    owner and times if a file in its place would be replaced; its content is never removed.
    """

    NEVER = "never"
    ALWAYS = "always"
    IF_NEWER = "if-newer"
    IF_CHANGED = "if-changed"

    def replaces(self, existing_ns: int, backup_ns: int, *, same: bool = False) -> bool:
        """Check whether the file in the backup replaces the existing one, by modification times.

        `same`: size, time and metadata of both are equal.
        """
        if self is Overwrite.IF_NEWER:
            return backup_ns > existing_ns
        return self is Overwrite.ALWAYS or (self is Overwrite.IF_CHANGED and not same)


class Action(StrEnum):
    """What is planned for one file.

    `DONE` was restored by an earlier run. `REDO` was, too, but may be incomplete after a crash of
    the machine. `UNCHANGED` is equal to the file in the backup by size, time and metadata.
    `REFUSE` cannot be restored and fails.
    """

    CREATE = "create"
    OVERWRITE = "overwrite"
    DONE = "done"
    REDO = "redo"
    SKIP = "skip"
    UNCHANGED = "unchanged"
    REFUSE = "refuse"
