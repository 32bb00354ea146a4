"""The word that was perhaps meant."""

from __future__ import annotations

import time

import pytest

from cesbrfs.util.suggest import did_you_mean, nearest

DOGUS = ["redmine", "Jenkins", "postgresql", "report 2026.txt"]


@pytest.mark.parametrize(
    ("typed", "meant"),
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
def test_nearest(typed: str, meant: str | None) -> None:
    """Slips of the finger, other case, beginnings; nothing where nothing is alike."""
    assert nearest(typed, DOGUS) == meant


def test_sentences() -> None:
    """An error's sentence ends with the word, or as it would without one."""
    assert did_you_mean("redmien", DOGUS) == "; did you mean 'redmine'?"
    assert did_you_mean("nexus", DOGUS, ".") == "."


def test_a_million_names_take_no_while() -> None:
    """A huge folder does not keep the error waiting."""
    names = [f"file {number:07}" for number in range(1_000_000)]
    began = time.monotonic()
    assert nearest("file 0000001x", names) == "file 0000001"
    assert time.monotonic() - began < 2
