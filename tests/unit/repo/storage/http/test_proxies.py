"""Selection of the proxy for an address, with the rules of Go, as in restic."""

from __future__ import annotations

import pytest

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import open_storage
from cesbrfs.repo.storage.http.proxies import proxy_for
from cesbrfs.util.secret import Secret

_PROXY = "http://proxy:3128"
_URL = "http://10.77.0.2:8000/"


@pytest.mark.parametrize(
    ("url", "environ", "found"),
    [
        (_URL, {}, None),
        (_URL, {"HTTP_PROXY": _PROXY}, _PROXY),
        (_URL, {"http_proxy": _PROXY}, _PROXY),
        (_URL, {"HTTP_PROXY": "http://upper", "http_proxy": _PROXY}, "http://upper"),
        (_URL, {"HTTP_PROXY": "proxy:3128"}, _PROXY),
        (_URL, {"HTTPS_PROXY": _PROXY, "ALL_PROXY": "socks://x", "all_proxy": _PROXY}, None),
        ("https://host/", {"HTTP_PROXY": "http://other", "HTTPS_PROXY": _PROXY}, _PROXY),
        ("http://localhost:1/", {"HTTP_PROXY": _PROXY}, None),
        ("http://127.0.0.5:1/", {"HTTP_PROXY": _PROXY}, None),
        ("http://[::1]:1/", {"HTTP_PROXY": _PROXY}, None),
        (_URL, {"HTTP_PROXY": _PROXY, "NO_PROXY": "*"}, None),
        (_URL, {"HTTP_PROXY": _PROXY, "NO_PROXY": "x, 10.0.0.0/8"}, None),
        (_URL, {"HTTP_PROXY": _PROXY, "no_proxy": "10.77.0.2"}, None),
        (_URL, {"HTTP_PROXY": _PROXY, "NO_PROXY": "10.77.0.2:8000"}, None),
        (_URL, {"HTTP_PROXY": _PROXY, "NO_PROXY": "10.77.0.2:80"}, _PROXY),
        (_URL, {"HTTP_PROXY": _PROXY, "NO_PROXY": "192.168.0.0/16"}, _PROXY),
        ("http://a.example.com/", {"HTTP_PROXY": _PROXY, "NO_PROXY": "example.com"}, None),
        ("http://example.com/", {"HTTP_PROXY": _PROXY, "NO_PROXY": "Example.com"}, None),
        ("http://a.example.com/", {"HTTP_PROXY": _PROXY, "NO_PROXY": ".example.com"}, None),
        ("http://example.com/", {"HTTP_PROXY": _PROXY, "NO_PROXY": ".example.com"}, _PROXY),
        ("http://notexample.com/", {"HTTP_PROXY": _PROXY, "NO_PROXY": "example.com"}, _PROXY),
    ],
)
def test_the_proxy_of_an_address(url: str, environ: dict[str, str], found: str | None) -> None:
    """By scheme, with exceptions by name, network and port."""
    proxy = proxy_for(url, environ)
    assert (proxy.url if proxy else None) == found


def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable without its password; other schemes are not affected."""
    access = Access("rest:http://10.77.0.2:8000/", Secret(b"key"))
    monkeypatch.setenv("HTTPS_PROXY", "socks://x")
    monkeypatch.setenv("ALL_PROXY", "socks://x")
    open_storage(access)
    monkeypatch.setenv("HTTP_PROXY", "socks://user:topsecret@x")
    with pytest.raises(UsageError, match="HTTP_PROXY") as caught:
        open_storage(access)
    assert "topsecret" not in caught.value.message
