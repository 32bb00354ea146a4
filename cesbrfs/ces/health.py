"""Whether the dogus are well, by the health checks of their descriptions.

Where a dogu answers: at the host that is set, else at the address that the registry lists below
``/services``, else at its name, where that is known here.  A check without any of them is not
made, which is told and proves nothing.
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
"""How long one check may take where nothing else is set."""
_AT_ONCE: Final = 16
_WELL: Final = range(200, 400)


@dataclass(frozen=True, slots=True)
class Finding:
    """A check that did not succeed; `checked` is False for one that could not even be made."""

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
) -> list[Finding]:
    """Make all checks of `dogus`, many at a time, and return those that did not succeed.

    `host` is where a dogu answers, ``{dogu}`` in it stands for its name; each check gets `seconds`.
    """
    checks = [
        partial(_check, found.name, check, registry, host, seconds)
        for found in dogus
        for check in (found.dogu.health_checks if found.dogu else ())
    ]
    return [finding for finding in await gather(checks, _AT_ONCE) if finding is not None]


def require_health(findings: Sequence[Finding]) -> None:
    """Raise HealthError, which names each dogu that is not well, unless all are."""
    ill = [finding for finding in findings if finding.checked]
    if ill:
        raise HealthError(
            f"Not healthy: {', '.join(map(str, ill))}; see to that, or say --skip-health-checks."
        )


async def _check(
    dogu: str, check: HealthCheck, registry: Registry, host: str | None, seconds: float
) -> Finding | None:
    """Make one check; None when the dogu passes it."""
    try:
        with trio.fail_after(seconds):
            if check.type == "state":
                reason = await _state(dogu, check, registry)
            elif check.type not in {"tcp", "http"}:
                return Finding(dogu, check, "this kind of check is not known", checked=False)
            elif not check.port:
                return Finding(dogu, check, "its dogu.json gives no port", checked=False)
            else:
                at = await _host(dogu, check.port, registry, host)
                if at is None:
                    reason = "where it answers is not known; set health_host"
                    return Finding(dogu, check, reason, checked=False)
                reason = await (_tcp if check.type == "tcp" else _http)(at, check)
                reason = reason and f"{at}: {reason}"
    except trio.TooSlowError:
        reason = f"no answer within {seconds:g} s"
    return Finding(dogu, check, reason) if reason else None


async def _state(dogu: str, check: HealthCheck, registry: Registry) -> str:
    """Return what is wrong with the state that the dogu keeps in the registry, "" if nothing."""
    try:
        state = await registry.get(f"/state/{dogu}")
    except RegistryError as error:
        return error.message
    if state is None:
        return f"the registry has no /state/{dogu}"
    return "" if state.strip() == check.state else f"/state/{dogu} is {state.strip()!r}"


async def _host(dogu: str, port: int, registry: Registry, host: str | None) -> str | None:
    """Return where the dogu answers on `port`; None where nobody knows."""
    if host is not None:
        return host.replace("{dogu}", dogu)
    try:
        services = await registry.read(f"/services/{dogu}")
    except RegistryError:
        services = {}
    for value in services.values():
        if (found := _listed_host(value, port)) is not None:
            return found
    try:
        await trio.socket.getaddrinfo(dogu, port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return dogu


def _listed_host(value: str, port: int) -> str | None:
    """Read the host of ``{"service": "172.18.0.2:3000"}``; None when it is for another port."""
    try:
        service = json.loads(value)
    except (ValueError, RecursionError):
        return None
    at = service.get("service") if isinstance(service, dict) else None
    found, _, listed = at.rpartition(":") if isinstance(at, str) else ("", "", "")
    return found.strip("[]") or None if listed == str(port) else None


async def _tcp(host: str, check: HealthCheck) -> str:
    """Return why no connection can be made, "" when one can."""
    try:
        stream = await trio.open_tcp_stream(host, check.port)
    except OSError as error:
        cause: BaseException = error.__cause__ or error  # trio's own words are about all addresses
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        number = cause.errno if isinstance(cause, OSError) else None
        return (os.strerror(number) if number and number > 0 else str(cause)).lower()
    await stream.aclose()
    return ""


async def _http(host: str, check: HealthCheck) -> str:
    """Return why a GET is not answered well, "" when it is."""
    import httpx2

    authority = f"[{host}]" if ":" in host else host
    try:
        async with (
            httpx2.AsyncClient(trust_env=False, timeout=None) as client,
            client.stream("GET", f"http://{authority}:{check.port}{check.path}") as answer,
        ):
            status = answer.status_code
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return str(error) or type(error).__name__
    return "" if status in _WELL else f"it answers with status {status}"
