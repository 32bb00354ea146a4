"""Suggestions for mistyped words."""

from __future__ import annotations

import time

import pytest

from cesbrfs.util.suggest import closest_match, did_you_mean

DOGUS = ["redmine", "Jenkins", "postgresql", "report 2026.txt"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("redmien", "redmine"),
        ("Redmine", "redmine"),
        ("jenkins", "Jenkins"),
        ("report 2025.txt", "report 2026.txt"),
        ("red", "redmine"),
        ("nexus", None),
        ("", None),
    ],
)
def test_nearest(word: str, expected: str | None) -> None:
    """Typing errors, case differences and prefixes match; unrelated words do not."""
    assert closest_match(word, DOGUS) == expected


def test_did_you_mean() -> None:
    """The suggestion ends the error message; without one, `otherwise` does."""
    assert did_you_mean("redmien", DOGUS) == "; did you mean 'redmine'?"
    assert did_you_mean("nexus", DOGUS, ".") == "."


def test_a_million_names_take_less_than_two_seconds() -> None:
    """Suggestions for a huge directory do not delay the error message."""
    names = [f"file {number:07}" for number in range(1_000_000)]
    began = time.monotonic()
    assert closest_match("file 0000001x", names) == "file 0000001"
    assert time.monotonic() - began < 2
