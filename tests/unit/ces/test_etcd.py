"""A registry in etcd: addresses, what it hides, fail-over, changes, every way of not answering."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from cesbrfs.ces.etcd import EtcdRegistry, _endpoint
from cesbrfs.errors import RegistryError, RegistryUnreachableError, UsageError
from tests.support.etcd import Etcd, free_port, serving
from tests.support.proxy import Fault, Proxy, proxying


@pytest.fixture
def proxy(etcd: Etcd) -> Iterator[Proxy]:
    """Return a proxy of the shared etcd."""
    with proxying(("127.0.0.1", etcd.port)) as found:
        yield found


def url(proxy: Proxy) -> str:
    host, port = proxy.address
    return f"http://{host}:{port}"


async def inject(proxy: Proxy, fault: Fault, after: int = 0) -> None:
    await trio.to_thread.run_sync(lambda: proxy.inject(fault, after=after))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def nobody() -> str:
    """Return an address at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    "address",
    ["ftp://host", "http://", "http://host/path", "http://host:port", "http://a,", "http://a?x=1"],
)
def test_addresses_that_are_none(address: str) -> None:
    """What cannot be an etcd's address is a mistake in the settings."""
    with pytest.raises(UsageError, match="write it as http://HOST:PORT"):
        EtcdRegistry(address)


def test_addresses() -> None:
    """CES's port is the default, and no address shows a password."""
    registry = EtcdRegistry("http://ces, https://root:geheim@[::1]:2379/")
    assert [endpoint.url for endpoint in registry._endpoints] == [
        "http://ces:4001",
        "https://[::1]:2379",
    ]
    assert registry._endpoints[1].login == ("root", "geheim")
    assert "geheim" not in registry.address + repr(registry._endpoints)
    with pytest.raises(UsageError) as caught:
        EtcdRegistry("http://root:geheim@host/path")
    assert "geheim" not in caught.value.message


async def test_hidden_names_are_not_listed(etcd: Etcd) -> None:
    """The server leaves them out of its listings, as the protocol says."""
    etcd.fill({"/config/_global/fqdn": "x", "/config/a": "1", "/config/b/_c": "2"})
    registry = EtcdRegistry(etcd.url)
    assert await registry.children("/config") == ["a", "b"]
    assert await registry.read("/config") == {"/config/a": "1"}
    assert await registry.get("/config/b/_c") == "2"
    await registry.delete("/config/b/_c")
    assert await registry.children("/config") == ["a"]


async def test_deleting_keeps_what_is_hidden(etcd: Etcd) -> None:
    """A folder that holds only hidden keys is not an emptied one."""
    etcd.fill({"/config/b/_c": "2", "/config/b/d": "1"})
    await EtcdRegistry(etcd.url).delete("/config/b/d")
    assert etcd.value("/config/b/_c") == "2"


async def test_the_next_endpoint_answers(etcd: Etcd) -> None:
    """With one endpoint gone another one does the work, and is asked first from then on."""
    registry = EtcdRegistry(f"{nobody()},{etcd.url}")
    await registry.set("/a", "1")
    assert registry._endpoints[0].url == etcd.url
    assert await registry.get("/a") == "1"
    assert await registry.replace("/a", "2", "1")
    assert etcd.value("/a") == "2"


async def test_nobody_answers() -> None:
    """An etcd that is gone is told within a second, and sooner the next time."""
    registry = EtcdRegistry(f"{nobody()},{nobody()}")
    start = time.monotonic()
    for ask in (registry.get, registry.read, registry.children, registry.delete):
        with pytest.raises(RegistryUnreachableError, match=r"cannot be reached .*see to etcd"):
            await ask("/config/a")
    with pytest.raises(RegistryUnreachableError):
        await registry.set("/config/a", "secret")
    with pytest.raises(RegistryUnreachableError):
        await registry.replace("/config/a", "secret", "hidden")
    assert time.monotonic() - start < 3


async def test_a_silent_endpoint_is_given_up(etcd: Etcd, proxy: Proxy) -> None:
    """One that takes the request and says nothing costs its deadline, once."""
    etcd.fill({"/a": "1"})
    registry = EtcdRegistry(f"{url(proxy)},{etcd.url}", seconds=0.3)
    await trio.to_thread.run_sync(proxy.hold)
    assert await registry.get("/a") == "1"
    assert registry._endpoints[0].url == etcd.url
    alone = EtcdRegistry(url(proxy), seconds=0.3)
    with pytest.raises(RegistryUnreachableError, match=r"no answer within 0\.3 s"):
        await alone.get("/a")


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.TRUNCATE])
@pytest.mark.parametrize("after", [0, 20, 150])
async def test_a_broken_answer_is_asked_for_again(
    etcd: Etcd, proxy: Proxy, fault: Fault, after: int
) -> None:
    """Wherever an answer breaks off, the next one is whole."""
    etcd.fill({"/a": "x" * 1000})
    await inject(proxy, fault, after)
    assert await EtcdRegistry(url(proxy)).get("/a") == "x" * 1000


