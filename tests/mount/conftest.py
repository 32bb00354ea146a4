"""Mount repositories for tests; skip the tests if FUSE is not available."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Mount, fuse_missing, mounting


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this directory if FUSE is not available."""
    reason = fuse_missing()
    if reason is None:
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Mount]]:
    """Mount a repository on a new directory: ``mount(access, "-o", "noxattr")``."""
    with mounting(tmp_path) as start:
        yield start
