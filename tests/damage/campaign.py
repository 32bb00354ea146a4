"""Damage copies of a repository, read everything, and check each path.

A path equals the undamaged one or gives an error. Only paths that need something damaged may give
one, and only if all copies of it are damaged. No name and no backup may be missing unless the
repository reports the snapshot it is from as damaged.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.status import Status
from tests.damage.damages import Damage, Damager, choose, files_by_kind, files_of_cache, repair
from tests.damage.reading import SECONDS_MAX, Reading, Record, read_everything
from tests.damage.sample import Sample
from tests.damage.truth import Blob, Needs, Truth

_REPORTED: Final = ("snapshots", "trees")


class Outcome(StrEnum):
    """The effect of a damage on reading."""

    NONE = "no effect"
    ERROR = "clear error"
    FORGOTTEN = "as forgotten"
    """A snapshot was removed, which restic does as well when it is forgotten."""
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one damage, and the faults found."""

    damage: Damage
    mode: str
    outcome: Outcome
    faults: list[str]
    seconds: float


@dataclass(slots=True)
class Campaign:
    """Damages copies of the repository `sample` in the directory `work`."""

    sample: Sample
    truth: Truth
    work: Path
    _caches: dict[bool, Path] = field(default_factory=dict)
    _files: dict[str, list[str]] = field(default_factory=dict)
    _copy: Sample = field(init=False)

    def __post_init__(self) -> None:
        copy = self.work / "copy"
        link_tree(self.sample.directory, copy)
        self._copy = replace(self.sample, repo=replace(self.sample.repo, directory=copy))
        self._files = files_by_kind(self.sample.directory, self.truth.places)
        for remote in (False, True):
            self._caches[remote] = self.work / ("remote" if remote else "local")
            self._read(self.sample, remote=remote, cache=self._caches[remote])

    @property
    def caches(self) -> list[Path]:
        """The cache directories that were filled from the undamaged repository."""
        return list(self._caches.values())

    @staticmethod
    def _read(sample: Sample, *, remote: bool, cache: Path | None) -> Reading:
        return read_everything(sample.access, remote=remote, cache=cache)

    def damage_copy(self, chosen: random.Random, directory: Path) -> Damage:
        """Write a damaged copy of the repository to a new directory, with hard links."""
        damage, others = choose(chosen, {**self._files, "cache": []})
        link_tree(self.sample.directory, directory)
        Damager(directory, damage, chosen, others).apply()
        return damage

    def run(self, chosen: random.Random) -> Result:
        """Damage one file, read everything, check, and return the result."""
        remote, warm = chosen.random() < 0.5, chosen.random() < 0.5
        cached = files_of_cache(self._caches[remote]) if warm else []
        damage, others = choose(chosen, self._files | {"cache": cached})
        cache = self.work / "cache"
        if warm:
            link_tree(self._caches[remote], cache)
        top = cache if damage.kind == "cache" else self._copy.directory
        began = time.monotonic()
        try:
            Damager(top, damage, chosen, others).apply()
            reading = self._read(self._copy, remote=remote, cache=cache)
        finally:
            if damage.kind != "cache":
                repair(top, damage, self.sample.directory)
            shutil.rmtree(cache, ignore_errors=True)
        seconds = time.monotonic() - began
        checker = Checker(self.truth, damage, reading)
        faults = [*reading.faults, *checker.faults()]
        if seconds > SECONDS_MAX:
            faults.append(f"reading took {seconds:.0f} s")
        mode = f"{'remote' if remote else 'local'}, {'warm' if warm else 'cold'} cache"
        return Result(damage, mode, Outcome.FAULT if faults else checker.outcome(), faults, seconds)


def link_tree(source: Path, target: Path) -> None:
    """Copy a directory with hard links, without its empty directories."""
    target.mkdir(parents=True)
    for top, _, names in os.walk(source):
        place = target / os.path.relpath(top, source)
        if names:
            place.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.link(os.path.join(top, name), place / name)


class Consequences:
    """What a damage may cost a reader.

    `snapshots` may not be readable, and `removed` are gone. `prevents_opening`: nothing may be.
    """

    def __init__(self, truth: Truth, damage: Damage) -> None:
        changed = {} if damage.kind == "cache" else damage.changed
        self.snapshots = {
            os.path.basename(path) for path in changed if path.startswith("snapshots/")
        }
        self.removed = self.snapshots if damage.what == "removal" else set()
        self.lost = set(_lost_blobs(truth, changed))
        self.prevents_opening = "config" in changed or truth.keys <= changed.keys()

    def hit(self, needs: Needs) -> bool:
        """Return whether a path that needs this may not be readable."""
        return needs.snapshot in self.snapshots or bool(self.lost & (needs.trees | needs.content))


