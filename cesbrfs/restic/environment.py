"""Build the environment of a restic process, and pass the key to it through a descriptor."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import Access, kind_of
from cesbrfs.repo.storage.sftp.location import command_option, parse_sftp, ssh_command
from cesbrfs.util.secret import Secret

_INHERITED: Final = re.compile(
    "PATH|HOME|USER|LOGNAME|TMPDIR|TZ|XDG_.*|SSH_(AUTH_SOCK|AGENT_PID)|KRB5.*"
    "|SSL_CERT_(FILE|DIR)|GO(GC|MAXPROCS|MEMLIMIT|DEBUG)|RESTIC_CACHE_DIR"
    "|(?i:(HTTPS?|ALL|NO|FTP)_PROXY)"
)
"""Variables that restic processes inherit.

All others are removed, above all the RESTIC_* variables of a user who also runs restic by hand:
they could select another repository or another key, or hide snapshots (RESTIC_HOST).
"""

_OURS: Final = re.compile(
    "RESTIC_(FROM_)?(REPOSITORY|PASSWORD)(_FILE|_COMMAND)?|RESTIC_HOST|RESTIC_PROGRESS_FPS"
)
"""Variables that only the driver sets."""

_FLAGS: Final = {"RESTIC_CACERT": "--cacert", "RESTIC_TLS_CLIENT_CERT": "--tls-client-cert"}
"""Variables that 0.14 supports only as flags; they contain paths, not secrets."""

_PROGRESS_A_SECOND: Final = "2"
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")
_PIPE_BYTES: Final = 4096
"""Number of bytes that fit into any pipe without a reader."""


def inherited(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that restic inherits, with the locale C for English messages."""
    given = os.environ if environ is None else environ
    kept = {name: value for name, value in given.items() if _INHERITED.fullmatch(name)}
    return kept | {"LC_ALL": "C"}


def repository_address(access: Access, *, knows_rest_variables: bool) -> str:
    """Return the repository address in the form that this version of restic supports.

    Versions before 0.16.1 ignore RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD. For these, they are
    added to the address as user info, which all versions support.
    """
    user = access.environment.get("RESTIC_REST_USERNAME", "")
    password = access.environment.get("RESTIC_REST_PASSWORD", "")
    match = re.fullmatch(r"(rest:https?://)([^@/]*/.*|[^@/]*)", access.url)
    if knows_rest_variables or not match or not (user or password):
        return access.url
    return f"{match[1]}{quote(user, safe='')}:{quote(password, safe='')}@{match[2]}"


def environment(
    access: Access, *, cache_dir: Path | None = None, knows_rest_variables: bool = True
) -> dict[str, str]:
    """Return the environment of a restic process for `access`, without the key.

    The address is a variable because it may contain a password: any user can read a command line.
    """
    env = inherited()
    env |= {name: value for name, value in access.environment.items() if not _OURS.fullmatch(name)}
    env["RESTIC_REPOSITORY"] = repository_address(access, knows_rest_variables=knows_rest_variables)
    env["RESTIC_PROGRESS_FPS"] = _PROGRESS_A_SECOND
    if cache_dir is not None:
        env["RESTIC_CACHE_DIR"] = str(cache_dir)
    return env


def flags(access: Access, *, knows_anonymous: bool = True) -> list[str]:
    """Return the global flags for `access`: its options, and settings that 0.14 has only as flags.

    Versions before 0.17 do not support the option for anonymous requests, but send such requests if
    there are no credentials. Raises UsageError for invalid options.
    """
    arguments = [
        part
        for name, flag in _FLAGS.items()
        if (value := access.environment.get(name))
        for part in (flag, value)
    ]
    options = _known_options(access)
    if not knows_anonymous:
        options.pop("s3.unsafe-anonymous-auth", None)
    for name, value in options.items():
        arguments += ["--option", _as_csv(f"{name}={value}")]
    return arguments


