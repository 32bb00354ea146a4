"""Interrupt operations at random steps: ``make kill COUNT=1000 SEED=1``.

An operation is killed, killed together with restic, gets ENOSPC, EIO or EACCES, or writes only half
of its data, at one of the steps that `tests.support.steps` announces. Then the repository, caches,
restored files and state are checked, and the operation runs again: it must succeed, and leave what
it leaves without a fault.

`--each` takes all steps of all operations in turn. `--only "backup/kill/7"` runs one again. The
exit code is 1 if something was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.kill.campaign import Campaign, Result
from tests.kill.child import Planned
from tests.kill.operations import BY_NAME, OPERATIONS, Operation
from tests.support.steps import Fault

_FIRST_BOUND: Final = 40
_SHOWN: Final = 20
_MEMORY: Final = "/dev/shm"


def at_random(
    campaign: Campaign, seed: int, count: int, operations: Sequence[Operation] = OPERATIONS
) -> Iterator[Result]:
    """Yield the results of `count` faults at random steps."""
    chosen = random.Random(seed)
    bounds: dict[tuple[str, Fault], int] = {}
    for _ in range(count):
        operation, fault = chosen.choice(operations), chosen.choice(list(Fault))
        key = operation.name, fault
        while True:
            bound = bounds.get(key, _FIRST_BOUND)
            step = chosen.randrange(max(bound, 1))
            result = campaign.run(operation, Planned(fault, step))
            if result.hit:
                if step == bound - 1:  # there may be more
                    bounds[key] = bound + _FIRST_BOUND // 4
                yield result
                break
            bounds[key] = step
            if not step:
                break  # no step of this kind


def each(
    campaign: Campaign,
    operations: Sequence[Operation],
    faults: Sequence[Fault] = tuple(Fault),
    only: frozenset[str] | None = None,
) -> Iterator[Result]:
    """Yield the results of `faults` at all steps of `operations`, or at the kinds in `only`."""
    for operation in operations:
        for fault in faults:
            step = 0
            while (result := campaign.run(operation, Planned(fault, step, only))).hit:
                yield result
                step += 1


def describe(result: Result) -> str:
    """Return lines about a fault that had consequences."""
    planned = result.planned
    name = f"{result.operation}/{planned.fault}/{planned.step}"
    first = f"WRONG {name} at {result.hit[-120:]}, exit code {result.code}:"
    return "\n".join([first, *(f"  {wrong}" for wrong in result.faults)])


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table: the number of faults by operation and kind."""
    counts = Counter((result.operation, result.planned.fault) for result in results)
    lines = [f"| operation | {' | '.join(Fault)} |", f"|---|{'---:|' * len(Fault)}"]
    for operation in OPERATIONS:
        row = [counts[operation.name, fault] for fault in Fault]
        if any(row):
            lines.append(f"| {operation.name} | {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def _chosen(campaign: Campaign, arguments: argparse.Namespace) -> Iterator[Result]:
    operations = [BY_NAME[name] for name in arguments.operation] or OPERATIONS
    if arguments.only:
        name, fault, step = arguments.only.rsplit("/", 2)
        return iter([campaign.run(BY_NAME[name], Planned(Fault(fault), int(step)))])
    if arguments.each:
        return each(campaign, operations, arguments.fault or tuple(Fault))
    return at_random(campaign, arguments.seed, arguments.count, operations)


def main() -> int:
    """Parse the command line and run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the steps (1)")
    parser.add_argument("--count", type=int, default=1000, help="number of faults (1000)")
    parser.add_argument("--each", action="store_true", help="take all steps in turn")
    parser.add_argument("--only", metavar="OPERATION/FAULT/STEP", help="run one fault")
    parser.add_argument(
        "--operation", action="append", default=[], choices=BY_NAME, help="interrupt only these"
    )
    parser.add_argument(
        "--fault", action="append", default=[], type=Fault, help="take only these with --each"
    )
    parser.add_argument("--restic", type=Path, help="the restic that writes (the one in PATH)")
    arguments = parser.parse_args()
    restic = arguments.restic or Path(shutil.which("restic") or "restic")
    in_memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results: list[Result] = []
    wrong = 0
    with tempfile.TemporaryDirectory(
        prefix="cesbrfs-kill-", dir=in_memory, ignore_cleanup_errors=True
    ) as place:
        campaign = Campaign(Path(place), restic)
        began = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):  # the table shows what was done
            for result in _chosen(campaign, arguments):
                results.append(result)
                if result.faults:
                    wrong += 1
                    if wrong <= _SHOWN:
                        print(describe(result), flush=True)
        seconds = time.monotonic() - began
    print(table(results))
    unlocked = sum(result.unlocked for result in results)
    print(
        f"\n{len(results):,} faults (seed {arguments.seed}) in {seconds:.0f} s; {unlocked} needed"
        f" 'cesbr unlock'; {wrong} were wrong."
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
