"""Select the proxy for a URL from the environment, by the rules of Go and therefore of restic.

``HTTP_PROXY`` applies to http, ``HTTPS_PROXY`` to https, ``NO_PROXY`` to both. The names in lower
case apply if those in upper case are not set. ``ALL_PROXY`` is ignored. Loopback addresses never
use a proxy. Source: golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


class Proxy(NamedTuple):
    """The URL of a proxy, which may contain a password, and the variable that it is set in."""

    variable: str
    url: str


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for an http or https URL; None for a direct connection."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    for variable in (name.upper(), name):
        if value := environ.get(variable):
            break
    else:
        return None
    excluded = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    port = parts.port or _PORTS.get(parts.scheme, 0)
    if not _uses_proxy(parts.hostname or "", port, excluded):
        return None
    split = urlsplit(value)
    return Proxy(variable, value if split.scheme and split.netloc else f"http://{value}")


def is_loopback_host(host: str) -> bool:
    """Return whether `host` is localhost or a loopback address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _uses_proxy(host: str, port: int, excluded: str) -> bool:
    if is_loopback_host(host):
        return False
    rules = (rule.strip().lower() for rule in excluded.split(","))
    return not any(rule and _matches(rule, host.lower().rstrip("."), port) for rule in rules)


def _matches(rule: str, host: str, port: int) -> bool:
    """Return whether one rule of NO_PROXY matches `host` and `port`."""
    if rule == "*":
        return True
    with contextlib.suppress(ValueError):
        network = ipaddress.ip_network(rule, strict=False)
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host) in network
        return False
    rule, number = _without_port(rule)
    if number and number != port:
        return False
    rule = rule.removeprefix("*")
    if rule.startswith("."):
        return host.endswith(rule)
    return host == rule or host.endswith(f".{rule}")


def _without_port(rule: str) -> tuple[str, int]:
    host, colon, port = rule.rpartition(":")
    if colon and port.isdecimal():
        return host.strip("[]"), int(port)
    return rule.strip("[]"), 0
