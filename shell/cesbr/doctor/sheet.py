"""The emergency sheet: what is needed to restore without this machine.

Contains the values of secrets only on request.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cesbr.ui import humanize
from cesbrfs import __version__
from cesbrfs.ces.repository_config import ENCRYPTION_KEY
from cesbrfs.config.settings import Settings
from cesbrfs.repo.location import kind_of, local_directory
from cesbrfs.restic import OLDEST
from cesbrfs.util.mountinfo import mounts
from cesbrfs.util.secret import Secret, redact

_BACKEND_VARIABLES: Final[Mapping[str, str]] = {
    "local": "", "sftp": "", "s3": "AWS_|MINIO_", "rest": "RESTIC_REST_", "b2": "B2_",
    "azure": "AZURE_", "gs": "GOOGLE_", "swift": "OS_|ST_",
}  # fmt: skip
"""Patterns of the variables with credentials, by kind of storage; rclone may use any."""
_ALWAYS: Final = "RESTIC_(CACERT|TLS_CLIENT_CERT|KEY_HINT)$"
_TARGET: Final = "/srv/restored"
_KEY_FILE: Final = "/root/ces.key"
_SEPARATE: Final = "The key is not on this sheet. Store a copy of it outside of this machine."


@dataclass(frozen=True, slots=True)
class Sheet:
    """The content of the emergency sheet; `key` is None unless it was asked for."""

    address: str
    backend: str
    disk: str | None
    variables: tuple[str, ...]
    options: tuple[str, ...]
    key_source: str
    key: Secret | None

    def json(self) -> dict[str, object]:
        """Return the sheet for programs, the text included."""
        return {
            "repository": self.address,
            "backend": self.backend,
            "disk": self.disk,
            "variables": list(self.variables),
            "options": list(self.options),
            "key_source": self.key_source,
            "key": os.fsdecode(self.key.value) if self.key else None,
            "restic": list(self._restic()),
            "cesbr": list(self._cesbr()),
        }

    def text(self) -> str:
        """Return the sheet as text to print."""
        lines = [
            f"Emergency sheet for the backups of {socket.gethostname()}",
            f"Made at {humanize.local_time(time.time_ns())} with cesbr {__version__}.",
            "",
            f"Needs:       restic {OLDEST} or newer; cesbr finds and restores single files",
            f"Repository:  {self.address}",
            f"Backend:     {self.backend}",
        ]
        if self.disk:
            lines.append(f"Disk:        {self.disk}")
        lines.append(f"Key from:    {self.key_source}")
        lines += self._key_lines()
        if self.variables:
            lines.append(f"Variables:   {', '.join(self.variables)} (note their values separately)")
        if self.options:
            lines.append(f"Options:     {', '.join(self.options)} (note their values separately)")
        if self.backend == "sftp":
            lines.append("SSH:         a private key for this server, and its line of known_hosts")
        for title, commands in (
            ("Settings, for restic and cesbr", self._exports()),
            ("With restic alone", self._restic()),
            ("With cesbr", self._cesbr()),
        ):
            lines += ["", title, *(f"  {command}" for command in commands)]
        return "\n".join(lines) + "\n"

    def _key_lines(self) -> list[str]:
        if self.key is not None:
            return [f"Key:         {quoted(self.key.value)} (quoted for a shell)"]
        lines = [f"             {_SEPARATE}"]
        if ENCRYPTION_KEY in self.key_source:
            lines.append("             'cesbr doctor --sheet --with-key' prints it in plain text.")
        return lines

    def _exports(self) -> Iterator[str]:
        yield f"export RESTIC_REPOSITORY={shlex.quote(self.address)}"
        if self.key is not None:
            yield f"export RESTIC_PASSWORD={quoted(self.key.value)}"
        else:
            yield f"export RESTIC_PASSWORD_FILE={_KEY_FILE}   # a file with the key"
        for name in self.variables:
            yield f"export {name}=..."

    def _restic(self) -> Iterator[str]:
        options = "".join(f" -o {name}=..." for name in self.options)
        yield f"restic{options} snapshots"
        yield f"restic{options} ls SNAPSHOT"
        yield f"restic{options} restore SNAPSHOT --target {_TARGET}"

    def _cesbr(self) -> Iterator[str]:
        yield "cesbr doctor"
        yield "cesbr backups"
        yield f"cesbr restore --backup latest --target {_TARGET}"
        yield "cesbr restore --backup latest --in-place   # on a new instance"
        yield "cesbr restore-registry --backup latest     # then its registry"


async def make_sheet(settings: Settings, *, with_key: bool) -> Sheet:
    """Return the sheet; UsageError if no repository, or no key to print, is configured.

    `settings` have what the registry adds. An address with a password is redacted unless
    `with_key`.
    """
    key = None
    if with_key or settings.repository is None:
        key = (await settings.access()).key
    assert settings.repository is not None, "access raises without an address"
    kind, directory = kind_of(settings.repository), local_directory(settings.repository)
    address = settings.repository if with_key else redact(settings.repository)
    return Sheet(
        address=address,
        backend=kind,
        disk=_disk(directory) if directory else None,
        variables=tuple(sorted(filter(_needed_for(kind), settings.environment))),
        options=tuple(sorted(settings.options)),
        key_source=_key_source(settings),
        key=key,
    )


def _needed_for(kind: str) -> Callable[[str], object]:
    """Return a predicate for the names of variables that this kind of storage needs."""
    if kind == "rclone":
        return bool
    own = _BACKEND_VARIABLES[kind]
    return re.compile(f"{own}|{_ALWAYS}" if own else _ALWAYS).match


def _key_source(settings: Settings) -> str:
    source = settings.sources.get("password")
    if settings.password is None or source is None:
        return "none is configured"
    if settings.password.file is not None:
        return f"{settings.password.file} ({source})"
    return source


def _disk(directory: str) -> str | None:
    """Return the file system that contains `directory`, such as ``/dev/sdb1 (ext4) on /mnt``."""
    real = os.path.realpath(directory)
    found = [
        each for each in mounts() if os.path.commonpath((real, each.mountpoint)) == each.mountpoint
    ]
    if not found:
        return None
    mounted = max(enumerate(found), key=lambda each: (len(each[1].mountpoint), each[0]))[1]
    return f"{mounted.source} ({mounted.fstype}), mounted on {mounted.mountpoint}"


def quoted(data: bytes) -> str:
    r"""Return `data` quoted for a shell; control characters and invalid UTF-8 as ``$'\xff'``."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if text.isprintable():
        return shlex.quote(text)
    plain = {byte: chr(byte) for byte in range(0x20, 0x7F)} | {0x27: r"\'", 0x5C: r"\\"}
    return "$'" + "".join(plain.get(byte, f"\\x{byte:02x}") for byte in data) + "'"
