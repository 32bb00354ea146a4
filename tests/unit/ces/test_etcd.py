"""The etcd registry: addresses, hidden keys, failover, watches and network faults."""

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
    """Return a proxy in front of the shared etcd."""
    with proxying(("127.0.0.1", etcd.port)) as found:
        yield found


def url(proxy: Proxy) -> str:
    host, port = proxy.address
    return f"http://{host}:{port}"


async def inject(proxy: Proxy, fault: Fault, after: int = 0) -> None:
    await trio.to_thread.run_sync(lambda: proxy.inject(fault, after=after))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def closed_address() -> str:
    """Return an address without a listener."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    "address",
    ["ftp://host", "http://", "http://host/path", "http://host:port", "http://a,", "http://a?x=1"],
)
def test_invalid_addresses(address: str) -> None:
    """An invalid address is a usage error."""
    with pytest.raises(UsageError, match="Write http://HOST:PORT"):
        EtcdRegistry(address)


def test_addresses() -> None:
    """The default port is that of CES, and passwords are redacted."""
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
    """Etcd omits names that begin with "_" from listings."""
    etcd.fill({"/config/_global/fqdn": "x", "/config/a": "1", "/config/b/_c": "2"})
    registry = EtcdRegistry(etcd.url)
    assert await registry.children("/config") == ["a", "b"]
    assert await registry.read("/config") == {"/config/a": "1"}
    assert await registry.get("/config/b/_c") == "2"
    await registry.delete("/config/b/_c")
    assert await registry.children("/config") == ["a"]


async def test_delete_keeps_hidden_keys(etcd: Etcd) -> None:
    """A directory with only hidden keys is not empty."""
    etcd.fill({"/config/b/_c": "2", "/config/b/d": "1"})
    await EtcdRegistry(etcd.url).delete("/config/b/d")
    assert etcd.value("/config/b/_c") == "2"


async def test_failover(etcd: Etcd) -> None:
    """If one endpoint is down, another is used, and tried first from then on."""
    registry = EtcdRegistry(f"{closed_address()},{etcd.url}")
    await registry.set("/a", "1")
    assert registry._endpoints[0].url == etcd.url
    assert await registry.get("/a") == "1"
    assert await registry.compare_and_set("/a", "2", "1")
    assert etcd.value("/a") == "2"


async def test_no_endpoint_responds() -> None:
    """An unreachable etcd is reported within a second, and faster the next time."""
    registry = EtcdRegistry(f"{closed_address()},{closed_address()}")
    start = time.monotonic()
    for ask in (registry.get, registry.read, registry.children, registry.delete):
        with pytest.raises(
            RegistryUnreachableError, match=r"Cannot connect .*Check that etcd is running"
        ):
            await ask("/config/a")
    with pytest.raises(RegistryUnreachableError):
        await registry.set("/config/a", "secret")
    with pytest.raises(RegistryUnreachableError):
        await registry.compare_and_set("/config/a", "secret", "hidden")
    assert time.monotonic() - start < 3


async def test_a_silent_endpoint_times_out(etcd: Etcd, proxy: Proxy) -> None:
    """An endpoint that accepts a request without responding costs one timeout."""
    etcd.fill({"/a": "1"})
    registry = EtcdRegistry(f"{url(proxy)},{etcd.url}", seconds=0.3)
    await trio.to_thread.run_sync(proxy.hold)
    assert await registry.get("/a") == "1"
    assert registry._endpoints[0].url == etcd.url
    alone = EtcdRegistry(url(proxy), seconds=0.3)
    with pytest.raises(RegistryUnreachableError, match=r"no response within 0\.3 s"):
        await alone.get("/a")


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.TRUNCATE])
@pytest.mark.parametrize("after", [0, 20, 150])
async def test_a_truncated_response_is_retried(
    etcd: Etcd, proxy: Proxy, fault: Fault, after: int
) -> None:
    """A response that is cut at any point is requested again."""
    etcd.fill({"/a": "x" * 1000})
    await inject(proxy, fault, after)
    assert await EtcdRegistry(url(proxy)).get("/a") == "x" * 1000


async def test_a_lost_response_to_compare_and_set(
    etcd: Etcd, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the response is lost, the key is read to find out whether the change was applied."""
    registry = EtcdRegistry(url(proxy))
    steps = ((None, "1"), ("1", "2"), ("2", ""), ("", None))
    send = registry._send

    async def lose(*arguments: object, **options: object) -> object:
        if arguments[1] != "GET":
            await inject(proxy, Fault.RESET)
        return await send(*arguments, **options)  # type: ignore[arg-type]

    for previous, value in steps:
        monkeypatch.setattr(registry, "_send", lose)
        assert await registry.compare_and_set("/config/a", value, previous)
        assert etcd.value("/config/a") == value
    assert not await registry.compare_and_set("/config/a", "1", "2")


