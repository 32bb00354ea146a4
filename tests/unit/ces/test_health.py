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
from cesbrfs.ces.health import Finding, check_health, require_health
from cesbrfs.ces.instance import InstalledDogu
from cesbrfs.ces.registry import FileRegistry
from cesbrfs.errors import HealthError


@pytest.fixture
def registry(tmp_path: Path) -> FileRegistry:
    """An empty registry."""
    return FileRegistry(tmp_path)


@pytest.fixture
async def web() -> AsyncIterator[int]:
    """A server's port: it answers each request for /health with 200, else with 503."""

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
async def deaf() -> AsyncIterator[int]:
    """A port where connections are accepted and nothing is ever said."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener.socket.getsockname()[1]


@pytest.fixture
async def shut() -> int:
    """A port where nobody listens."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


def dogu(name: str, *checks: HealthCheck) -> InstalledDogu:
    """An installed dogu with these checks."""
    return InstalledDogu(name, "1-1", dogu=Dogu(f"official/{name}", "1-1", health_checks=checks))


async def test_all_that_is_well_is_not_mentioned(registry: FileRegistry, web: int) -> None:
    """A listening port, a page and a state that is ready pass."""
    await registry.set("/state/redmine", "ready\n")
    checks = (HealthCheck("tcp", web), HealthCheck("http", web), HealthCheck("state"))
    assert await check_health([dogu("redmine", *checks)], registry, host="127.0.0.1") == []


async def test_what_is_ill_is_named(registry: FileRegistry, web: int, deaf: int, shut: int) -> None:
    """Each failing check says its dogu, what was checked, and why it failed."""
    await registry.set("/state/cas", "starting")
    dogus = [
        dogu("redmine", HealthCheck("tcp", shut), HealthCheck("state")),
        dogu("scm", HealthCheck("http", web, "/nowhere"), HealthCheck("http", deaf)),
        dogu("cas", HealthCheck("state"), HealthCheck("tcp", web)),
    ]
    findings = await check_health(dogus, registry, host="127.0.0.1", seconds=0.5)
    told = {str(finding) for finding in findings}
    refused = next(line for line in told if line.startswith(f"redmine (tcp {shut})"))
    assert refused.endswith("127.0.0.1: connection refused")
    assert told - {refused} == {
        "redmine (state ready): the registry has no /state/redmine",
        f"scm (http {web}/nowhere): 127.0.0.1: it answers with status 503",
        f"scm (http {deaf}/health): no answer within 0.5 s",
        "cas (state ready): /state/cas is 'starting'",
    }
    with pytest.raises(HealthError, match=r"redmine.*state.*--skip-health-checks"):
        require_health(findings)


async def test_where_a_dogu_answers(registry: FileRegistry, web: int, shut: int) -> None:
    """The setting wins over the registry's services; a name nobody knows is no illness."""
    check = HealthCheck("http", web)
    found = [dogu("redmine", check), dogu("no-such-host.invalid", check)]
    await registry.set(
        "/services/redmine/registrator:redmine:1",
        json.dumps({"name": "redmine", "service": f"127.0.0.1:{web}", "port": str(web)}),
    )
    await registry.set("/services/redmine/other", json.dumps({"service": f"192.0.2.1:{shut}"}))
    await registry.set("/services/redmine/odd", "[")
    (unknown,) = await check_health(found, registry)
    assert (unknown.dogu, unknown.checked) == ("no-such-host.invalid", False)
    assert "health_host" in unknown.reason
    require_health([unknown])
    ill = await check_health(found[:1], registry, host="{dogu}.invalid")
    assert [(f.dogu, f.checked) for f in ill] == [("redmine", True)]


async def test_checks_that_cannot_be_made_are_told(registry: FileRegistry) -> None:
    """A check of a kind we do not know, or without its port, proves nothing either way."""
    found = dogu("redmine", HealthCheck("tcp"), HealthCheck("grpc", 1), HealthCheck(""))
    findings = await check_health([found], registry, host="127.0.0.1")
    assert [f.checked for f in findings] == [False] * 3
    assert str(findings[2]) == "redmine (of no type): this kind of check is not known"
    assert await check_health([InstalledDogu("broken", "1-1")], registry) == []


async def test_many_checks_share_their_time(registry: FileRegistry, deaf: int) -> None:
    """They run beside one another: sixteen that time out take hardly longer than one."""
    found = [dogu(f"dogu{n}", HealthCheck("http", deaf)) for n in range(16)]
    with trio.fail_after(8):
        findings = await check_health(found, registry, host="127.0.0.1", seconds=1)
    assert len(findings) == 16


def test_healthy_ones_raise_nothing() -> None:
    """Without a finding there is nothing to raise."""
    require_health([])
    with pytest.raises(HealthError):
        require_health([Finding("redmine", HealthCheck("state"), "it is down")])
