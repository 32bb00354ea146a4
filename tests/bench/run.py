"""`make bench`: compare the mounts of cesbrfs and restic, and write a report."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.bench import growth, history, maintenance, measures, remote, report, restores, shell
from tests.bench.data import FULL, QUICK, Store
from tests.bench.measures import Bench, Group, MeasureFailedError, Sample
from tests.bench.mounts import (
    OURS,
    Contender,
    MountFailedError,
    drop_caches,
    find_restic,
    machine,
    restic_version,
)
from tests.support.project import PROJECT

_LEAST_ROUNDS: Final = 3


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything: a few minutes")
    parser.add_argument("--only", metavar="NAME,…", help="these measures, by their beginnings")
    parser.add_argument("--rounds", type=int, default=_LEAST_ROUNDS, metavar="N", help="at least 3")
    parser.add_argument("--remote", action="store_true", help="measure over a network instead")
    parser.add_argument("--old", action="store_true", help="measure the restic on the path, too")
    parser.add_argument("--keep", action="store_true", help="keep, or use, the repositories")
    parser.add_argument("--work", type=Path, default=PROJECT / "build/bench", metavar="DIR")
    parser.add_argument("--out", type=Path, default=PROJECT / "build/bench-results", metavar="DIR")
    parser.add_argument("--list", action="store_true", help="name the measures and end")
    parser.add_argument("--render", action="store_true", help="only renew page and plot in --out")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the selected measures; return 1 if one failed."""
    flags = _arguments(argv)
    if flags.render:
        for data in flags.out.glob("benchmark*.json"):
            report.save(report.load(data), flags.out)
        return 0
    newer, on_path = find_restic()
    binary = newer or on_path
    if binary is None:
        print("There is no restic to compare with; 'make install' brings one.", file=sys.stderr)
        return 1
    contenders = [Contender(OURS), Contender("restic", binary)]
    if flags.old and on_path and on_path != binary:
        contenders.append(Contender(f"restic {restic_version(on_path)}", on_path))
    work = flags.work.resolve()
    store = Store(work, binary, QUICK if flags.quick else FULL, _say)
    groups = [
        part
        for kind in (measures, restores, maintenance, shell, history, growth)
        for part in kind.groups(store)
    ]
    chosen = _choose(remote.groups(store) if flags.remote else groups, flags.only)
    if flags.list:
        print(*(measure.name for group in chosen for measure in group.measures), sep="\n")
        return 0
    if not chosen:
        print("No measure has such a name; --list names them.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mounts are unmounted
    made = _start(contenders, store, max(flags.rounds, _LEAST_ROUNDS))
    if flags.remote:
        made.name = "benchmark-remote"
    try:
        for group in chosen:
            made.rows += _measure(group, Bench(store, work), contenders, made.rounds)
            report.save(made, flags.out.resolve())  # a run takes an hour: keep all results so far
    finally:
        if not flags.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(f"\n{report.table(made)}\n")
    print("Written:", *report.save(made, flags.out.resolve()))
    return int(any(o.failed for row in made.rows for o in row.outcomes.values()))


def _start(contenders: list[Contender], store: Store, rounds: int) -> report.Report:
    """Return a report without rows, after printing its header."""
    notes = []
    if not drop_caches():
        notes.append("Page caches could not be dropped (only root can): nothing was cold.")
    made = report.Report(
        measured=datetime.now(tz=UTC).strftime("%Y-%m-%d"),
        mode=store.sizes.mode,
        rounds=rounds,
        machine=machine({c.name: c.binary for c in contenders if c.binary}),
        notes=notes,
        mounts=[contender.name for contender in contenders],
        rows=[],
    )
    print(*report.head(made), sep="\n", flush=True)
    return made


def _choose(groups: Iterable[Group], only: str | None) -> list[Group]:
    """Return the groups with the named measures, without other measures."""
    if not only:
        return list(groups)
    beginnings = tuple(f"{name}-" for name in only.split(","))
    chosen = (
        replace(
            group,
            measures=[m for m in group.measures if f"{m.name}-".startswith(beginnings)],
        )
        for group in groups
    )
    return [group for group in chosen if group.measures]


def _measure(
    group: Group, bench: Bench, contenders: Sequence[Contender], rounds: int
) -> list[report.Row]:
    """Run a group `rounds` times; a failed mount is recorded and not tried again."""
    names = [contender.name for contender in contenders]
    rows = {
        m.name: report.Row(
            m.name, m.what, m.unit, m.amount, {name: report.Outcome([]) for name in names}
        )
        for m in group.measures
    }
    seen: dict[str, int | None] = {}
    failed: set[str] = set()
    for _ in range(rounds):
        for contender in contenders:
            if contender.name in failed:
                continue
            try:
                _take(list(group.run(bench, contender)), rows, contender.name, seen)
            except (MeasureFailedError, MountFailedError, OSError, subprocess.SubprocessError) as e:
                failed.add(contender.name)
                for row in rows.values():
                    row.outcomes[contender.name].failed = f"{type(e).__name__}: {e}"
    for row in rows.values():
        report.settle(row, names)
        values = ", ".join(f"{name} {report.shown(row, name)}" for name in names)
        _say(f"{row.name}: {values}")
    return list(rows.values())


def _take(
    samples: Iterable[Sample],
    rows: Mapping[str, report.Row],
    name: str,
    seen: dict[str, int | None],
) -> None:
    """Add the values of a round; fail if a command returned another result than before."""
    for sample in samples:
        before = seen.setdefault(sample.name, sample.check)
        if before != sample.check:
            raise MeasureFailedError(
                f"{sample.name} saw {sample.check}, another one before it {before}"
            )
        if sample.name in rows:
            rows[sample.name].outcomes[name].values.append(sample.value)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
