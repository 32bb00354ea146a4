"""Split the snapshots with one tag by host and run. Pure.

A tag such as ``nightly`` is used by every run, often on several hosts. Each run on each host is a
separate backup. A run ends where a later snapshot has the same paths and the same other tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from cesbrfs.catalog.annotations import is_annotation
from cesbrfs.repo.format.model import Snapshot

_STDIN_DOCUMENTS: Final = ("/dogu.json", "/registry.json")
"""Documents backed up from stdin: a run has one per dogu, all with the same path."""


@dataclass(slots=True)
class Run:
    """The snapshots of one run on one host, oldest first.

    `superseded` are originals that restic rewrote, and copies of a listed snapshot.
    """

    snapshots: list[Snapshot]
    superseded: list[Snapshot] = field(default_factory=list)


def split(members: Iterable[Snapshot]) -> list[Run]:
    """Return the runs of the snapshots with one tag."""
    ordered = sorted(members, key=lambda s: (s.time_ns, s.id))
    successors = _successors(ordered)
    hosts: dict[str, list[Snapshot]] = {}
    for snapshot in ordered:
        if snapshot.id not in successors:
            hosts.setdefault(snapshot.hostname, []).append(snapshot)
    runs = [Run(found) for listed in hosts.values() for found in _runs(listed)]
    run_of = {snapshot.id: run for run in runs for snapshot in run.snapshots}
    for snapshot in ordered:
        if snapshot.id in successors:
            run_of[successors[snapshot.id]].superseded.append(snapshot)
    return runs


def _successors(ordered: Sequence[Snapshot]) -> dict[str, str]:
    """Return the ID of the last successor of each snapshot that has one.

    ``restic rewrite``, ``repair snapshots``, ``tag`` and ``copy`` record the source snapshot of a
    new one in `original`. Of several successors of one snapshot, the newest counts.
    """
    newest = {s.original: s.id for s in ordered if s.original and s.original != s.id}
    following: dict[str, str] = {}
    for snapshot in ordered:
        after = newest.get(snapshot.id) or newest.get(snapshot.original or "")
        if after and after != snapshot.id:
            following[snapshot.id] = after
    last: dict[str, str | None] = {}
    for start in following:
        path: dict[str, None] = {}
        at = start
        while at in following and at not in last and at not in path:
            path[at] = None
            at = following[at]
        # restic never writes a cycle of originals; if there is one, no snapshot is superseded.
        last |= dict.fromkeys(path, None if at in path else last.get(at, at))
    return {name: end for name, end in last.items() if end is not None}


def _runs(ordered: Sequence[Snapshot]) -> list[list[Snapshot]]:
    """Split the snapshots of one host into runs."""
    runs: list[list[Snapshot]] = []
    run: list[Snapshot] = []
    seen: dict[_Point, int] = {}
    last = 0  # index in `run` of the last snapshot that can occur only once
    for snapshot in ordered:
        point = _point(snapshot)
        if point is not None and seen.get(point, snapshot.time_ns) < snapshot.time_ns:
            cut = _widest_gap([s.time_ns for s in (*run[last:], snapshot)]) + last
            runs.append(run[:cut])
            run, seen = run[cut:], {}
        run.append(snapshot)
        if point is not None:
            seen[point] = snapshot.time_ns
            last = len(run) - 1
    return [*runs, run] if run else runs


_Point = tuple[tuple[str, ...], frozenset[str]]


def _point(snapshot: Snapshot) -> _Point | None:
    """Return the key of a snapshot that occurs once per run; None if it may occur repeatedly."""
    key_tags = frozenset(tag for tag in snapshot.tags if "=" in tag and not is_annotation(tag))
    paths = tuple(snapshot.paths)
    from_stdin = len(paths) == 1 and paths[0].count("/") == 1
    if from_stdin and (
        any(tag.startswith("kind=") for tag in key_tags)
        or (paths[0] in _STDIN_DOCUMENTS and not key_tags)
    ):
        return None
    return (paths, key_tags) if paths else None


def _widest_gap(times: Sequence[int]) -> int:
    """Return the index after the widest gap between `times`; of equal gaps, the last."""
    gaps = [(after - before, at) for at, (before, after) in enumerate(pairwise(times), 1)]
    return max(gaps)[1]