async def test_a_change_without_an_answer_is_looked_for(
    etcd: Etcd, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the answer to a compare-and-set is lost, what it did counts, once."""
    registry = EtcdRegistry(url(proxy))
    steps = ((None, "1"), ("1", "2"), ("2", ""), ("", None))
    once = registry._once

    async def lose(*arguments: object, **options: object) -> object:
        if arguments[1] != "GET":
            await inject(proxy, Fault.RESET)
        return await once(*arguments, **options)  # type: ignore[arg-type]

    for previous, value in steps:
        monkeypatch.setattr(registry, "_once", lose)
        assert await registry.replace("/config/a", value, previous)
        assert etcd.value("/config/a") == value
    assert not await registry.replace("/config/a", "1", "2")


async def test_a_write_that_never_comes_through(
    etcd: Etcd, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An etcd that reads but does not write ends in an error, not in a loop."""
    etcd.fill({"/a": "1"})
    registry = EtcdRegistry(url(proxy))
    once = registry._once

    async def misdirect(_: object, method: str, *others: object, **options: object) -> object:
        there = registry._endpoints[0] if method == "GET" else _endpoint(nobody(), "")
        return await once(there, method, *others, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "_once", misdirect)
    with pytest.raises(RegistryUnreachableError):
        await registry.replace("/a", "2", "1")
    assert etcd.value("/a") == "1"


async def test_an_outage_is_survived(etcd_program: Path, tmp_path: Path) -> None:
    """The same registry works again when etcd is back, with what it held."""
    with serving(etcd_program, tmp_path / "etcd") as server:
        registry = EtcdRegistry(server.url)
        await registry.set("/a", "1")
        server.kill()
        with pytest.raises(RegistryUnreachableError):
            await registry.get("/a")
        await trio.to_thread.run_sync(server.start)
        assert await registry.get("/a") == "1"


async def test_something_else_answers(etcd_program: Path, tmp_path: Path) -> None:
    """An etcd without the v2 keys API is told from one that is gone."""
    with serving(etcd_program, tmp_path / "etcd", v2=False) as server:
        with pytest.raises(RegistryError, match="start etcd with --enable-v2") as caught:
            await EtcdRegistry(server.url).get("/a")
        assert not isinstance(caught.value, RegistryUnreachableError)


async def _next(changes: AsyncGenerator[dict[str, str], None]) -> dict[str, str]:
    with trio.fail_after(10):
        return await anext(changes)


async def test_changes_are_watched(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change below the prefix shows, others do not, and a wait that ends starts anew."""
    registry = EtcdRegistry(etcd.url)
    async with aclosing(registry.watch("/config")) as changes:
        assert await _next(changes) == {}
        await registry.set("/config/a", "0")
        assert await _next(changes) == {"/config/a": "0"}
        await registry.set("/dogu/a", "1")
        await registry.set("/config/a", "1")
        assert await _next(changes) == {"/config/a": "1"}
        monkeypatch.setattr("cesbrfs.ces.etcd._POLL_SECONDS", 0.05)
        async with trio.open_nursery() as nursery:
            got: list[dict[str, str]] = []

            async def listen() -> None:
                got.append(await _next(changes))

            nursery.start_soon(listen)
            await trio.sleep(0.2)  # some waits end without a change
            assert got == []
            await registry.delete("/config/a")
        assert got == [{}]


async def test_no_change_is_missed(etcd: Etcd) -> None:
    """Changes that come while nobody waits show, even when etcd's history has lost them."""
    registry = EtcdRegistry(etcd.url)
    async with aclosing(registry.watch("/config")) as changes:
        assert await _next(changes) == {}
        await registry.set("/config/a", "1")
        for number in range(1100):  # etcd remembers 1,000 of them
            etcd.fill({"/dogu/a": str(number)})
        assert await _next(changes) == {"/config/a": "1"}


async def test_cancelled_requests_leave_nothing(etcd: Etcd) -> None:
    """Neither a descriptor nor a connection stays, however requests end."""
    registry = EtcdRegistry(etcd.url)
    await registry.set("/a", "1")
    before = open_files()
    for number in range(60):
        with trio.move_on_after(number / 20_000):
            await registry.get("/a")
    assert await registry.get("/a") == "1"
    assert open_files() <= before
