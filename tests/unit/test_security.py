"""Each promise of docs/security.md has tests, and they exist."""

from __future__ import annotations

import re

from tests.support.project import PROJECT

_TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def _promises() -> dict[str, list[tuple[str, str]]]:
    """Return the file and name of each test by promise."""
    page = (PROJECT / "docs/security.md").read_text()
    section = page.partition("\n## What cesbrfs promises\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| **")]
    return {promise.strip(): _TEST.findall(tests) for promise, tests in rows}


def test_each_promise_has_tests_that_exist() -> None:
    """A test that was renamed or removed must be replaced in the table."""
    promises = _promises()
    assert len(promises) > 10
    missing = [promise for promise, tests in promises.items() if not tests]
    for path, name in (test for tests in promises.values() for test in tests):
        file = PROJECT / "tests" / path
        if not file.exists() or f"def {name}(" not in file.read_text():
            missing.append(f"{path}::{name}")
    assert not missing
