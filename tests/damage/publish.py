"""Write damaged repositories for any reader of restic's format: ``make damaged DIR=…``.

Each case is a directory with one damage. ``cases.json`` contains the password, the metadata and
SHA-256 of each path in the undamaged repositories, and for each case what may not be readable. A
reader must show every other path as it is, and give an error for what it does not show.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.damage.campaign import Campaign, Consequences, link_tree
from tests.damage.damages import Damage
from tests.damage.run import VERSIONS, prepare
from tests.damage.truth import Truth


def write(campaigns: Sequence[Campaign], directory: Path, *, seed: int, count: int) -> None:
    """Write the repositories and ``cases.json`` to a new directory."""
    directory.mkdir(parents=True)
    intact = [_intact(campaign, directory) for campaign in campaigns]
    cases = []
    for number in range(count):
        campaign = campaigns[number % len(campaigns)]
        name = f"damaged-{number:05}"
        damage = campaign.damage_copy(random.Random(f"{seed} {number}"), directory / name)
        (directory / name / "locks").mkdir()
        cases.append({
            "directory": name,
            "intact": _name(campaign),
            "damage": str(damage),
            **_consequences(campaign.truth, damage),
        })  # fmt: skip
    text = {"password": campaigns[0].sample.repo.password, "intact": intact, "cases": cases}
    (directory / "cases.json").write_text(json.dumps(text, indent=1) + "\n")


def _name(campaign: Campaign) -> str:
    return f"intact-{campaign.sample.version}"


def _intact(campaign: Campaign, directory: Path) -> dict[str, object]:
    """Copy an undamaged repository, and describe it."""
    link_tree(campaign.sample.directory, directory / _name(campaign))
    (directory / _name(campaign) / "locks").mkdir()
    return {
        "directory": _name(campaign),
        "format": campaign.sample.version,
        "snapshots": {
            snapshot: [
                {
                    "path": os.fsdecode(path),
                    "mode": record.mode,
                    "uid": record.uid,
                    "gid": record.gid,
                    "mtime_ns": record.mtime_ns,
                    "size": record.size,
                    "target": os.fsdecode(record.target),
                    "sha256": record.content,
                }
                for path, record in sorted(records.items())
            ]
            for snapshot, records in campaign.truth.records.items()
        },
    }


def _consequences(truth: Truth, damage: Damage) -> dict[str, object]:
    """Return what a reader may not be able to read."""
    consequences = Consequences(truth, damage)
    return {
        "may_not_open": consequences.prevents_opening,
        "removed": sorted(consequences.removed),
        "may_fail": dict(_may_fail(truth, consequences)),
    }


def _may_fail(truth: Truth, consequences: Consequences) -> Iterator[tuple[str, list[str]]]:
    for snapshot, stored in truth.stored.items():
        paths = [os.fsdecode(path) for path, needs in stored.items() if consequences.hit(needs)]
        if paths:
            yield snapshot, sorted(paths)


def main() -> None:
    """Parse the command line, and write the repositories."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="a new directory")
    parser.add_argument("--seed", type=int, default=1, help="seed of the damages (1)")
    parser.add_argument("--count", type=int, default=100, help="number of damages (100)")
    parser.add_argument("--restic", type=Path, help="the restic that writes (the one in PATH)")
    arguments = parser.parse_args()
    restic = arguments.restic or Path(shutil.which("restic") or "restic")
    with tempfile.TemporaryDirectory(prefix="cesbrfs-damaged-") as work:
        campaigns = [prepare(restic, Path(work, str(version)), version) for version in VERSIONS]
        write(campaigns, arguments.directory, seed=arguments.seed, count=arguments.count)
    print(f"{arguments.count:,} repositories and cases.json are in {arguments.directory}.")


if __name__ == "__main__":
    main()
