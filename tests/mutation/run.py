"""Mutation testing with mutmut: ``python -m tests.mutation.run MODULE``.

mutmut changes one operator, number or name of a module at a time, and runs the unit tests of the
module, which must fail. It works in a copy of the checkout in build/mutation. Texts of errors are
not changed: tests compare those that users see, in tests/shell.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from tests.support.project import PROJECT

_FORMAT: Final = "tests/unit/repo/format"
MODULES: Final = {
    "crypto": ("cesbrfs/repo/format/crypto.py", (f"{_FORMAT}/test_crypto.py",)),
    "pack": ("cesbrfs/repo/format/pack.py", (f"{_FORMAT}/test_pack.py",)),
    "index": ("cesbrfs/repo/format/index*.py", (f"{_FORMAT}/test_index.py",)),
    "tree": (
        "cesbrfs/repo/format/tree*.py",
        (
            f"{_FORMAT}/test_tree.py",
            f"{_FORMAT}/test_model.py",
            f"{_FORMAT}/test_direntry.py::test_zero_blobs_take_no_blocks",
        ),
    ),
    "layout": (
        "cesbrfs/catalog/layout.py",
        ("tests/unit/catalog/test_placement.py", "tests/unit/catalog/test_layout.py"),
    ),
    "planner": ("cesbrfs/restore/plan*.py", ("tests/unit/restore/test_planner.py",)),
    "dirfd": ("cesbrfs/restore/dirfd.py", ("tests/unit/restore/test_dirfd.py",)),
    "directories": (
        "cesbrfs/repo/read/directories.py",
        ("tests/unit/repo/read/test_directories.py",),
    ),
}
"""The files to change and the tests that must fail, by name of the module."""

_MEMORY: Final = 4 << 30
"""Bytes of address space of a test run. Changes that loop endlessly would use all memory."""

_SETTINGS: Final = """
[tool.mutmut]
source_paths = ["cesbrfs"]
only_mutate = ["{files}"]
also_copy = ["cesbrfs", "shell"]
do_not_mutate_patterns = ['raise \\w+Error\\(', '^\\s*f?"[^"]*",?$']
pytest_add_cli_args = ["-p", "no:cacheprovider", "-o", "timeout=0", "--hypothesis-profile=ci"]
pytest_add_cli_args_test_selection = [{tests}]
"""


def _copy(target: Path) -> None:
    """Copy the files under version control, with their uncommitted changes."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True
    ).stdout
    for name in map(os.fsdecode, listed.split(b"\0")[:-1]):
        if (PROJECT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)


def main() -> int:
    """Run mutmut for one module and print the changes that no test noticed."""
    name = sys.argv[1]
    if name not in MODULES:
        print(f"Invalid module {name}. Choose one of: {', '.join(MODULES)}.", file=sys.stderr)
        return 2
    files, tests = MODULES[name]
    target = PROJECT / "build/mutation" / name
    _copy(target)
    with (target / "pyproject.toml").open("a") as settings:
        selection = ", ".join(f'"{test}"' for test in tests)
        settings.write(_SETTINGS.format(files=files, tests=selection))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    command = [sys.executable, "-W", "ignore", "-m", "mutmut"]
    with (target / "mutmut.log").open("w") as log:
        subprocess.run([*command, "run"], cwd=target, stdout=log, stderr=log, check=False)
    done = subprocess.run(
        [*command, "results", "--all", "true"],
        cwd=target,
        capture_output=True,
        text=True,
        check=True,
    )
    results = dict(line.strip().split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    counts = Counter(results.values())
    if not counts or counts["not checked"]:
        print(f"mutmut did not finish: see {target / 'mutmut.log'}.", file=sys.stderr)
        return 1
    killed = counts["killed"] + counts["timeout"]
    for mutant, result in results.items():
        if result not in ("killed", "timeout"):
            print(f"{result}: {mutant}")
    total = sum(counts.values())
    print(f"{name}: {total} mutants, {killed} killed ({killed / total:.0%})")
    print(f"To see a change: cd {target} && {sys.executable} -m mutmut show NAME")
    return 0


if __name__ == "__main__":
    sys.exit(main())
