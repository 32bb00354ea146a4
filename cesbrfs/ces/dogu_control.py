"""Stop dogus during a restore, and start them again, with configured command lines.

The setting `command_runner` runs a command in a dogu's container; it succeeds only if the dogu is
running. `dogu_control` starts and stops a dogu, as ``docker {action} {dogu}`` does.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

import trio

from cesbrfs.errors import CesbrError, ScriptError, UsageError
from cesbrfs.util.environment import public_environment
from cesbrfs.util.process import run_program

_VOLUME_FILE: Final = re.compile(rb"var/lib/ces/([^/]+)/volumes/.+", re.DOTALL)
_PROBE: Final = "true"
"""The command that is run in a dogu to see whether it is running."""


def words_of(template: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Fill a command line: replace ``{name}`` by values; the word ``{command}`` is split."""
    words: list[str] = []
    for word in template:
        if word == "{command}" and "command" in values:  # it may have arguments
            words += shlex.split(values["command"])
            continue
        for name, value in values.items():
            word = word.replace(f"{{{name}}}", value)  # noqa: PLW2901 - built up in steps
        words.append(word)
    return tuple(words)


def dogus_of(paths: Iterable[bytes]) -> list[str]:
    """Return the dogus to whose volumes `paths`, relative to the instance's root, belong."""
    found = (_VOLUME_FILE.fullmatch(path) for path in paths)
    return sorted({os.fsdecode(match[1]) for match in found if match})


@dataclass(frozen=True, slots=True)
class DoguControl:
    """The configured command lines; each call may take `seconds`."""

    control: tuple[str, ...]
    runner: tuple[str, ...]
    seconds: float

    @property
    def can_probe(self) -> bool:
        """Whether it can be determined if a dogu is running."""
        return bool(self.runner)

    def require(self) -> None:
        """Raise UsageError if a command line is not configured."""
        for name, words, example in (
            ("dogu_control", self.control, "docker {action} {dogu}"),
            ("command_runner", self.runner, "docker exec -i {dogu} {command}"),
        ):
            if not words:
                raise UsageError(
                    f"--stop-dogu requires the setting '{name}'. Set it, for example to"
                    f" '{example}'."
                )

    async def running(self, dogus: Iterable[str]) -> list[str]:
        """Return those of `dogus` that are running."""
        return [dogu for dogu in dogus if await self._is_running(dogu)]

    async def _is_running(self, dogu: str) -> bool:
        values = {"dogu": dogu, "command": _PROBE, "consumer": dogu}
        return await self._run(words_of(self.runner, values)) == (0, "")

    async def act(self, action: Literal["start", "stop"], dogu: str) -> None:
        """Start or stop a dogu; ScriptError if that fails."""
        code, last = await self._run(words_of(self.control, {"action": action, "dogu": dogu}))
        if code:
            raise ScriptError(
                f"Cannot {action} the dogu {dogu}: exit code {code}{f' ({last})' if last else ''}."
                " Check the setting 'dogu_control'."
            )

    async def _run(self, words: Sequence[str]) -> tuple[int, str]:
        """Return the exit code and, if it is not 0, the last line of the output."""
        lines = [""]

        def keep(line: str) -> None:
            if line.strip():
                lines[0] = line.strip()

        code = await run_program(
            words, on_line=keep, seconds=self.seconds, env=public_environment(os.environ)
        )
        return code, lines[0] if code else ""


@asynccontextmanager
async def stopped(
    control: DoguControl, dogus: Sequence[str], notify: Callable[[str], None]
) -> AsyncIterator[None]:
    """Stop those of `dogus` that are running, and start them on exit, also after cancellation.

    `notify` is called before each step, and with failures to start if there is another error.
    Raises ScriptError if a dogu cannot be stopped or started.
    """
    control.require()
    running = await control.running(dogus)
    failed: list[CesbrError] = []
    try:
        for dogu in running:
            notify(f"Stopping dogu {dogu}.")
            await control.act("stop", dogu)
        for dogu in await control.running(running):
            raise ScriptError(
                f"The dogu {dogu} is still running after it was stopped. Check the setting"
                " 'dogu_control'."
            )
        yield
    finally:
        with trio.CancelScope(shield=True):
            for dogu in reversed(running):
                notify(f"Starting dogu {dogu}.")
                try:
                    await control.act("start", dogu)
                except CesbrError as error:
                    failed.append(error)
                    notify(error.message)
    if failed:
        raise failed[0]
