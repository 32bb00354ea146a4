"""Corruption campaign: ``make damage COUNT=10000``.

Each damage changes one file of a small repository: a bit is flipped, a range overwritten, the file
truncated, emptied, removed, swapped, extended, duplicated or replaced by a directory. Then all
backups are read, with a cold or a warm cache, locally or as if behind a network. Each path must
equal the undamaged one or give an error; the table shows what happened.

The exit code is 1 if there was a fault: wrong data, a name or a backup missing without a report, an
unexpected exception, or a read that did not end.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.damage.campaign import Campaign, Outcome, Result
from tests.damage.damages import DAMAGES, KINDS, PACKS
from tests.damage.sample import build
from tests.damage.truth import compare_with_restic, learn

VERSIONS = (1, 2)
_SHOWN_FAULTS = 20


def prepare(restic: Path, work: Path, version: int) -> Campaign:
    """Build and read the sample of one format; raises AssertionError if restic reads it otherwise.

    `work` is a new directory.
    """
    sample = build(restic, work / "sample", version)
    truth = learn(sample)
    differing = compare_with_restic(sample, truth, work / "restored")
    assert not differing, "\n".join(differing)
    return Campaign(sample, truth, work)


def run(campaigns: Sequence[Campaign], seed: int, numbers: Sequence[int]) -> Iterator[Result]:
    """Yield the result of each damage; its seed is made of `seed` and its number."""
    for number in numbers:
        yield campaigns[number % len(campaigns)].run(random.Random(f"{seed} {number}"))


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table of outcomes by kind of file, and one by damage."""
    outcomes = list(Outcome)
    lines: list[str] = []
    for head, rows in (
        ("file", [*KINDS[:-1], *(f"{pack}: {part}" for pack in PACKS for part in _PARTS), "cache"]),
        ("damage", DAMAGES),
    ):
        counts: Counter[tuple[str, Outcome]] = Counter()
        for result in results:
            counts[_row(result, head), result.outcome] += 1
            counts["total", result.outcome] += 1
        lines += ["", f"| {head} | {' | '.join(outcomes)} |", f"|---|{'---:|' * len(outcomes)}"]
        for row in (*rows, "total"):
            cells = [f"{counts[row, outcome]:,}" for outcome in outcomes]
            if any(counts[row, outcome] for outcome in outcomes):
                lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


_PARTS = ("body", "header", "trailer")


def _row(result: Result, head: str) -> str:
    damage = result.damage
    if head == "damage":
        return damage.what
    return f"{damage.kind}: {damage.region}" if damage.region else damage.kind


def describe(number: int, result: Result, version: int) -> str:
    """Return lines that describe a fault."""
    first = f"FAULT {number}: format {version}, {result.mode}: {result.damage}"
    return "\n".join([first, *(f"  {fault}" for fault in result.faults[:5])])


def main() -> int:
    """Parse the command line and run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the damages (1)")
    parser.add_argument("--count", type=int, default=1000, help="number of damages (1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first damage (0)")
    parser.add_argument("--restic", type=Path, help="the restic that writes (the one in PATH)")
    arguments = parser.parse_args()
    restic = arguments.restic or Path(shutil.which("restic") or "restic")
    subprocess.run([restic, "version"], check=True, stdout=subprocess.DEVNULL)
    results: list[Result] = []
    faults = 0
    with tempfile.TemporaryDirectory(prefix="cesbrfs-damage-") as place:
        campaigns = [prepare(restic, Path(place, str(version)), version) for version in VERSIONS]
        began = time.monotonic()
        numbers = range(arguments.first, arguments.first + arguments.count)
        for number, result in zip(numbers, run(campaigns, arguments.seed, numbers), strict=True):
            results.append(result)
            if result.faults:
                faults += 1
                if faults <= _SHOWN_FAULTS:
                    version = campaigns[number % len(campaigns)].sample.version
                    print(describe(number, result, version), flush=True)
        seconds = time.monotonic() - began
    print(table(results))
    slowest = max(result.seconds for result in results)
    print(
        f"\n{len(results):,} damages (seed {arguments.seed}) in {seconds:.0f} s, the slowest read"
        f" took {slowest:.1f} s; {faults} faults."
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
