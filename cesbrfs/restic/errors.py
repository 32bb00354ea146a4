"""Classify failures of restic by exit code, or by stderr for versions without codes.

The messages are those of 0.14.0, 0.18.0 and 0.19.1. A repository counts as missing only if restic
reports that its config was *not found*: before 0.17, restic also prints "Is there a repository at
the following location?" if access is denied or the connection is lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from cesbrfs.errors import (
    NO_BUCKET,
    NO_REPOSITORY,
    TIMED_OUT,
    UNREACHABLE,
    WRONG_KEY,
    BucketMissingError,
    CesbrError,
    InterruptedByUserError,
    RepositoryDamagedError,
    RepositoryDeniedError,
    RepositoryLockedError,
    RepositoryMissingError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    ResticError,
    StorageError,
    UsageError,
    WrongKeyError,
)
from cesbrfs.restic.binary import Version
from cesbrfs.restic.events import ExitError, parse_event, plain

_CODES_10_11: Final = Version(0, 17, 0)
_CODE_12: Final = Version(0, 17, 1)
_INTERRUPTED: Final = 130

_NOT_FOUND: Final = re.compile(
    r"unable to open config file: (?:"
    r"l?stat .*: no such file or directory"  # local
    r"|(?:l?stat.*: )?file does not exist"  # sftp
    r"|<config/> does not exist"  # rest, rclone
    r"|(?:Stat: )?The specified key does not exist\.?"  # s3
    r")$",
    re.MULTILINE | re.IGNORECASE,
)
_DENIED: Final = re.compile(
    r"permission denied|operation not permitted|access ?denied|read-only file system"
    r"|HTTP response \(40[137]\)|\b40[13] (?:Unauthorized|Forbidden)"
    r"|SignatureDoesNotMatch|request signature we calculated does not match"
    r"|InvalidAccessKeyId|access key id you provided does not exist"
    r"|provided token (?:has expired|is malformed)|no credentials found"
    r"|remote error: tls: (?:\w+ )?certificate",
    re.IGNORECASE,
)
_UNTRUSTED: Final = re.compile(
    r"Host key verification failed|No \S+ host key is known for|x509: |failed to verify certificate"
)
_NO_BUCKET: Final = re.compile(r"The specified bucket does not exist", re.IGNORECASE)
_WRONG_KEY: Final = re.compile(r"wrong password or no key found|maximum number of keys reached")
_LOCKED: Final = re.compile(r"repository is already locked(?: exclusively)?(?: (by PID [^\n]*))?")
_BAD_LOCK: Final = re.compile(
    r"invalid lock file|unable to create lock in backend: (?:\S+: )?(?:ciphertext verification"
    r"|invalid data|invalid character|unexpected end of JSON|.*(?:too short|is damaged|Unmarshal))"
)
_NO_KEY: Final = re.compile(r"an empty password is not|an empty password is not allowed")
_DAMAGED: Final = re.compile(
    r"config or key \S+ is damaged|config file has zero size|ciphertext verification failed"
    r"|LoadRaw\(<key/.*invalid data returned|Unmarshal: invalid character"
    r"|invalid data returned|repository contains errors|unsupported repository version"
    r"|config cannot be loaded: (?:invalid|unexpected end of JSON)"
)
_EXISTS: Final = re.compile(r"config file already exists|repository already contains keys")
_FULL: Final = re.compile(r"no space left on device|disk quota exceeded|507 Insufficient Storage")
_BAD_ADDRESS: Final = re.compile(
    r"parsing repository location failed|invalid backend|Bucket name cannot|invalid bucket name",
    re.IGNORECASE,
)
_TIMED_OUT: Final = re.compile(r"timed out|handshake timeout|i/o timeout", re.IGNORECASE)
_UNREACHABLE: Final = re.compile(
    r"unable to open (?:config file|repository at)|create repository at .* failed"
    r"|connection re(?:fused|set)|no such host|timed? ?out|network is unreachable|no route to host"
    r"|unable to start the sftp session|HTTP response \(5\d\d\)|not a directory"
    r"|connection lost|broken pipe|unexpected EOF|transport endpoint|input/output error",
    re.IGNORECASE,
)

_RETRY: Final = re.compile(r"returned error, retrying after [^:]*: (.*)")
_SUBPROCESS: Final = re.compile(r"(?:subprocess [^:]+|rclone): (.*)")
_NOISE: Final = re.compile(
    r"unable to open cache|signal \S+ received|\S*context canceled|Is there a repository at"
    r"|If the repository is in a local directory|using temporary cache|.*/\S+\.go:\d+$"
    r"|[\w./()*-]+\.[\w.()*]+$|lock was created at|storage ID|the `unlock` command"
    r"|repo already locked, waiting"
)
_FRAME: Final = re.compile(
    r"^(?:Fatal: |repository does not exist: |unable to open config file: |config cannot be loaded:"
    r" |unable to open repository at .*?: (?=[a-zA-Z/])|create repository at .*? failed: )"
)

_REASON_CHARACTERS: Final = 300
"""Maximum number of characters of restic's text in a message."""


