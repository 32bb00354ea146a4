"""The restic program: where it is and which version it is."""

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
"""Seconds for `restic version`, which reads nothing but itself."""


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A version of restic; versions compare as they were released."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, said: str) -> Version:
        """Read what ``restic version`` prints: ``restic 0.14.0 compiled with go1.19.8 on …``.

        Raises ResticError when it is something else.
        """
        found = _VERSION.match(said)
        if not found:
            raise ResticError(
                f"'restic version' answered {said[:80]!r}, which is not a version of restic; check"
                " which program the setting 'restic' names."
            )
        return cls(*(int(number or 0) for number in found.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


OLDEST: Final = Version(0, 14)
"""The oldest restic that the tests run with."""


async def find_restic(configured: str | None = None) -> Path:
    """Return the path of the restic program: `configured`, a path or a name, else ``restic``.

    Raises ResticError when there is none.
    """
    found = shutil.which(_expanded(configured or "restic"))
    if found:
        return Path(found)
    if configured:
        raise ResticError(
            f"{configured} is not an executable program; set 'restic' to the path of the restic"
            " binary."
        )
    raise ResticError(
        "restic is not installed; install it (for example 'apt install restic') or set 'restic' to"
        " the path of its binary."
    )


def _expanded(name: str) -> str:
    return os.path.expanduser(name)


async def read_version(binary: Path) -> Version:
    """Ask `binary` for its version.

    Raises ResticError when it cannot be run, does not answer, or is older than `OLDEST`.
    """
    ended = await run([str(binary), "version"], env=inherited(), deadline=_DEADLINE)
    if ended.ending is not Ending.ITSELF or ended.exit_code != 0:
        raise ResticError(
            f"{binary} cannot say its version (exit code {ended.exit_code}); check which program"
            " the setting 'restic' names."
        )
    version = Version.parse(ended.stdout.decode("utf-8", "replace"))
    if version < OLDEST:
        raise ResticError(
            f"{binary} is restic {version}; {OLDEST} is the oldest that works, install a newer one."
        )
    return version