async def test_writes_that_always_fail(
    etcd: Etcd, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An etcd that responds only to reads causes an error, not an endless loop."""
    etcd.fill({"/a": "1"})
    registry = EtcdRegistry(url(proxy))
    send = registry._send

    async def misdirect(_: object, method: str, *others: object, **options: object) -> object:
        target = registry._endpoints[0] if method == "GET" else _endpoint(closed_address(), "")
        return await send(target, method, *others, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "_send", misdirect)
    with pytest.raises(RegistryUnreachableError):
        await registry.compare_and_set("/a", "2", "1")
    assert etcd.value("/a") == "1"


async def test_recovery_after_an_outage(etcd_program: Path, tmp_path: Path) -> None:
    """The same object works again after etcd has been restarted."""
    with serving(etcd_program, tmp_path / "etcd") as server:
        registry = EtcdRegistry(server.url)
        await registry.set("/a", "1")
        server.kill()
        with pytest.raises(RegistryUnreachableError):
            await registry.get("/a")
        await trio.to_thread.run_sync(server.start)
        assert await registry.get("/a") == "1"


async def test_etcd_without_the_v2_api(etcd_program: Path, tmp_path: Path) -> None:
    """It is reported differently from an unreachable etcd."""
    with serving(etcd_program, tmp_path / "etcd", v2=False) as server:
        with pytest.raises(RegistryError, match="start etcd with --enable-v2") as caught:
            await EtcdRegistry(server.url).get("/a")
        assert not isinstance(caught.value, RegistryUnreachableError)


async def _next(changes: AsyncGenerator[dict[str, str], None]) -> dict[str, str]:
    with trio.fail_after(10):
        return await anext(changes)


async def test_changes_are_watched(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes below the prefix are yielded, others are not; watch requests are renewed."""
    registry = EtcdRegistry(etcd.url)
    async with aclosing(registry.watch("/config")) as changes:
        assert await _next(changes) == {}
        await registry.set("/config/a", "0")
        assert await _next(changes) == {"/config/a": "0"}
        await registry.set("/dogu/a", "1")
        await registry.set("/config/a", "1")
        assert await _next(changes) == {"/config/a": "1"}
        monkeypatch.setattr("cesbrfs.ces.etcd._WATCH_SECONDS", 0.05)
        async with trio.open_nursery() as nursery:
            got: list[dict[str, str]] = []

            async def listen() -> None:
                got.append(await _next(changes))

            nursery.start_soon(listen)
            await trio.sleep(0.2)  # some watch requests time out
            assert got == []
            await registry.delete("/config/a")
        assert got == [{}]


async def test_no_change_is_missed(etcd: Etcd) -> None:
    """Changes between watch requests are yielded, even beyond etcd's event history."""
    registry = EtcdRegistry(etcd.url)
    async with aclosing(registry.watch("/config")) as changes:
        assert await _next(changes) == {}
        await registry.set("/config/a", "1")
        for number in range(1100):  # etcd keeps 1,000 events
            etcd.fill({"/dogu/a": str(number)})
        assert await _next(changes) == {"/config/a": "1"}


async def test_cancelled_requests_leak_nothing(etcd: Etcd) -> None:
    """Cancelled requests leave no open file descriptors."""
    registry = EtcdRegistry(etcd.url)
    await registry.set("/a", "1")
    before = open_files()
    for number in range(60):
        with trio.move_on_after(number / 20_000):
            await registry.get("/a")
    assert await registry.get("/a") == "1"
    assert open_files() <= before
