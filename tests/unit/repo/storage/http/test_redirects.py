"""A redirect is an error that shows its target."""

from __future__ import annotations

import pytest

from cesbrfs.repo.storage.http.client import Answer, other_refusal


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_address_is_named(status: int) -> None:
    """Without passwords, queries and control characters."""
    location = "https://u:topsecret@new.example/r/\x1b[2Jconfig?signature=topsecret"
    answer = Answer(status, {"location": location}, b"")
    message = other_refusal(answer, "rest:http://old/", "config", str(status)).message
    assert "https://u:***@new.example/r/" in message
    assert "topsecret" not in message
    assert "\x1b" not in message


def test_one_that_names_none() -> None:
    """A redirect without a target is an error as well."""
    message = other_refusal(Answer(302, {}, b""), "rest:http://old/", "config", "302").message
    assert "unspecified" in message