_MISSING_FILE: Final = re.compile(r"no such file or directory|does not exist|\b404\b")


def retry_reason(text: str) -> str | None:
    """Return the reason in a line about a retry; None for other lines."""
    match = _RETRY.search(text)
    return match[1] if match else None


def is_hopeless(reason: str) -> bool:
    """Return whether a retry would fail again for `reason`."""
    known = (_DENIED, _UNTRUSTED, _NO_BUCKET, _BAD_ADDRESS)
    return "not a dir" in reason or any(pattern.search(reason) for pattern in known)


def is_missing_file(reason: str) -> bool:
    """Return whether a file that does not exist is the `reason` of a retry."""
    return _MISSING_FILE.search(reason) is not None


def failure_text(stderr: str) -> str:
    """Return the lines of `stderr` that contain the reasons of a failure.

    Non-fatal messages, for example about restic's cache, would be misleading. If there are fatal
    messages, only these and the messages of ssh or rclone are returned.
    """
    fatal: list[str] = []
    helpers: list[str] = []
    others: list[str] = []
    retries: list[str] = []
    for raw in stderr.splitlines():
        line = raw.strip()
        event = parse_event(line.encode())
        if isinstance(event, ExitError):
            fatal += [part for part in event.message.splitlines() if not _NOISE.match(part)]
        elif event is not None or not line or "context canceled" in line:
            continue
        elif line.startswith("Fatal: "):
            fatal.append(line)
        elif match := _SUBPROCESS.match(line):
            helpers.append(match[1])
        elif reason := retry_reason(line):
            retries.append(reason)
        elif not _NOISE.match(line):
            others.append(line)
    return "\n".join(helpers + (fatal or others[-20:] + retries[-1:]))


def _reason_in(text: str) -> str:
    """Return restic's reason in one line, without its prefixes."""
    lines = text.splitlines()
    reason = next((line for line in reversed(lines) if line.startswith("Fatal: ")), "")
    reason = reason or (lines[-1] if lines else "")
    if lines and "sftp session" in reason:
        reason = lines[0]  # the message of ssh; restic reports only that ssh has exited
    while (shorter := _FRAME.sub("", reason, count=1)) != reason:
        reason = shorter
    return reason[:_REASON_CHARACTERS].rstrip(".") or "no reason given"


def classify(version: Version, exit_code: int, stderr_text: str, url_shown: str) -> CesbrError:
    """Return the error for a failed restic of `version`.

    `stderr_text` is its stderr without secrets. `url_shown` is the repository address for the
    message.
    """
    text = failure_text("\n".join(plain(line.encode()) for line in stderr_text.splitlines()))
    if version >= _CODES_10_11 and exit_code in _BY_CODE_10_11:
        return _BY_CODE_10_11[exit_code](url_shown, text)
    if version >= _CODE_12 and exit_code == WrongKeyError.exit_code:
        return _wrong_key(url_shown, text)
    if exit_code == _INTERRUPTED:
        return InterruptedByUserError("restic was interrupted and exited cleanly.")
    if exit_code < 0:
        return ResticError(
            f"restic was killed by signal {-exit_code} while it used {url_shown}. If the system"
            " ran out of memory, its log reports that."
        )
    for pattern, make in _BY_TEXT:
        if pattern.search(text):
            return make(url_shown, text)
    return ResticError(
        f"restic failed for {url_shown} (exit code {exit_code}): {_reason_in(text)}."
    )


