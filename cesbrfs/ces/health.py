"""Run the health checks that are declared in the dogu.json files.

The host of a dogu is the configured one, else the address in the registry below ``/services``, else
the name of the dogu if it can be resolved. A check without a host is reported as skipped.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from cesbrfs.ces.dogu import HealthCheck
from cesbrfs.ces.instance import InstalledDogu
from cesbrfs.ces.registry import Registry
from cesbrfs.errors import HealthError, RegistryError
from cesbrfs.util.tasks import gather

DEFAULT_SECONDS: Final = 10.0
"""Default timeout of a check."""
_MAX_CONCURRENT_CHECKS: Final = 16
_HEALTHY_STATUS: Final = range(200, 400)


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """A health check that failed; `checked` is False if it was skipped."""

    dogu: str
    check: HealthCheck
    reason: str
    checked: bool = True

    def __str__(self) -> str:
        return f"{self.dogu} ({self.check}): {self.reason}"


async def check_health(
    dogus: Sequence[InstalledDogu],
    registry: Registry,
    *,
    host: str | None = None,
    seconds: float = DEFAULT_SECONDS,
) -> list[FailedCheck]:
    """Run all health checks of `dogus` concurrently; return those that failed or were skipped.

    `host` overrides the host to connect to; ``{dogu}`` in it is replaced by the name of the dogu.
    `seconds` is the timeout of a check.
    """
    checks = [
        partial(_check, installed.name, check, registry, host, seconds)
        for installed in dogus
        for check in (installed.dogu.health_checks if installed.dogu else ())
    ]
    results = await gather(checks, _MAX_CONCURRENT_CHECKS)
    return [result for result in results if result is not None]


def require_health(results: Sequence[FailedCheck]) -> None:
    """Raise HealthError, which lists all failed checks, if any failed."""
    failed = [result for result in results if result.checked]
    if failed:
        raise HealthError(
            f"Health checks failed: {', '.join(map(str, failed))}. Fix the dogus, or pass"
            " --skip-health-checks."
        )


async def _check(
    dogu: str, check: HealthCheck, registry: Registry, host: str | None, seconds: float
) -> FailedCheck | None:
    """Run one check; return None if it succeeds."""
    try:
        with trio.fail_after(seconds):
            if check.type == "state":
                reason = await _state(dogu, check, registry)
            elif check.type not in {"tcp", "http"}:
                return FailedCheck(dogu, check, "unknown type of check", checked=False)
            elif not check.port:
                return FailedCheck(dogu, check, "no port in dogu.json", checked=False)
            else:
                target = await _host(dogu, check.port, registry, host)
                if target is None:
                    reason = "unknown host; set health_host"
                    return FailedCheck(dogu, check, reason, checked=False)
                reason = await (_tcp if check.type == "tcp" else _http)(target, check)
                reason = reason and f"{target}: {reason}"
    except trio.TooSlowError:
        reason = f"no response within {seconds:g} s"
    return FailedCheck(dogu, check, reason) if reason else None


async def _state(dogu: str, check: HealthCheck, registry: Registry) -> str:
    """Return why the state of the dogu in the registry is not healthy; "" if it is."""
    try:
        state = await registry.get(f"/state/{dogu}")
    except RegistryError as error:
        return error.message
    if state is None:
        return f"/state/{dogu} is not set in the registry"
    return "" if state.strip() == check.state else f"/state/{dogu} is {state.strip()!r}"


async def _host(dogu: str, port: int, registry: Registry, host: str | None) -> str | None:
    """Return the host of the dogu for `port`; None if unknown."""
    if host is not None:
        return host.replace("{dogu}", dogu)
    try:
        services = await registry.read(f"/services/{dogu}")
    except RegistryError:
        services = {}
    for value in services.values():
        if (listed := _listed_host(value, port)) is not None:
            return listed
    try:
        await trio.socket.getaddrinfo(dogu, port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return dogu


def _listed_host(value: str, port: int) -> str | None:
    """Return the host in ``{"service": "172.18.0.2:3000"}``; None if the port differs."""
    try:
        service = json.loads(value)
    except (ValueError, RecursionError):
        return None
    address = service.get("service") if isinstance(service, dict) else None
    host, _, listed_port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    return host.strip("[]") or None if listed_port == str(port) else None


async def _tcp(host: str, check: HealthCheck) -> str:
    """Return why a TCP connection fails; "" if it succeeds."""
    try:
        stream = await trio.open_tcp_stream(host, check.port)
    except OSError as error:
        cause: BaseException = error.__cause__ or error  # trio's message covers all addresses
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        number = cause.errno if isinstance(cause, OSError) else None
        return (os.strerror(number) if number and number > 0 else str(cause)).lower()
    await stream.aclose()
    return ""


async def _http(host: str, check: HealthCheck) -> str:
    """Return why a GET request fails; "" if the status is 2xx or 3xx."""
    import httpx2

    authority = f"[{host}]" if ":" in host else host
    try:
        async with (
            httpx2.AsyncClient(trust_env=False, timeout=None) as client,
            client.stream("GET", f"http://{authority}:{check.port}{check.path}") as response,
        ):
            status = response.status_code
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return str(error) or type(error).__name__
    return "" if status in _HEALTHY_STATUS else f"HTTP status {status}"
