"""An LRU cache bounded in bytes, with single-flight loading."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from cesbrfs.errors import fresh_copy

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class _Flight(Generic[_V]):
    """A load in progress, which several tasks may wait for."""

    __slots__ = ("done", "error", "loaded", "value")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.loaded = False
        self.value: _V | None = None
        self.error: Exception | None = None


class LruCache(Generic[_K, _V]):
    """A cache of at most `capacity` bytes that evicts the least recently used values.

    `size` returns the size of a value in bytes. Values larger than half the capacity are kept
    separately, at most `large` of them, so that small values do not evict the ones that are slow
    to load. Tasks that request the same missing key share one load. If the loading task is
    cancelled, the next waiting task loads the value.
    """

    def __init__(self, capacity: int, size: Callable[[_V], int], large: int = 0) -> None:
        self.capacity = capacity
        self.used = 0
        self.hits = 0
        self.misses = 0
        """Values that had to be loaded."""
        self._size = size
        self._max_large = large
        self._values: OrderedDict[_K, _V] = OrderedDict()
        self._sizes: dict[_K, int] = {}
        self._large: OrderedDict[_K, _V] = OrderedDict()
        self._flights: dict[_K, _Flight[_V]] = {}

    def peek(self, key: _K) -> _V | None:
        """Return the value of `key` if it is cached, without blocking; else None."""
        value = self._values.get(key)
        if value is not None:
            self.hits += 1
            self._values.move_to_end(key)
        elif self._large and (value := self._large.get(key)) is not None:
            self.hits += 1
            self._large.move_to_end(key)
        return value

    def items(self) -> list[tuple[_K, _V]]:
        """Return the cached keys and values, least recently used first."""
        return [*self._values.items(), *self._large.items()]

    def is_loading(self, key: _K) -> bool:
        """Return whether a load of `key` is in progress."""
        return key in self._flights

    def put(self, key: _K, value: _V) -> None:
        """Cache `value`, and evict the least recently used values beyond the capacity."""
        if key in self._values or key in self._large:
            return
        self.misses += 1
        size = self._size(value)
        if self._max_large and size > self.capacity // 2:
            self._large[key] = value
            if len(self._large) > self._max_large:
                self._large.popitem(last=False)
            return
        if size > self.capacity:
            return
        self._values[key] = value
        self._sizes[key] = size
        self.used += size
        while self.used > self.capacity:
            oldest, _ = self._values.popitem(last=False)
            self.used -= self._sizes.pop(oldest)

    def drop(self, unwanted: Callable[[_K], bool]) -> None:
        """Invalidate the values whose keys match."""
        for key in [key for key in self._values if unwanted(key)]:
            del self._values[key]
            self.used -= self._sizes.pop(key)
        for key in [key for key in self._large if unwanted(key)]:
            del self._large[key]

    async def get(self, key: _K, load: Callable[[], Awaitable[_V]]) -> _V:
        """Return the value of `key`, loading it if it is not cached. Raises what `load` raises."""
        while (value := self.peek(key)) is None:
            flight = self._flights.get(key)
            if flight is None:
                return await self._load(key, load)
            await flight.done.wait()
            if flight.loaded:
                return flight.value  # type: ignore[return-value]  # loaded: the value is set
            if flight.error is not None:
                raise fresh_copy(flight.error) from flight.error
        return value

    async def _load(self, key: _K, load: Callable[[], Awaitable[_V]]) -> _V:
        flight: _Flight[_V] = _Flight()
        self._flights[key] = flight
        try:
            value = await load()
            flight.value, flight.loaded = value, True
            self.put(key, value)
        except Exception as error:
            flight.error = error
            raise
        else:
            return value
        finally:  # on trio.Cancelled neither value nor error is set: a waiter retries
            del self._flights[key]
            flight.done.set()
            del flight  # the error's traceback holds this frame: no cycle
