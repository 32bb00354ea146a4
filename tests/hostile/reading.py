"""Read hostile repositories with all commands, and print what each cost as a line of JSON.

A separate process, so that its memory can be measured and limited.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.hostile.cases import GOOD, KEY, all_cases, build
from tests.support.checked_shell import CONTROL, CheckedShell

ENDLESS_SECONDS: Final = 0.3
"""When ^C is sent to a command that lists 2**50 paths."""
_QUICK: Final = ("backups", "cat", "tree", "du", "log", "diff", "export")
"""The commands that read slow cases in the default tests."""
_ADDRESS_SPACE: Final = 6 << 30
_INTERRUPTED: Final = 130
_LOCKED: Final = 11
_FILES: Final = "/one/dogu/volumes/files"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one command did: `mebibytes` is the peak of the process's memory."""

    case: str
    command: str
    code: int
    seconds: float
    mebibytes: int
    faults: Sequence[str]


def commands(target: Path) -> Iterator[tuple[str, ...]]:
    """Yield the commands that read everything, with their arguments."""
    yield ("backups",)
    yield ("cat", f"{_FILES}/good")
    yield ("ls", "-lR", "/one")
    yield ("tree", "/one/dogu")
    yield ("find",)
    yield ("find", "--name", "nothing")
    yield ("du", "/")
    yield ("du", "--depth", "3", "/one/dogu")
    yield ("log", "/")
    yield ("log", "dogu/volumes/files/good")
    yield ("versions", "dogu/volumes/files/good")
    yield ("diff", "one", "two")
    yield ("diff", "one", "two", "--metadata")
    yield ("grep", "intact", "--all")
    yield ("plan", "/one")
    yield ("restore", "/one", "--target", str(target / "inside"), "-y")
    yield ("export", "/one", "-o", str(target / "one.tar"))
    yield ("stat", f"{_FILES}/*")
    yield ("check",)


def _peak() -> int:
    with open("/proc/self/status", encoding="utf-8") as status:
        return int(re.findall(r"VmHWM:\s*(\d+)", status.read())[0]) >> 10


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")


class Reader:
    """Runs commands on the cases, in the directory `work`."""

    def __init__(self, work: Path, restic: Path, *, quick: bool) -> None:
        self._work = work
        self._restic = restic
        self._quick = quick
        (work / "key").write_bytes(KEY)
        (work / "instance").mkdir(exist_ok=True)

    def read(self, name: str) -> Iterator[Reading]:
        """Yield a reading for each command on one case."""
        (case,) = (case for case in all_cases() if case.name == name)
        repository, target = self._work / "repository", self._work / "target"
        # Not shutil.rmtree, which fails at 1,000 nested directories.
        subprocess.run(["rm", "-rf", repository, target, self._work / "cache"], check=True)
        build(case).write_to(repository)
        target.mkdir()
        shell = _Shell(self._work, repository, self._restic)
        before = self._outside()
        try:
            for given in commands(target):
                if self._quick and (given[0] == "check" or (case.slow and given[0] not in _QUICK)):
                    continue
                reading = self._run(shell, case.name, given, endless=case.endless)
                good = GOOD.decode() in shell.last or not case.readable
                if given[0] == "cat" and not good:
                    reading = _with(reading, "the intact file cannot be read")
                if given[0] == "restore" and not case.endless and case.readable:
                    restored = target / "inside/dogu/volumes/files/good"
                    if not restored.exists() or restored.read_bytes() != GOOD:
                        reading = _with(reading, "the intact file was not restored")
                yield reading
        finally:
            shell.close()
        if self._outside() != before or set(os.listdir(target)) - {"inside", "one.tar"}:
            raise AssertionError(f"{name}: something was written outside the target")

    def _outside(self) -> list[str]:
        return sorted(set(os.listdir(self._work)) - {"cache"})

    def _run(self, shell: _Shell, case: str, given: tuple[str, ...], *, endless: bool) -> Reading:
        _reset_peak()
        faults = []
        if endless:
            signal.setitimer(signal.ITIMER_REAL, ENDLESS_SECONDS)
        began = time.monotonic()
        code, out, err = shell(*given)
        seconds = time.monotonic() - began
        signal.setitimer(signal.ITIMER_REAL, 0)
        if CONTROL.search(out + err):
            faults.append("a control character reaches the terminal")
        if re.search("^FORGED", out + err, re.MULTILINE):
            faults.append("a line is forged")
        faults += re.findall("[^\n]{,200}(?:Traceback|Internal error)[^\n]{,200}", err)
        expected = {0, 1, 3, _INTERRUPTED} if endless else {0, 1, 3}
        if given[0] == "check":
            expected.add(_LOCKED)  # by a lock that is part of a case
        if code not in expected:
            faults.append(f"exit code {code}")
        if code and not err and given[0] != "plan":  # whose result contains it
            faults.append("a failure without a message")
        return Reading(case, " ".join(given), code, seconds, _peak(), faults)


class _Shell(CheckedShell):
    last = ""

    def __call__(self, name: str, *given: str, quiet: bool = False) -> tuple[int, str, str]:
        said = super().__call__(name, *given, quiet=quiet)
        self.last = said[1]
        return said


def _with(reading: Reading, fault: str) -> Reading:
    return Reading(**{**asdict(reading), "faults": [*reading.faults, fault]})


def main() -> None:
    """Parse the command line and print a line of JSON for each reading."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="an empty directory")
    parser.add_argument("cases", nargs="+", help="names of cases")
    parser.add_argument("--restic", type=Path, default=Path("restic"))
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    reader = Reader(arguments.work, arguments.restic, quick=arguments.quick)
    for name in arguments.cases:
        for reading in reader.read(name):
            print(json.dumps(asdict(reading)), flush=True)


if __name__ == "__main__":
    main()
