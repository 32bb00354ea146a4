"""Retry requests to a remote storage, and wait while it is offline.

A storage makes one attempt per call, and the class of its error says whether a retry can help.
While the server does not respond, all readers wait for one of them, which retries with growing
delays; its success releases the others. If the server is offline for longer than the configured
patience, they get the error, and so does each later call after another failed attempt. After an
outage, reading continues without a restart.
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
from cesbrfs.repo.storage.base import FileInfo, FileType, HasServerClock, MayHoldOthers, Storage
from cesbrfs.repo.storage.counters import StorageCounters

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

OPENING_SECONDS: Final = 3.0
"""Maximum patience with a server that has never responded: its address may be wrong."""
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
"""Upper bound of the retry delay, in seconds."""
_LATE_PAUSE: Final = 1.0
"""Upper bound of the retry delay, in seconds, for requests made after the patience ran out."""
_NEWS: Final = 2
"""Number of failed attempts after which an outage is logged."""
_TRIES_PER_FILE: Final = 4
"""Maximum number of requests for a file if the server responds with an error."""


class _Outage:
    """The time from a request without a response to the next response.

    It began after attempt number `after`. The task that owns `turn` retries, not before
    `next_try`. So far `tries` attempts have failed; the last one, `number`, ended at `ended`
    with `error`.
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
        """Record a failed attempt."""
        self.error = type(error)(*error.args)  # without a traceback: no cycle
        self.tries += 1
        self.number = number
        self.ended = trio.current_time()
        self.next_try = self.ended + _pause(self.tries)


class RetryingStorage:
    """A `Storage` that retries requests to `storage`, for `patience` seconds if it is offline.

    Errors that a retry cannot change are raised at once: a missing or damaged file, denied
    access, an untrusted server.
    """

    def __init__(self, storage: Storage, patience: float) -> None:
        self.display_url = storage.display_url
        self.counters: Final = StorageCounters()
        self._storage: Final = storage
        self._patience: Final = patience
        self._answered = False
        self._attempts = 0
        self._outage: _Outage | None = None

    @property
    def is_offline(self) -> bool:
        """Whether the server did not respond to the last request."""
        return self._outage is not None

    @property
    def clock_difference(self) -> float | None:
        """The result of the storage; None if its server sends no time."""
        storage = self._storage
        return storage.clock_difference if isinstance(storage, HasServerClock) else None

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind."""
        found = await self._ask(partial(self._storage.list, kind))
        self.counters.count(kind)
        return found

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        data = await self._ask(partial(self._storage.read, kind, name, offset, length))
        self.counters.count(kind, len(data))
        return data

    async def other_entry(self) -> str | None:
        """Return the result of the storage; None if it does not support this."""
        storage = self._storage
        if not isinstance(storage, MayHoldOthers):
            return None
        return await self._ask(storage.other_entry)

    async def aclose(self) -> None:
        """Close the storage."""
        await self._storage.aclose()

    async def _ask(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of `request`; retry a few times if the server returns an error."""
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
                _log.debug("Retrying after: %s", error)
                await trio.sleep(_pause(tries))

    async def _answer(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of `request` or raise its error; wait while the server is offline."""
        seen = self._attempts
        # Opening counts from the start: a wrong address may time out once, not twice.
        limit = None if self._answered else trio.current_time() + self._seconds
        tries = 0
        while True:
            outage = self._outage
            if outage is None:
                if tries > 1:  # the server responds to other requests, not to this one
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
                    has_failed = late and outage.number > seen
                    if self._outage is outage and not has_failed:
                        early = outage.ended + _LATE_PAUSE if late else math.inf
                        await trio.sleep_until(min(outage.next_try, early))
                        waiting.deadline = math.inf  # the attempt has its own deadline
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
            self.counters.failed(error)
            self._failed(number, error)
            raise
        except CesbrError as error:
            self.counters.failed(error)
            self._is_back()  # an error response also shows that the server is online
            raise
        self._is_back()
        return result

    def _failed(self, number: int, error: RepositoryUnreachableError) -> None:
        if self._outage is None:
            self._outage = _Outage(self._attempts)
        elif number <= self._outage.after:
            return  # it began before the outage and adds no information
        self._outage.note(number, error)
        # A single lost connection is not logged; a wrong address is reported by the error.
        if self._outage.tries == _NEWS and self._answered:
            _log.warning(
                "The server does not respond; readers wait up to %g s: %s", self._patience, error
            )

    def _is_back(self) -> None:
        self._answered = True
        if self._outage is None:
            return
        if self._outage.tries >= _NEWS:
            gone = trio.current_time() - self._outage.began
            _log.warning("%s responds again, after %.0f s.", self.display_url, gone)
        self._outage = None


def _pause(tries: int) -> float:
    """Return the delay in seconds after `tries` attempts: growing, with jitter."""
    longest = min(_FIRST_PAUSE * 2.0 ** (tries - 1), _LONGEST_PAUSE)
    return random.uniform(longest / 2, longest)  # noqa: S311 - keeps hosts apart, no secret
