"""Write hostile repositories for any reader of restic's format: ``make hostile DIR=…``.

Each case is a directory. The file ``cases.json`` contains the password, and the expected outcome of
each case. With ``--read``, all commands of cesbr then read each of them.

The exit code is 1 if there was a fault: a failure of something that is intact, a control character,
a file outside the target, an unexpected exception, or too much memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.hostile.cases import CASES, GOOD, KEY, VOLUME, Case, all_cases, build


def write(cases: Iterable[Case], directory: Path) -> None:
    """Write the repositories and ``cases.json`` to a new directory."""
    directory.mkdir(parents=True)
    described = []
    for case in cases:
        build(case).write_to(directory / case.name)
        described.append({
            "case": case.name,
            "outcome": case.outcome,
            "endless": case.endless,
            "good": f"{VOLUME}/good" if case.readable else None,
        })  # fmt: skip
    text = {"password": KEY.decode(), "content of good": GOOD.decode(), "cases": described}
    (directory / "cases.json").write_text(json.dumps(text, indent=2) + "\n")


def read(names: Iterable[str], work: Path, *options: str) -> Iterator[dict[str, object]]:
    """Read cases in a process of their own; yield each reading, with its faults."""
    limits = {case.name: case.mebibytes_max for case in all_cases()}
    command = [sys.executable, "-m", "tests.hostile.reading", str(work), *options, *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            reading = json.loads(line)
            if reading["mebibytes"] > limits[reading["case"]]:
                reading["faults"].append(f"{reading['mebibytes']} MiB of memory")
            yield reading
    if process.returncode:
        raise AssertionError(f"Reading ended with exit code {process.returncode}.")


def main() -> int:
    """Parse the command line, write the repositories, and read them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="a new directory")
    parser.add_argument("--read", action="store_true", help="read them with all commands")
    parser.add_argument("--large", action="store_true", help="also those that take minutes")
    arguments = parser.parse_args()
    cases = list(all_cases() if arguments.large else CASES)
    write(cases, arguments.directory)
    print(f"{len(cases)} repositories and cases.json are in {arguments.directory}.")
    if not arguments.read:
        return 0
    faults = 0
    for case in cases:
        seconds, mebibytes = 0.0, 0
        with tempfile.TemporaryDirectory(prefix="hostile-") as work:
            for reading in read([case.name], Path(work)):
                seconds += float(str(reading["seconds"]))
                mebibytes = max(mebibytes, int(str(reading["mebibytes"])))
                if reading["faults"]:
                    faults += 1
                    print(f"FAULT {case.name}: {reading['command']}: {reading['faults']}")
            subprocess.run(["rm", "-rf", f"{work}/target"], check=True)  # rmtree is recursive
        print(f"{case.name:20} {seconds:6.1f} s {mebibytes:5} MiB", flush=True)
    print(f"{len(cases)} cases, {faults} faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