def _lost_blobs(truth: Truth, changed: dict[str, tuple[float, float]]) -> Iterator[Blob]:
    """Yield the blobs of which the damage leaves no intact copy that an index names."""
    for blob, found in truth.places.items():
        intact = False
        for place in found:
            start, end = changed.get(place.pack, (math.inf, math.inf))
            hit = start < place.offset + place.length and end > place.offset
            intact |= not hit and place.index not in changed
        if not intact:
            yield blob


class Checker:
    """Compares the reading of a damaged repository with the truth."""

    def __init__(self, truth: Truth, damage: Damage, reading: Reading) -> None:
        self._truth = truth
        self._reading = reading
        self._damage = Consequences(truth, damage)
        self._reported = {
            name
            for kind, _, name in (file.partition("/") for file in reading.damaged)
            if kind in _REPORTED
        }

    def faults(self) -> list[str]:
        """Return what must not be."""
        if self._reading.failed:
            if self._damage.prevents_opening:
                return []
            return [f"nothing can be read: {self._reading.failed}"]
        return [*self._missing(), *self._wrong(), *self._backups(), *self._latest()]

    def outcome(self) -> Outcome:
        """Return the effect, if there is no fault."""
        reading, truth = self._reading, self._truth.reading
        if reading.failed or reading.errors or reading.damaged:
            return Outcome.ERROR
        if reading.records == truth.records and reading.statuses == truth.statuses:
            return Outcome.NONE
        return Outcome.FORGOTTEN if self._damage.removed else Outcome.ERROR

    def _failed_above(self, path: bytes) -> bool:
        """Return whether reading `path`, or listing a directory above it, gave an error."""
        errors = self._reading.errors
        above = path.split(b"/")
        return path in errors or any(
            b"/".join(above[:length]) + b"/" in errors for length in range(1, len(above))
        )

    def _missing(self) -> Iterator[str]:
        for path, needs in self._truth.needs.items():
            if path in self._reading.records:
                continue
            if self._failed_above(path):
                if not self._damage.hit(needs):
                    yield f"{path!r} cannot be read, but nothing that it needs is damaged"
            elif needs.snapshot not in self._reported | self._damage.removed:
                yield f"{path!r} is missing, and nothing reports it"

    def _wrong(self) -> Iterator[str]:
        for path, record in self._reading.records.items():
            wanted = self._truth.reading.records.get(path)
            if wanted is None:
                wanted = self._unplaced(path)
                if wanted is None and not stat.S_ISDIR(record.mode):
                    yield f"{path!r} is not in the undamaged repository"
            if self._stands_for_unreadable(path):
                continue
            if wanted is not None and record != wanted:
                yield f"{path!r} differs: {record} instead of {wanted}"
        if not self._damage.lost and not self._damage.snapshots:
            for path, error in self._reading.errors.items():
                yield f"{path!r} cannot be read, but nothing is damaged: {error}"

    def _stands_for_unreadable(self, path: bytes) -> bool:
        """Return whether a directory cannot be listed, and its metadata is unknown as well."""
        needs = self._truth.needs.get(path)
        return path + b"/" in self._reading.errors and (
            needs is None or needs.snapshot in self._reported
        )

    def _unplaced(self, path: bytes) -> Record | None:
        """Return the record of a path in a snapshot that is shown unchanged because of damage."""
        before, found, below = path.rpartition(directory_names.SNAPSHOTS + b"/")
        if not found or before.count(b"/") > 1:
            return None
        short, _, inside = below.partition(b"/")
        for snapshot, records in self._truth.records.items():
            if snapshot[:8].encode() == short:
                return records.get(inside)
        return None

    def _backups(self) -> Iterator[str]:
        """Yield each missing backup, and each that is called complete and is not."""
        for backup, snapshots in self._truth.snapshots.items():
            status = self._reading.statuses.get(backup)
            if status is None and not snapshots <= self._reported | self._damage.removed:
                if not self._failed_above(backup + b"/x"):
                    yield f"backup {backup!r} is missing, and nothing reports it"
            elif status == Status.COMPLETE and snapshots & (self._reported | self._damage.removed):
                yield f"backup {backup!r} is called complete without all of its snapshots"

    def _latest(self) -> Iterator[str]:
        """Check that ``latest`` points to the same backup, unless that one is damaged."""
        wanted, latest = self._truth.reading.latest, self._reading.latest
        hit = any(
            self._damage.hit(needs)
            for snapshot in self._truth.snapshots[wanted]
            for needs in self._truth.stored[snapshot].values()
        )
        if latest != wanted and not hit:
            yield f"'latest' points to {latest!r} instead of {wanted!r}"
        if latest and latest not in self._truth.snapshots:
            yield f"'latest' points to {latest!r}, which is no backup"
