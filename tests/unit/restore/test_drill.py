"""Restore drills: the scratch directory is removed, also after a kill at any step."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from cesbrfs.restore.drill import PREFIX, Sample, drill, scratch_directory
from tests.support.killed import killed_at_each_step
from tests.support.restore_site import BACKUP, VOLUME, Site


async def _drill(site: Site, parent: Path) -> None:
    view = await site.view()
    place = await view.resolve(f"/{BACKUP}/{VOLUME}")
    async with scratch_directory(parent) as scratch:
        report = await drill(view, place, scratch, Sample(1, 0))
    assert (report.files, report.failed) == (3, [])


def test_a_killed_drill(tmp_path: Path) -> None:
    """The next drill removes the scratch directory of the killed one, and nothing else."""
    site = Site(tmp_path / "target")
    site.volume(
        site.file("file", b"file"),
        site.directory("sub", site.file("large", *(bytes([n]) * 200_000 for n in range(1, 4)))),
        site.directory("closed", site.file("secret", b"x", mode=0o400), mode=1 << 31 | 0o500),
    )
    scratch = tmp_path / "scratch"
    (scratch / "other").mkdir(parents=True)
    left = 0
    for step in killed_at_each_step(lambda: trio.run(_drill, site, scratch), 2):
        stale = [name for name in os.listdir(scratch) if name.startswith(PREFIX)]
        assert len(stale) <= 1, step
        left += len(stale)
        trio.run(_drill, site, scratch)
        assert os.listdir(scratch) == ["other"], step
    assert left > 5
