"""Run fuzz targets, each with its corpus: ``make fuzz TARGET=tree SECONDS=600``.

Inputs that reach new code are collected in ``build/fuzz/<target>/new``. The exit code is 1 if a
target fails; the input is then in ``build/fuzz/<target>/finds``. Turn it into a unit test, and copy
it to the corpus.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.fuzz.targets import TARGETS
from tests.support.project import PROJECT

CORPUS: Final = Path(__file__).parent / "corpus"
WORK: Final = PROJECT / "build/fuzz"
_WORDS: Final = Path(__file__).parent / "words.dict"
_INPUT_MAX: Final = 4096
_STAT: Final = re.compile(r"stat::(\w+):\s+(\d+)")
_COVERAGE: Final = re.compile(r"cov: (\d+)")
_FAILURE: Final = re.compile(r"=== Uncaught Python exception: ===\n(.*)")


def fuzz(target: str, seconds: int, options: Sequence[str]) -> bool:
    """Run one target and print a line about it; return whether it failed."""
    new, finds = WORK / target / "new", WORK / target / "finds"
    for directory in (new, finds):
        directory.mkdir(parents=True, exist_ok=True)
    done = _run(
        target,
        f"-max_total_time={seconds}",
        f"-dict={_WORDS}",
        f"-max_len={_INPUT_MAX}",
        f"-artifact_prefix={finds}/",
        "-print_final_stats=1",
        *options,
        str(new),
        str(CORPUS / target),
    )
    stats = dict(_STAT.findall(done))
    covered = _COVERAGE.findall(done)
    failure = _FAILURE.search(done)
    found = sorted(path.name for path in finds.iterdir())
    print(
        f"{target:<10}{int(stats.get('number_of_executed_units', 0)):>12,} runs"
        f"{int(stats.get('average_exec_per_sec', 0)):>8,}/s"
        f"{int(stats.get('peak_rss_mb', 0)):>6,} MiB{covered[-1] if covered else '?':>6} edges"
        f"  {failure[1] if failure else ''} {' '.join(found)}".rstrip(),
        flush=True,
    )
    if not stats:
        print(done[-2000:])
    return bool(found) or not stats


def _run(target: str, *options: str) -> str:
    """Return the output of atheris for one target."""
    limits = ("-timeout=10", "-rss_limit_mb=2048")
    command = [sys.executable, "-m", "tests.fuzz", target, *limits, *options]
    done = subprocess.run(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.stdout.decode(errors="replace")


def main() -> int:
    """Parse the command line and run the targets one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="the targets to run (all)")
    parser.add_argument("--seconds", type=int, default=30, help="time for each target (30)")
    arguments, options = parser.parse_known_args()
    targets = arguments.targets or list(TARGETS)
    if unknown := set(targets) - TARGETS.keys():
        parser.error(f"unknown target {min(unknown)}; choose from {', '.join(TARGETS)}")
    failed = [target for target in targets if fuzz(target, arguments.seconds, options)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