def _missing(url: str, _text: str) -> CesbrError:
    return RepositoryMissingError(NO_REPOSITORY.format(display_url=url))


def _wrong_key(url: str, _text: str) -> CesbrError:
    return WrongKeyError(WRONG_KEY.format(display_url=url))


def _locked(url: str, text: str) -> CesbrError:
    match = _LOCKED.search(text)
    holder = f" {match[1]}" if match and match[1] else ""
    return RepositoryLockedError(
        f"The repository at {url} is locked{holder}. Wait until the lock is released, or remove a"
        " stale lock with 'cesbr unlock'."
    )


def _bad_lock(url: str, text: str) -> CesbrError:
    return RepositoryLockedError(
        f"The repository at {url} has an unreadable lock file: {_reason_in(text)}. Make sure that"
        " no other process uses it, then run 'cesbr unlock --remove-all'."
    )


def _no_key(url: str, _text: str) -> CesbrError:
    return UsageError(f"The encryption key for {url} is empty. Set the key of the repository.")


def _damaged(url: str, text: str) -> CesbrError:
    return RepositoryDamagedError(
        f"The repository at {url} is damaged: {_reason_in(text)}. Run 'cesbr check', and restore"
        " damaged files from a copy of the repository."
    )


def _exists(url: str, _text: str) -> CesbrError:
    return ResticError(f"The repository at {url} already exists. It was left unchanged.")


def _full(url: str, _text: str) -> CesbrError:
    return StorageError(
        f"The storage of the repository at {url} is full. Free some space and try again."
    )


def _denied(url: str, text: str) -> CesbrError:
    return RepositoryDeniedError(
        f"Access to the repository at {url} denied: {_reason_in(text)}. Check the credentials and"
        " permissions."
    )


def _untrusted(url: str, text: str) -> CesbrError:
    return RepositoryUntrustedError(
        f"Certificate or host key verification failed for {url}: {_reason_in(text)}. Set"
        " RESTIC_CACERT to the CA certificate of the server, or add its host key to known_hosts."
    )


def _no_bucket(url: str, _text: str) -> CesbrError:
    return BucketMissingError(NO_BUCKET.format(display_url=url))


def _bad_address(url: str, text: str) -> CesbrError:
    return UsageError(f"Invalid repository address {url}: {_reason_in(text)}. Correct it.")


def _timed_out(url: str, text: str) -> CesbrError:
    return RepositoryTimedOutError(TIMED_OUT.format(display_url=url, reason=_reason_in(text)))


def _unreachable(url: str, text: str) -> CesbrError:
    return RepositoryUnreachableError(UNREACHABLE.format(display_url=url, reason=_reason_in(text)))


_Make = Callable[[str, str], CesbrError]

_BY_CODE_10_11: Final[dict[int, _Make]] = {
    RepositoryMissingError.exit_code: _missing,
    RepositoryLockedError.exit_code: _locked,
}

_BY_TEXT: Final[tuple[tuple[re.Pattern[str], _Make], ...]] = (
    (_WRONG_KEY, _wrong_key),
    (_LOCKED, _locked),
    (_BAD_LOCK, _bad_lock),
    (_NO_KEY, _no_key),
    (_DAMAGED, _damaged),
    (_EXISTS, _exists),
    (_FULL, _full),
    (_UNTRUSTED, _untrusted),
    (_DENIED, _denied),
    (_NO_BUCKET, _no_bucket),
    (_NOT_FOUND, _missing),
    (_BAD_ADDRESS, _bad_address),
    (_TIMED_OUT, _timed_out),
    (_UNREACHABLE, _unreachable),
)
"""The first match applies. Denied access precedes "not found", so it never counts as missing."""