def _known_options(access: Access) -> dict[str, str]:
    """Return the options of `access` in a form that 0.14 supports, which lacks ``sftp.args``."""
    options = dict(access.options)
    if kind_of(access.url) == "sftp" and (args := options.pop("sftp.args", "")):
        address = parse_sftp(access.url)
        ssh_command(address, access.options)  # raises UsageError if the options are invalid
        options["sftp.command"] = command_option(address, args)
    return options


def _as_csv(text: str) -> str:
    """Quote a value of ``--option``, which restic parses as a line of CSV."""
    if not re.search('[",\n\r]', text):
        return text
    return '"' + text.replace('"', '""') + '"'


def has_usable_cache(env: Mapping[str, str]) -> bool:
    """Return whether restic's cache is writable; if not, 0.19 fails and older versions warn."""
    if value := env.get("RESTIC_CACHE_DIR"):
        directory = Path(value)
    elif value := env.get("XDG_CACHE_HOME"):
        directory = Path(value, "restic")
    elif value := env.get("HOME"):
        directory = Path(value, ".cache", "restic")
    else:
        return False
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.R_OK | os.W_OK | os.X_OK)


def is_read_exactly(key: bytes) -> bool:
    """Return whether restic would read `key` from a file unchanged.

    restic strips Unicode white space, removes a byte order mark, and decodes UTF-16.
    """
    text = key.decode("utf-8", "surrogateescape")
    return text == text.strip() and not key.startswith(_BYTE_ORDER_MARKS)


@contextmanager
def _filled_pipe(data: bytes) -> Iterator[int]:
    """Yield the end of a pipe from which `data`, at most _PIPE_BYTES, can be read."""
    reader, writer = os.pipe()
    try:
        try:
            os.write(writer, data)
        finally:
            os.close(writer)
        yield reader
    finally:
        os.close(reader)


@contextmanager
def passed_key(key: Secret) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Yield the variables and descriptors that pass `key` to a child, byte for byte.

    The descriptor is a pipe, which is empty once restic has read it, so that the programs that
    restic starts (ssh, rclone) cannot read the key. A key that restic would change when it reads it
    from a file, or that is too long for a pipe, is passed in the environment. Raises UsageError for
    an empty key, and for one that cannot be passed in either way.
    """
    value = key.value
    if not value:
        raise UsageError(
            "The encryption key is empty. Set it with --password-file, RESTIC_PASSWORD or the"
            " registry's /config/backup/encryption_key."
        )
    if not is_read_exactly(value) or len(value) > _PIPE_BYTES:
        if b"\0" in value:
            raise UsageError(
                "The encryption key cannot be passed to restic: it contains a null byte, and"
                " restic cannot read it from a pipe unchanged. Use another key."
            )
        yield {"RESTIC_PASSWORD": os.fsdecode(value)}, ()
        return
    with _filled_pipe(value) as reader:
        yield {"RESTIC_PASSWORD_FILE": f"/dev/fd/{reader}"}, (reader,)


@contextmanager
def passed_new_key(key: Secret) -> Iterator[int]:
    """Yield a pipe from which restic reads a new key; UsageError if it would change the key."""
    if not key or not is_read_exactly(key.value) or len(key.value) > _PIPE_BYTES:
        raise UsageError(
            "restic cannot read this password from a file unchanged: it is empty, too long, or"
            " begins or ends with white space. Choose another password."
        )
    with _filled_pipe(key.value) as reader:
        yield reader


@contextmanager
def passed_source(access: Access, url: str) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Yield the variables and descriptors for the source repository of a copy, at `url`.

    Its storage gets the same variables as the target, because restic has one environment.
    """
    with passed_key(access.key) as (variables, key_fds):
        passed = {name.replace("RESTIC_", "RESTIC_FROM_", 1): v for name, v in variables.items()}
        passed["RESTIC_FROM_REPOSITORY"] = url
        if access.key_hint:
            passed["RESTIC_FROM_KEY_HINT"] = access.key_hint
        yield passed, key_fds


@contextmanager
def passed_bytes(data: bytes) -> Iterator[int]:
    """Yield a descriptor of an in-memory file that contains `data`, positioned at its start."""
    descriptor = os.memfd_create("cesbrfs")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
