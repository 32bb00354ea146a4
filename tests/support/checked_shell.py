"""Run commands in one session, as if stdout were a terminal, and look for control characters."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Final

from cesbr.cli.arguments import command_parser
from cesbr.commands import find_command
from cesbr.portal import Portal
from cesbr.runner import close, run_command
from cesbr.session import Session
from cesbr.ui.output import Output
from typing_extensions import Buffer

from cesbrfs.config.settings import Flags

CONTROL: Final = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200c\u200e\u200f\u2028-\u202e\ufeff]"
)
"""Characters that control a terminal, or change the order of what it shows; not line feed."""
_KEPT_BYTES: Final = 1 << 20


class _Kept(io.RawIOBase):
    """Keeps the beginning of what is written, and counts the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.beginning = b""
        self.written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        part = bytes(data)
        self.beginning += part[: max(_KEPT_BYTES - len(self.beginning), 0)]
        self.written += len(part)
        return len(part)


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


class CheckedShell:
    """Commands on the repository in `root`, whose key is in the file ``key`` there."""

    def __init__(self, root: Path, repository: Path, restic: Path) -> None:
        flags = Flags(
            repository=str(repository),
            password_file=str(root / "key"),
            root=str(root / "instance"),
            registry=str(root / "registry"),
            cache_dir=str(root / "cache"),
        )
        (root / "state").mkdir(exist_ok=True)
        environ = {
            "HOME": str(root),
            "XDG_STATE_HOME": str(root / "state"),
            "NO_COLOR": "1",
            "CESBR_RESTIC": str(restic),
        }
        self.session = Session(flags, environ=environ)
        self.portal: Final = Portal()

    def __call__(self, name: str, *given: str, quiet: bool = False) -> tuple[int, str, str]:
        """Run one command; return its exit code, the beginning of stdout, and stderr."""
        command = find_command(name)
        kept = _Kept()
        stdout = _Terminal(io.BufferedWriter(kept), encoding="utf-8", newline="\n")
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            arguments = command_parser(command).parse_intermixed_args(list(given))
            out = Output(stdout, as_json="json" in arguments, quiet=quiet)
            code = run_command(command, arguments, self.session, self.portal, out)
        stdout.flush()
        return code, kept.beginning.decode("utf-8", "replace"), stderr.getvalue()

    def close(self) -> None:
        """End the session."""
        close(self.session, self.portal)
