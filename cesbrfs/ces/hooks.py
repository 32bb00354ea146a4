"""The administrator's scripts before and after each backup and restore, as CES has them.

The registry names them by absolute paths.  The one before runs first and stops everything when it
fails; the one after runs only when all has succeeded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import trio

from cesbrfs.errors import ScriptError
from cesbrfs.util.process import public_environment, run_program

Occasion = Literal["pre_backup", "post_backup", "pre_restore", "post_restore"]

DEFAULT_SECONDS: Final = 3600.0
"""How long a script may take where nothing else is set."""


@dataclass(frozen=True, slots=True)
class Scripts:
    """The scripts by their occasion; one that is not configured is not there.

    `say` gets what they print, line by line, `seconds` are how long each may take.
    """

    paths: Mapping[Occasion, Path | None]
    say: Callable[[str], None]
    seconds: float = DEFAULT_SECONDS

    async def run(self, occasion: Occasion, **variables: str) -> None:
        """Run the script of `occasion`, if there is one, with `variables` in its environment.

        ScriptError names the script and its registry key, and says why it did not succeed.
        """
        path = self.paths.get(occasion)
        if path is None:
            return
        named = f"The script {path} (/config/backup/{occasion}_script)"
        obstacle = await trio.to_thread.run_sync(_obstacle, path)
        if obstacle:
            raise ScriptError(f"{named} cannot be run: {obstacle}; correct the key or the script.")
        environment = public_environment(os.environ) | variables
        try:
            code = await run_program(
                [str(path)], on_line=self.say, seconds=self.seconds, env=environment
            )
        except ScriptError as error:
            raise ScriptError(f"{named} has not succeeded: {error.message}") from error
        if code:
            how = f"with exit code {code}" if code > 0 else f"by signal {-code}"
            raise ScriptError(f"{named} ended {how}; see what it said.")


def _obstacle(path: Path) -> str:
    """Say why `path` is no script that can be run; "" when it is one."""
    if not path.is_absolute():
        return "its path is not absolute"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(mode):
        return "it is not a file"
    # Root may run what nobody may: a mode without an x says that it is not meant to be run.
    return "" if mode & 0o111 and os.access(path, os.X_OK) else "it is not executable"
