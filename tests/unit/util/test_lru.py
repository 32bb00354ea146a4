"""Single-flight loading under cancellation, and eviction within the capacity."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import BlobMissingError
from cesbrfs.util.lru import LruCache


def cache_of(capacity: int = 100) -> LruCache[str, bytes]:
    return LruCache(capacity, len)


class Loader:
    """A load that counts its calls and returns when `finish` is set."""

    def __init__(self, value: bytes = b"value", error: Exception | None = None) -> None:
        self.value, self.error = value, error
        self.runs = self.running = 0
        self.finish = trio.Event()

    async def __call__(self) -> bytes:
        """Wait for `finish`, then return the value or raise the error."""
        self.runs += 1
        self.running += 1
        try:
            await self.finish.wait()
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return self.value


async def request(
    cache: LruCache[str, bytes], load: Callable[[], Awaitable[bytes]], results: list[bytes]
) -> None:
    results.append(await cache.get("key", load))


async def test_concurrent_requests_share_one_load() -> None:
    """Ten tasks cause one load and get ten results; then the value is cached."""
    cache, load = cache_of(), Loader()
    results: list[bytes] = []
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(request, cache, load, results)
        await trio.testing.wait_all_tasks_blocked()
        assert load.runs == 1
        load.finish.set()
    assert results == [b"value"] * 10
    assert await cache.get("key", load) == b"value"
    assert load.runs == 1


async def test_a_waiter_takes_over_from_a_cancelled_loader() -> None:
    """One of the waiting tasks loads instead; the others are not affected."""
    cache, load = cache_of(), Loader()
    results: list[bytes] = []
    loader = trio.CancelScope()

    async def load_cancellable() -> None:
        with loader:
            await request(cache, load, results)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load_cancellable)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(request, cache, load, results)
        await trio.testing.wait_all_tasks_blocked()
        loader.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert load.runs == 2
        load.finish.set()
    assert loader.cancelled_caught
    assert results == [b"value"] * 3


async def test_loaders_cancelled_one_after_the_other() -> None:
    """Each cancellation passes the load to the next task; a later request loads again."""
    cache, load = cache_of(), Loader()
    scopes = [trio.CancelScope() for _ in range(3)]

    async def run(scope: trio.CancelScope) -> None:
        with scope:
            await cache.get("key", load)

    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(run, scope)
            await trio.testing.wait_all_tasks_blocked()
        for scope in scopes:
            assert load.running == 1
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
    assert load.running == 0
    load.finish.set()
    assert await cache.get("key", load) == b"value"


async def test_a_cancelled_waiter_does_not_affect_the_load() -> None:
    """The load continues for the other tasks."""
    cache, load = cache_of(), Loader()
    results: list[bytes] = []
    waiter = trio.CancelScope()

    async def wait() -> None:
        with waiter:
            await request(cache, load, results)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request, cache, load, results)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        waiter.cancel()
        await trio.testing.wait_all_tasks_blocked()
        load.finish.set()
    assert results == [b"value"]
    assert load.runs == 1


async def test_an_error_is_raised_in_all_tasks_and_not_cached() -> None:
    """Each task gets a separate exception of the same type and text; the next request loads."""
    cache, load = cache_of(), Loader(error=BlobMissingError("gone"))
    caught: list[BlobMissingError] = []

    async def fail() -> None:
        with pytest.raises(BlobMissingError, match="gone") as info:
            await cache.get("key", load)
        caught.append(info.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        load.finish.set()
    assert load.runs == 1
    assert len({id(error) for error in caught}) == 3
    load.error = None
    assert await cache.get("key", load) == b"value"


async def test_keys_are_loaded_independently() -> None:
    """A hanging load does not block requests for other keys."""
    cache, hanging, quick = cache_of(), Loader(), Loader(b"other")
    quick.finish.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, "key", hanging)
        await trio.testing.wait_all_tasks_blocked()
        assert await cache.get("other", quick) == b"other"
        nursery.cancel_scope.cancel()


async def test_values_larger_than_the_cache_are_returned_but_not_cached() -> None:
    """All tasks get the value; it is not cached, and nothing is evicted for it."""
    cache, load = cache_of(10), Loader(b"x" * 11)
    cache.put("kept", b"kept")
    results: list[bytes] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(request, cache, load, results)
        await trio.testing.wait_all_tasks_blocked()
        load.finish.set()
    assert results == [b"x" * 11] * 3
    assert load.runs == 1
    assert cache.peek("key") is None
    assert cache.peek("kept") == b"kept"


async def test_an_empty_value_is_cached() -> None:
    """An empty value is cached like any other."""
    cache, load = cache_of(), Loader(b"")
    load.finish.set()
    assert await cache.get("key", load) == b""
    assert await cache.get("key", load) == b""
    assert load.runs == 1


def test_the_least_recently_used_value_is_evicted_first() -> None:
    """`peek` counts as a use."""
    cache = cache_of(3)
    for key in "abc":
        cache.put(key, b"1")
    assert cache.peek("a") == b"1"
    cache.put("d", b"2")
    assert [cache.peek(key) for key in "abcd"] == [b"1", None, b"1", b"2"]


@given(st.integers(0, 20), st.lists(st.tuples(st.sampled_from("abcdef"), st.binary(max_size=25))))
def test_the_capacity_is_never_exceeded(capacity: int, puts: list[tuple[str, bytes]]) -> None:
    """For any values, `used` is the sum of the cached sizes and within the capacity."""
    cache = cache_of(capacity)
    for key, value in puts:
        fresh = cache.peek(key) is None
        cache.put(key, value)
        if fresh and len(value) <= capacity:
            assert cache.peek(key) == value
        cached = [cache.peek(k) for k in "abcdef"]
        assert cache.used == sum(len(v) for v in cached if v is not None) <= capacity


def test_large_values_are_cached_separately() -> None:
    """Large values do not evict small ones, and are evicted only by other large values."""
    cache: LruCache[str, bytes] = LruCache(4, len, large=2)
    for key in "abc":
        cache.put(key, b"large")
    for key in "defgh":
        cache.put(key, b"1")
    assert cache.peek("b") == b"large"
    assert [cache.peek(key) for key in "acdefgh"] == [None, b"large", None, *[b"1"] * 4]
    assert cache.used == 4
    assert len(cache.items()) == 6
    cache.drop(lambda key: key in "bh")
    assert [cache.peek(key) for key in "bch"] == [None, b"large", None]
    assert cache.used == 3
