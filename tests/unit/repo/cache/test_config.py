"""One figure bounds all caches in memory; the documentation states the sum."""

from __future__ import annotations

import pytest

from cesbrfs.repo.cache.config import DEFAULT_MEMORY, MIN_MEMORY, CacheConfig
from tests.support.project import PROJECT

_MIB = 1 << 20


@pytest.mark.parametrize("factor", [2, 8])
def test_all_caches_are_in_proportion(factor: int) -> None:
    """Doubling the figure doubles the sum."""
    once, more = CacheConfig(), CacheConfig(memory=factor * DEFAULT_MEMORY)
    assert more.mount_total == factor * once.mount_total
    assert (more.history, more.names) == (factor * once.history, factor * once.names)


def test_without_file_content_the_other_caches_have_a_minimum() -> None:
    """A cache size of 0 does not make the mount read each directory again and again."""
    least, zero = CacheConfig(memory=MIN_MEMORY), CacheConfig(memory=0)
    assert zero.mount_total == least.mount_total - MIN_MEMORY


def test_the_reference_states_the_sums() -> None:
    """The figures in the table are those of the code."""
    text = (PROJECT / "docs/reference.md").read_text()
    default = CacheConfig()
    total = f"| **{default.mount_total // _MIB} MiB** |"
    assert f"| **all caches of a mount** | **6.7** {total}" in text
    assert round(default.mount_total / DEFAULT_MEMORY, 1) == 6.7
    assert f"| 4 + 4 | {(default.history + default.names) // _MIB} MiB |" in text
