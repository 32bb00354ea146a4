"""Find the restic program and determine its version."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cesbrfs.errors import ResticError
from cesbrfs.restic.environment import inherited
from cesbrfs.restic.process import Ending, run

_VERSION: Final = re.compile(r"restic v?(\d+)\.(\d+)(?:\.(\d+))?")
_DEADLINE: Final = 15.0
"""Timeout of `restic version` in seconds; it does not access a repository."""


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A version of restic; versions can be compared."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, output: str) -> Version:
        """Parse the output of ``restic version``: ``restic 0.14.0 compiled with go1.19.8 on …``.

        Raises ResticError for any other output.
        """
        match = _VERSION.match(output)
        if not match:
            raise ResticError(
                f"Unexpected output of 'restic version': {output[:80]!r}. Check the setting"
                " 'restic'."
            )
        return cls(*(int(number or 0) for number in match.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


OLDEST: Final = Version(0, 14)
"""The oldest supported version; the tests run with it."""


async def find_restic(configured: str | None = None) -> Path:
    """Return the path of the program `configured` (a path or a name), by default ``restic``.

    Raises ResticError if it is not found.
    """
    path = shutil.which(_expanded(configured or "restic"))
    if path:
        return Path(path)
    if configured:
        raise ResticError(
            f"{configured} is not an executable program. Set 'restic' to the path of the restic"
            " binary."
        )
    raise ResticError(
        "restic is not installed. Install it (for example 'apt install restic'), or set 'restic'"
        " to the path of its binary."
    )


def _expanded(name: str) -> str:
    return os.path.expanduser(name)


async def read_version(binary: Path) -> Version:
    """Return the version of `binary`.

    Raises ResticError if it cannot be run, fails, times out, or is older than `OLDEST`.
    """
    ended = await run([str(binary), "version"], env=inherited(), deadline=_DEADLINE)
    if ended.ending is not Ending.ITSELF or ended.exit_code != 0:
        raise ResticError(
            f"Cannot determine the version of {binary} (exit code {ended.exit_code}). Check the"
            " setting 'restic'."
        )
    version = Version.parse(ended.stdout.decode("utf-8", "replace"))
    if version < OLDEST:
        raise ResticError(
            f"{binary} is restic {version}, which is too old. Install restic {OLDEST} or newer."
        )
    return version
