"""Run the pre and post scripts of backups and restores.

The registry contains their absolute paths. A failing pre script aborts the backup or restore. A
post script runs only after success.
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
from cesbrfs.util.environment import public_environment
from cesbrfs.util.process import run_program

HookName = Literal["pre_backup", "post_backup", "pre_restore", "post_restore"]

DEFAULT_SECONDS: Final = 3600.0
"""Default timeout of a script."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """The configured scripts; `paths` has None for a script that is not configured.

    `on_line` is called with each line of their output. Each script may run for `seconds`.
    """

    paths: Mapping[HookName, Path | None]
    on_line: Callable[[str], None]
    seconds: float = DEFAULT_SECONDS

    async def run(self, name: HookName, **variables: str) -> None:
        """Run the script `name`, if configured, with `variables` added to its environment.

        Raises ScriptError, which names the script and its registry key, if it cannot be started,
        fails or times out.
        """
        path = self.paths.get(name)
        if path is None:
            return
        script = f"{path} (/config/backup/{name}_script)"
        reason = await trio.to_thread.run_sync(_why_not_executable, path)
        if reason:
            raise ScriptError(f"Cannot run {script}: {reason}. Correct the key or the script.")
        environment = public_environment(os.environ) | variables
        try:
            code = await run_program(
                [str(path)], on_line=self.on_line, seconds=self.seconds, env=environment
            )
        except ScriptError as error:
            raise ScriptError(f"Script {script} failed: {error.message}") from error
        if code:
            failure = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            raise ScriptError(f"Script {script} failed: {failure}. Check its output.")


def _why_not_executable(path: Path) -> str:
    """Return why `path` cannot be run as a script; "" if it can."""
    if not path.is_absolute():
        return "the path is not absolute"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(mode):
        return "not a regular file"
    # access(2) may succeed for root even without any x bit, so the mode is checked as well.
    return "" if mode & 0o111 and os.access(path, os.X_OK) else "not executable"
