"""Interrupt operations by faults, and check what is left and what the next run makes of it."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.kill.child import Ended, Planned
from tests.kill.operations import Operation, State
from tests.kill.sandbox import Sandbox, digests
from tests.support.compare import Record
from tests.support.steps import Fault

_LOCKED: Final = 11
_SIGKILL: Final = -9
_EXIT_CODES: Final = frozenset({0, 1, 2, 3, 10, 11, 12})
_ID_DIGITS: Final = 64


@dataclass(slots=True)
class Result:
    """What a fault caused. `hit` is the step ("": the operation had fewer steps)."""

    operation: str
    planned: Planned
    hit: str
    code: int
    faults: list[str] = field(default_factory=list)
    unlocked: bool = False
    """Whether restic left a lock that `cesbr unlock` had to remove."""


@dataclass(slots=True)
class Campaign:
    """Runs operations in the directory `work`."""

    work: Path
    restic: Path
    _sandbox: Sandbox = field(init=False)
    _states: dict[str, tuple[State, State, str]] = field(default_factory=dict)
    _complete: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sandbox = Sandbox(self.work, self.restic)
        self._sandbox.build()
        self._sandbox.save("base")

    def _prepare(self, operation: Operation) -> tuple[State, State, str]:
        """Return the states before and after an operation, and what it prints."""
        name = operation.name
        if name not in self._states:
            sandbox = self._sandbox
            sandbox.load("base")
            operation.prepare(sandbox)
            if not operation.is_copied:
                sandbox.save(name)
            for command in operation.setup:
                sandbox.must(*command)
            if operation.is_copied:
                sandbox.save(name)
            before = operation.state(sandbox)
            self._complete[name] = digests(sandbox.read())
            ended = operation.run(sandbox)
            assert ended.code == 0, f"{name}: {ended}"
            self._states[name] = before, operation.state(sandbox), ended.out
        return self._states[name]

    def run(self, operation: Operation, planned: Planned) -> Result:
        """Let a fault hit an operation, and return the result."""
        before, after, out = self._prepare(operation)
        sandbox = self._sandbox
        sandbox.load(operation.name)
        if not operation.is_copied:
            for command in operation.setup:
                sandbox.must(*command)
        ended = operation.run(sandbox, planned)
        result = Result(operation.name, planned, ended.hit, ended.code)
        if not ended.hit:
            return result
        try:
            result.faults += self._ended(operation, planned, ended, after)
            result.faults += self._left(operation, before, after)
            result.faults += self._again(operation, result, after, out, ended.err)
        except AssertionError as error:
            result.faults.append(str(error))
        return result

    def _ended(
        self, operation: Operation, planned: Planned, ended: Ended, after: State
    ) -> Iterator[str]:
        """Check how the operation ended."""
        if planned.fault in {Fault.KILL, Fault.KILL_ALL}:
            if ended.code != _SIGKILL:
                yield f"it ended with {ended.code}"
            return
        if ended.code not in _EXIT_CODES or "Traceback" in ended.err:
            yield f"it ended with {ended.code}: {ended.err[-1500:]}"
        elif ended.code and not operation.function and not f"{ended.out}{ended.err}".strip():
            yield f"it ended with {ended.code} without a message"
        state = operation.state(self._sandbox)
        if ended.code == 0 and not _same(state, after, planned.fault, ended.err):
            yield f"it succeeded, but left {_difference(state, after)}"

    def _left(self, operation: Operation, before: State, after: State) -> Iterator[str]:
        """Check the state before anything repairs it."""
        wrong = operation.is_partial(operation.state(self._sandbox), before, after)
        if wrong:
            yield wrong
        cold = self._sandbox.read()
        warm = self._sandbox.read(cache=self._sandbox.copied_cache())
        remote = self._sandbox.read(cache=self._sandbox.copied_cache(), remote=True)
        for reading in (warm, remote):
            if (reading.records, reading.statuses) != (cold.records, cold.statuses):
                yield "reading with the cache differs"
        yield from cold.faults
        if cold.failed:
            yield f"the repository cannot be read: {cold.failed}"
        known = self._complete[operation.name]
        if operation.name.startswith("forget"):
            newest = max(known)
            known = {newest: known[newest]}
        complete = digests(cold)
        if not known.items() <= complete.items():
            yield f"complete backups changed from {known} to {complete}"
        if more := set(complete.values()) - set(self._complete[operation.name].values()):
            yield f"a complete backup has other content: {more}"

    def _again(
        self, operation: Operation, result: Result, after: State, out: str, said: str
    ) -> Iterator[str]:
        """Run the operation again, and check that the result is as without a fault.

        `said` is what the interrupted run printed on stderr.
        """
        if operation.adds:
            before = self._states[operation.name][0]
            left = operation.state(self._sandbox)
            after = sorted((Counter(left) + (Counter(after) - Counter(before))).elements())
        ended = operation.run(self._sandbox, again=True)
        if ended.code == _LOCKED and "cesbr unlock" in ended.err:
            result.unlocked = True
            self._sandbox.must("unlock")
            ended = operation.run(self._sandbox, again=True)
        if ended.code == 2 and operation.again is not None:
            ended = operation.run(self._sandbox)
        if ended.code not in operation.repeated or "Traceback" in ended.err:
            yield f"the next run ended with {ended.code}: {ended.err[-1500:]}"
        state = operation.state(self._sandbox)
        if not _same(state, after, result.planned.fault, said):
            yield f"the next run left {_difference(state, after)}"
        if after is None and ended.out != out:
            yield f"the next run printed {ended.out!r} instead of {out!r}"
        locks = self._sandbox.repository / "locks"
        if list(locks.iterdir()) and not result.unlocked:
            self._sandbox.must("unlock")
            result.unlocked = True
        if left := [path.name for path in locks.iterdir() if len(path.name) == _ID_DIGITS]:
            yield f"locks stay: {left}"


def _same(state: State, after: State, fault: Fault, said: str) -> bool:
    """Return whether a state is right after this fault, about which a run has `said` something."""
    if fault is Fault.DENIED and "could not be set" in said:
        state, after = _without_metadata(state), _without_metadata(after)
    # Without its line in the journal, a directory is not known to be of the restore. The time of a
    # directory that is in no snapshot follows from the snapshots that can be read.
    if fault is Fault.FULL or "cannot be read; a backup may be missing" in said:
        state, after = _without_directory_times(state), _without_directory_times(after)
    return bool(state == after)


def _without_metadata(state: State) -> State:
    if not isinstance(state, dict):
        return state
    return {
        path: replace(value, mode=stat.S_IFMT(value.mode), uid=0, gid=0, mtime_ns=0)
        if isinstance(value, Record)
        else value
        for path, value in state.items()
    }


def _without_directory_times(state: State) -> State:
    if not isinstance(state, dict):
        return state
    return {
        path: replace(value, mtime_ns=0) if isinstance(value, Record) and value.size == 0 else value
        for path, value in state.items()
    }


def _difference(state: State, after: State) -> str:
    """Describe how a state differs from the right one."""
    if isinstance(state, dict) and isinstance(after, dict):
        names = [name for name in state.keys() | after.keys() if state.get(name) != after.get(name)]
        return "; ".join(f"{n!r}: {state.get(n)!r} not {after.get(n)!r}" for n in sorted(names)[:3])
    return f"{state!r} instead of {after!r}"[:1500]
