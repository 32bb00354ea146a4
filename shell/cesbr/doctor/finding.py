"""The result of one check, and running checks with a time limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final, TypeVar

import trio

from cesbrfs.errors import CesbrError

_T = TypeVar("_T")

SECONDS: Final = 10.0
"""Time limit of a check that does not access a network."""


class State(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, in words, and what to do about it."""

    check: str
    state: State
    found: str
    action: str = ""

    def json(self) -> dict[str, object]:
        """Return the finding for programs."""
        return {**asdict(self), "state": self.state.value}

    @property
    def text(self) -> str:
        """Return what was found and what to do, as sentences on one line."""
        end = f" {self.action.rstrip('.')}." if self.action else ""
        return f"{self.found.rstrip('.')}.{end}"


def ok(check: str, found: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(check, State.OK, found)


def warning(check: str, found: str, action: str) -> Finding:
    """Return a finding that does not stop backups or restores now."""
    return Finding(check, State.WARNING, found, action)


def error(check: str, found: str, action: str) -> Finding:
    """Return a finding that stops backups or restores."""
    return Finding(check, State.ERROR, found, action)


def failure(check: str, problem: CesbrError, state: State = State.ERROR) -> Finding:
    """Return the finding for an error, whose message ends with what to do."""
    message = problem.message
    for separator in (". ", "; "):
        found, separated, action = message.partition(separator)
        if separated:
            return Finding(check, state, found, action[:1].upper() + action[1:])
    return Finding(check, state, message)


def skipped(check: str, why: str) -> Finding:
    """Return the finding of a check that could not be done."""
    return warning(check, f"not checked: {why}", "")


async def bounded(
    check: str, run: Callable[[], Awaitable[Finding]], seconds: float = SECONDS
) -> Finding:
    """Return the finding of `run`, or why there is none; never raises, and ends in time."""
    try:
        with trio.fail_after(seconds):
            return await run()
    except trio.TooSlowError:
        return skipped(check, f"no result within {seconds:.0f} s")
    except CesbrError as problem:
        return failure(check, problem)
    except Exception as problem:  # noqa: BLE001 - one failed check must not hide the others
        reason = getattr(problem, "strerror", None) or repr(problem)
        return skipped(check, str(reason))


async def in_thread(work: Callable[[], _T]) -> _T:
    """Run blocking `work` in a thread, which is abandoned if the time is over."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
