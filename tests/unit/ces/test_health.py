"""Health checks of dogus, against real sockets and a real HTTP server on loopback."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import pytest
import trio

from cesbrfs.ces.dogu import Dogu, HealthCheck
from cesbrfs.ces.health import FailedCheck, check_health, require_health
from cesbrfs.ces.instance import InstalledDogu
from cesbrfs.ces.registry import FileRegistry
from cesbrfs.errors import HealthError


@pytest.fixture
def registry(tmp_path: Path) -> FileRegistry:
    """Return an empty registry."""
    return FileRegistry(tmp_path)


@pytest.fixture
async def web() -> AsyncIterator[int]:
    """Port of an HTTP server that responds with 200 to /health, and with 503 otherwise."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await stream.receive_some()
            status = HTTPStatus.OK if b"GET /health " in request else HTTPStatus(503)
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: 0\r\n\r\n"
            await stream.send_all(head.encode())

    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """Port that accepts connections and never responds."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener.socket.getsockname()[1]


@pytest.fixture
async def closed() -> int:
    """Port without a listener."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


def dogu(name: str, *checks: HealthCheck) -> InstalledDogu:
    """Return an installed dogu with these health checks."""
    return InstalledDogu(name, "1-1", dogu=Dogu(f"official/{name}", "1-1", health_checks=checks))


async def test_successful_checks_are_not_reported(registry: FileRegistry, web: int) -> None:
    """A listening port, a page with status 200 and the state "ready" succeed."""
    await registry.set("/state/redmine", "ready\n")
    checks = (HealthCheck("tcp", web), HealthCheck("http", web), HealthCheck("state"))
    assert await check_health([dogu("redmine", *checks)], registry, host="127.0.0.1") == []


async def test_failed_checks(registry: FileRegistry, web: int, silent: int, closed: int) -> None:
    """Each failed check names the dogu, the check and the reason."""
    await registry.set("/state/cas", "starting")
    dogus = [
        dogu("redmine", HealthCheck("tcp", closed), HealthCheck("state")),
        dogu("scm", HealthCheck("http", web, "/nowhere"), HealthCheck("http", silent)),
        dogu("cas", HealthCheck("state"), HealthCheck("tcp", web)),
    ]
    results = await check_health(dogus, registry, host="127.0.0.1", seconds=0.5)
    lines = {str(result) for result in results}
    refused = next(line for line in lines if line.startswith(f"redmine (tcp {closed})"))
    assert refused.endswith("127.0.0.1: connection refused")
    assert lines - {refused} == {
        "redmine (state ready): /state/redmine is not set in the registry",
        f"scm (http {web}/nowhere): 127.0.0.1: HTTP status 503",
        f"scm (http {silent}/health): no response within 0.5 s",
        "cas (state ready): /state/cas is 'starting'",
    }
    with pytest.raises(HealthError, match=r"redmine.*state.*--skip-health-checks"):
        require_health(results)


async def test_hosts(registry: FileRegistry, web: int, closed: int) -> None:
    """The setting overrides /services; an unresolvable name skips the check."""
    check = HealthCheck("http", web)
    found = [dogu("redmine", check), dogu("no-such-host.invalid", check)]
    await registry.set(
        "/services/redmine/registrator:redmine:1",
        json.dumps({"name": "redmine", "service": f"127.0.0.1:{web}", "port": str(web)}),
    )
    await registry.set("/services/redmine/other", json.dumps({"service": f"192.0.2.1:{closed}"}))
    await registry.set("/services/redmine/odd", "[")
    (unknown,) = await check_health(found, registry)
    assert (unknown.dogu, unknown.checked) == ("no-such-host.invalid", False)
    assert "health_host" in unknown.reason
    require_health([unknown])
    failed = await check_health(found[:1], registry, host="{dogu}.invalid")
    assert [(f.dogu, f.checked) for f in failed] == [("redmine", True)]


async def test_skipped_checks(registry: FileRegistry) -> None:
    """Checks of an unknown type or without a port are skipped and reported."""
    found = dogu("redmine", HealthCheck("tcp"), HealthCheck("grpc", 1), HealthCheck(""))
    results = await check_health([found], registry, host="127.0.0.1")
    assert [result.checked for result in results] == [False] * 3
    assert str(results[2]) == "redmine (no type): unknown type of check"
    assert await check_health([InstalledDogu("broken", "1-1")], registry) == []


async def test_checks_run_concurrently(registry: FileRegistry, silent: int) -> None:
    """Sixteen checks that time out after 1 s take less than 8 s."""
    found = [dogu(f"dogu{n}", HealthCheck("http", silent)) for n in range(16)]
    with trio.fail_after(8):
        results = await check_health(found, registry, host="127.0.0.1", seconds=1)
    assert len(results) == 16


def test_require_health() -> None:
    """Only a failed check raises HealthError."""
    require_health([])
    with pytest.raises(HealthError):
        require_health([FailedCheck("redmine", HealthCheck("state"), "it is down")])
