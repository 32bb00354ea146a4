"""Patience with a storage behind a network: asking again, and waiting while it is away.

A storage makes one attempt for each call and tells by the class of its error what became of it.
Here the attempts are repeated.  Where the server does not answer, all readers wait at one gate: one
of them at a time, in turn, asks again after a growing pause, and its success lets all others go on.
Once the server is away for longer than the patience that was set, they get the error; whoever comes
later gets it after one more attempt in vain.  Nothing has to be started anew.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from cesbrfs.errors import (
    CesbrError,
    FileMissingError,
    RepositoryUnreachableError,
    StorageError,
    fresh_copy,
)
from cesbrfs.repo.storage.base import FileInfo, FileType, MayHoldOthers, Storage

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

OPENING_SECONDS: Final = 3.0
"""The patience with a server that has never answered yet: its address may be wrong."""
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
"""So long at most does a server that is back wait for its readers."""
_LATE_PAUSE: Final = 1.0
"""The pause, when the patience is over, before an attempt for one who came after the last."""
_NEWS: Final = 2
"""From so many attempts in vain on, an outage is told in the log."""
_TRIES_PER_FILE: Final = 4
"""So often is one file asked for that the server, though it answers, cannot give."""


class _Outage:
    """The time from a request without an answer to the next answer.

    It began after attempt number `after`.  `turn` belongs to the one who asks again, at `next_try`
    and not before.  So far `tries` were in vain, the last of them, `number`, ended at `ended` with
    `error`.
    """

    def __init__(self, after: int) -> None:
        self.after: Final = after
        self.began: Final = trio.current_time()
        self.turn: Final = trio.Lock()
        self.tries = 0
        self.number = 0
        self.ended = self.next_try = 0.0
        self.error = RepositoryUnreachableError()

    def note(self, number: int, error: RepositoryUnreachableError) -> None:
        """Note an attempt in vain."""
        self.error = type(error)(*error.args)  # without a traceback: no cycle
        self.tries += 1
        self.number = number
        self.ended = trio.current_time()
        self.next_try = self.ended + _pause(self.tries)


class RetryingStorage:
    """A `Storage` that asks `storage` again, and waits while it is away for `patience` seconds.

    What asking again cannot change is raised at once: that a file is missing or damaged, that the
    storage denies access or is not trusted.
    """

    def __init__(self, storage: Storage, patience: float) -> None:
        self.display_url = storage.display_url
        self._storage: Final = storage
        self._patience: Final = patience
        self._answered = False
        self._attempts = 0
        self._outage: _Outage | None = None

    @property
    def is_offline(self) -> bool:
        """Whether the server left the last request without an answer."""
        return self._outage is not None

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind."""
        return await self._ask(partial(self._storage.list, kind))

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        return await self._ask(partial(self._storage.read, kind, name, offset, length))

    async def other_entry(self) -> str | None:
        """Return what the storage does, None where it cannot be asked."""
        storage = self._storage
        if not isinstance(storage, MayHoldOthers):
            return None
        return await self._ask(storage.other_entry)

    async def aclose(self) -> None:
        """Close the storage."""
        await self._storage.aclose()

    async def _ask(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Return what `request` brings; a file the server fails on is asked for a few times."""
        tries = 0
        while True:
            try:
                return await self._answer(request)
            except FileMissingError:
                raise
            except StorageError as error:
                tries += 1
                if tries == _TRIES_PER_FILE:
                    raise
                _log.debug("Asking again after: %s", error)
                await trio.sleep(_pause(tries))

    async def _answer(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Return what `request` brings, or raise what the server says, waiting while it is away."""
        seen = self._attempts
        # Opening counts from the start: a wrong address may time out once, not twice.
        limit = None if self._answered else trio.current_time() + self._seconds
        tries = 0
        while True:
            outage = self._outage
            if outage is None:
                if tries > 1:  # others were answered meanwhile, only this request is not
                    await trio.sleep(_pause(tries))
                try:
                    return await self._attempt(request)
                except RepositoryUnreachableError:
                    tries += 1
                if (outage := self._outage) is None:
                    continue
            if limit is None:
                limit = outage.began + self._seconds
            late = trio.current_time() >= limit
            with trio.move_on_at(math.inf if late else limit) as waiting:
                async with outage.turn:
                    told = late and outage.number > seen
                    if self._outage is outage and not told:
                        early = outage.ended + _LATE_PAUSE if late else math.inf
                        await trio.sleep_until(min(outage.next_try, early))
                        waiting.deadline = math.inf  # the attempt has a deadline of its own
                        try:
                            return await self._attempt(request)
                        except RepositoryUnreachableError:
                            tries += 1
            if self._outage is not None and trio.current_time() >= limit:
                raise fresh_copy(outage.error) from outage.error

    @property
    def _seconds(self) -> float:
        return self._patience if self._answered else min(self._patience, OPENING_SECONDS)

    async def _attempt(self, request: Callable[[], Awaitable[_T]]) -> _T:
        self._attempts += 1
        number = self._attempts
        try:
            result = await request()
        except RepositoryUnreachableError as error:
            self._failed(number, error)
            raise
        except CesbrError:
            self._is_back()  # an error of the server's is an answer, too
            raise
        self._is_back()
        return result

    def _failed(self, number: int, error: RepositoryUnreachableError) -> None:
        if self._outage is None:
            self._outage = _Outage(self._attempts)
        elif number <= self._outage.after:
            return  # begun before: no more news than the first that failed
        self._outage.note(number, error)
        # A single lost connection is no news, and that an address is wrong is told by the error.
        if self._outage.tries == _NEWS and self._answered:
            _log.warning("Readers wait up to %g s for an answer: %s", self._patience, error)

    def _is_back(self) -> None:
        self._answered = True
        if self._outage is None:
            return
        if self._outage.tries >= _NEWS:
            gone = trio.current_time() - self._outage.began
            _log.warning("%s answers again, after %.0f s.", self.display_url, gone)
        self._outage = None


def _pause(tries: int) -> float:
    """Return how many seconds to wait after `tries` attempts: more each time, never the same."""
    longest = min(_FIRST_PAUSE * 2.0 ** (tries - 1), _LONGEST_PAUSE)
    return random.uniform(longest / 2, longest)  # noqa: S311 - keeps hosts apart, no secret
