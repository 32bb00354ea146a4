"""One flight for each key, whoever is cancelled; and never more bytes than the bound."""

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
    """A load that tells how often it ran and how many run now, and lands when `land` is set."""

    def __init__(self, value: bytes = b"value", error: Exception | None = None) -> None:
        self.value, self.error = value, error
        self.runs = self.running = 0
        self.land = trio.Event()

    async def __call__(self) -> bytes:
        """Wait until it may land."""
        self.runs += 1
        self.running += 1
        try:
            await self.land.wait()
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return self.value


async def ask(
    cache: LruCache[str, bytes], load: Callable[[], Awaitable[bytes]], answers: list[bytes]
) -> None:
    answers.append(await cache.get("key", load))


async def test_many_who_ask_share_one_load() -> None:
    """Ten tasks, one load, ten answers; then it is remembered."""
    cache, load = cache_of(), Loader()
    answers: list[bytes] = []
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask, cache, load, answers)
        await trio.testing.wait_all_tasks_blocked()
        assert load.runs == 1
        load.land.set()
    assert answers == [b"value"] * 10
    assert await cache.get("key", load) == b"value"
    assert load.runs == 1


async def test_a_cancelled_leader_does_not_fail_those_who_wait() -> None:
    """One of the waiters loads instead; nobody else hears of it."""
    cache, load = cache_of(), Loader()
    answers: list[bytes] = []
    leader = trio.CancelScope()

    async def lead() -> None:
        with leader:
            await ask(cache, load, answers)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lead)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(ask, cache, load, answers)
        await trio.testing.wait_all_tasks_blocked()
        leader.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert load.runs == 2
        load.land.set()
    assert leader.cancelled_caught
    assert answers == [b"value"] * 3


async def test_leaders_cancelled_one_after_the_other() -> None:
    """Another waiter takes over as long as there is one; whoever asks later starts afresh."""
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
    load.land.set()
    assert await cache.get("key", load) == b"value"


async def test_a_cancelled_waiter_does_not_disturb_the_leader() -> None:
    """The flight goes on for the others."""
    cache, load = cache_of(), Loader()
    answers: list[bytes] = []
    waiter = trio.CancelScope()

    async def wait() -> None:
        with waiter:
            await ask(cache, load, answers)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, cache, load, answers)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        waiter.cancel()
        await trio.testing.wait_all_tasks_blocked()
        load.land.set()
    assert answers == [b"value"]
    assert load.runs == 1


async def test_an_error_reaches_all_who_wait_and_is_not_remembered() -> None:
    """Each gets an exception of its own, of the same kind and text; the next ask loads again."""
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
        load.land.set()
    assert load.runs == 1
    assert len({id(error) for error in caught}) == 3
    load.error = None
    assert await cache.get("key", load) == b"value"


async def test_different_keys_do_not_wait_for_each_other() -> None:
    """A load that hangs holds up nobody who asks for something else."""
    cache, hanging, quick = cache_of(), Loader(), Loader(b"other")
    quick.land.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, "key", hanging)
        await trio.testing.wait_all_tasks_blocked()
        assert await cache.get("other", quick) == b"other"
        nursery.cancel_scope.cancel()


async def test_what_is_larger_than_the_cache_still_reaches_all_who_wait() -> None:
    """It is handed over, but not kept, and nothing else is thrown out for it."""
    cache, load = cache_of(10), Loader(b"x" * 11)
    cache.put("kept", b"kept")
    answers: list[bytes] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, cache, load, answers)
        await trio.testing.wait_all_tasks_blocked()
        load.land.set()
    assert answers == [b"x" * 11] * 3
    assert load.runs == 1
    assert cache.peek("key") is None
    assert cache.peek("kept") == b"kept"


async def test_an_empty_value_is_a_value() -> None:
    """An empty blob is found again like any other."""
    cache, load = cache_of(), Loader(b"")
    load.land.set()
    assert await cache.get("key", load) == b""
    assert await cache.get("key", load) == b""
    assert load.runs == 1


def test_the_least_recently_used_goes_first() -> None:
    """Looking at a value is a use of it."""
    cache = cache_of(3)
    for key in "abc":
        cache.put(key, b"1")
    assert cache.peek("a") == b"1"
    cache.put("d", b"2")
    assert [cache.peek(key) for key in "abcd"] == [b"1", None, b"1", b"2"]


@given(st.integers(0, 20), st.lists(st.tuples(st.sampled_from("abcdef"), st.binary(max_size=25))))
def test_the_bound_holds(capacity: int, puts: list[tuple[str, bytes]]) -> None:
    """Whatever is put in, the bytes are counted right and never exceed the capacity."""
    cache = cache_of(capacity)
    for key, value in puts:
        fresh = cache.peek(key) is None
        cache.put(key, value)
        if fresh and len(value) <= capacity:
            assert cache.peek(key) == value
        held = [cache.peek(k) for k in "abcdef"]
        assert cache.used == sum(len(v) for v in held if v is not None) <= capacity


def test_a_few_large_ones_are_held_beside_the_small() -> None:
    """They take no room from small ones, nor are they pushed out by those, only by each other."""
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
