"""Check the settings, and the permissions of files that contain secrets."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from cesbr.doctor.finding import Finding, error, ok, warning
from cesbr.ui import humanize
from cesbrfs.config.layers import Flags
from cesbrfs.config.settings import Settings, load, require_root
from cesbrfs.config.validation import Validation, validate
from cesbrfs.errors import UsageError
from cesbrfs.util.secret import redact

CHECK: Final = "settings"
SECRETS: Final = "secrets"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_SECRET_VARIABLES: Final = (
    "AWS_SHARED_CREDENTIALS_FILE", "MINIO_SHARED_CREDENTIALS_FILE", "RESTIC_TLS_CLIENT_CERT",
)  # fmt: skip
"""Variables with the path of a file that contains a secret."""


def check_settings(flags: Flags, environ: Mapping[str, str]) -> tuple[Finding, Settings | None]:
    """Check all settings; return them too, unless they cannot be used."""
    found = validate(flags, environ)
    action = "Run 'cesbr config check' for the details"
    if found.problems:
        first = found.problems[0].message
        more = len(found.problems) - 1
        rest = f" ({humanize.count(more, 'more error')})" if more else ""
        return error(CHECK, first.rstrip(".") + rest, action), None
    settings = load(flags, environ)
    try:
        require_root(settings)
    except UsageError as problem:
        return error(CHECK, problem.message, ""), None
    if found.unknown:
        return warning(CHECK, found.unknown[0].message, action), settings
    return ok(CHECK, _summary(found)), settings


def _summary(found: Validation) -> str:
    text = f"{found.file} is valid" if found.file else "no settings file, which is not an error"
    if found.ignored:
        text += f"; {', '.join(map(str, found.ignored))} is ignored"
    if found.overridden:
        text += f"; {humanize.count(len(found.overridden), 'value')} overridden"
    return text


def check_secrets(settings: Settings, environ: Mapping[str, str]) -> Finding:
    """Check that files with secrets exist, and that other users cannot read them."""
    files = sorted(set(_secret_files(settings, environ)))
    for file in files:
        try:
            mode = file.stat().st_mode
        except OSError as problem:
            return error(
                SECRETS, f"{file} cannot be read: {problem.strerror}", "Correct its path or owner"
            )
        if not os.access(file, os.R_OK):
            return error(SECRETS, f"{file} cannot be read", "Run this command as its owner")
        if stat.S_ISREG(mode) and mode & _OTHERS:
            return warning(
                SECRETS,
                f"{file} has mode {stat.S_IMODE(mode):04o}, so other users may have access to it",
                f"Run 'chmod 600 {shlex.quote(str(file))}'",
            )
    if not files:
        return ok(SECRETS, "no file with secrets is configured")
    return ok(SECRETS, f"only their owner can read {', '.join(map(str, files))}")


def _secret_files(settings: Settings, environ: Mapping[str, str]) -> Iterator[Path]:
    if settings.password and settings.password.file:
        yield settings.password.file
    if settings.private_key:
        yield settings.private_key
    for name in _SECRET_VARIABLES:
        if os.path.isfile(value := environ.get(name, "")):
            yield Path(value).absolute()
    file = settings.config_file
    if file is None:
        return
    from_file = f"file {file}"
    in_address = any(
        address is not None
        and redact(address) != address
        and settings.sources.get(name) == from_file
        for name, address in (("repository", settings.repository), ("registry", settings.registry))
    )
    command = settings.password is not None and settings.password.command is not None
    if in_address or (command and settings.sources.get("password") == from_file):
        yield file
