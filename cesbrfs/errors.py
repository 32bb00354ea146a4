"""The exceptions of the project: each class carries its exit code and its errno.

A message is one sentence: what happened, to what, and what to do about it. It never contains a
secret. The exit codes are restic's (0 ok, 1 error, 2 usage, 3 partial, 10 no repository, 11 locked,
12 wrong key, 130 interrupted); the errno is what readers of the mount get.
"""

from __future__ import annotations

import errno
from typing import Final, TypeVar

UNREACHABLE: Final = (
    "The repository at {display_url} cannot be reached: {reason}. Check the address and the"
    " connection."
)
"""Message templates of failures that both our reader and restic report; for `str.format`."""
TIMED_OUT: Final = (
    "Connection to the server of {display_url} timed out: {reason}. Check the address and the"
    " connection."
)
NO_RESPONSE: Final = (
    "No response from the server of {display_url} within {seconds:g} s. Check the address and the"
    " connection."
)
UNKNOWN_HOST: Final = (
    "Cannot resolve the host of {display_url}: {reason}. Check the address and the name server."
)
NO_REPOSITORY: Final = (
    "There is no repository at {display_url}. Create it with 'cesbr init', or correct the address."
)
NO_BUCKET: Final = (
    "The bucket of {display_url} does not exist. Correct the address, or create the bucket and the"
    " repository with 'cesbr init'."
)
WRONG_KEY: Final = (
    "Wrong encryption key for the repository at {display_url}. Use the key it was created with."
)


class CesbrError(Exception):
    """Base class of all errors that are reported to the user in one sentence."""

    exit_code: int = 1
    errno: int = errno.EIO

    @property
    def message(self) -> str:
        """The sentence for the user."""
        return str(self.args[0]) if self.args else type(self).__name__


_E = TypeVar("_E", bound=Exception)


def fresh_copy(error: _E) -> _E:
    """Return a new exception with the type and arguments of `error`.

    Raise a copy where several tasks raise one stored error: raising the same object in many tasks
    chains their tracebacks.
    """
    return type(error)(*error.args)


class UsageError(CesbrError):
    """The command line or a setting cannot be used as given."""

    exit_code = 2
    errno = errno.EINVAL


class NotFoundError(CesbrError):
    """A backup, path or snapshot that was asked for does not exist."""

    errno = errno.ENOENT


class NotDirectoryError(CesbrError):
    """A path goes through something that is not a directory."""

    errno = errno.ENOTDIR


class IsDirectoryError(CesbrError):
    """A directory stands where a file was asked for."""

    errno = errno.EISDIR


class PartialError(CesbrError):
    """The work was done, but not for everything that was asked for."""

    exit_code = 3


class InterruptedByUserError(CesbrError):
    """The user stopped the command; what it had begun was ended cleanly."""

    exit_code = 130
    errno = errno.EINTR


class RepositoryError(CesbrError):
    """The repository cannot be used."""


class RepositoryMissingError(RepositoryError):
    """There is no repository at the configured address, and nothing that could have been one.

    Its errno is EIO: rsync takes ENOENT for a directory that was deleted, and deletes its copy.
    """

    exit_code = 10


class RepositoryGoneError(RepositoryMissingError):
    """The repository was there when it was opened, and its storage holds no repository now."""


class BucketMissingError(RepositoryMissingError):
    """Not even the bucket is there that would hold the repository: the address may be wrong."""


class RepositoryLockedError(RepositoryError):
    """Another process holds a lock that the command would need."""

    exit_code = 11
    errno = errno.EBUSY


class WrongKeyError(RepositoryError):
    """The repository is there, but the configured encryption key does not open it."""

    exit_code = 12
    errno = errno.EACCES


class RepositoryDamagedError(RepositoryError):
    """The repository lost a part that nothing may put back blindly, such as its config."""


class RepositoryDeniedError(RepositoryError):
    """The storage refuses access to the repository."""

    errno = errno.EACCES


class RepositoryUntrustedError(RepositoryError):
    """The storage cannot prove who it is: its certificate or its host key is not trusted."""

    errno = errno.EACCES


class RepositoryUnreachableError(RepositoryError):
    """The storage does not answer now; the same request may succeed later."""


class RepositoryTimedOutError(RepositoryUnreachableError):
    """The storage did not answer in time."""

    errno = errno.ETIMEDOUT


class DamagedError(RepositoryError):
    """A file of the repository does not hold what its name, its MAC or its format promise."""


class BlobMissingError(RepositoryError):
    """No index names the blob, or no pack that should hold it does."""


class StorageError(RepositoryError):
    """The storage failed on one file."""


class FileMissingError(StorageError):
    """A file of the repository does not exist (any more)."""


class ResticError(CesbrError):
    """The restic binary is missing, too old, or failed for another reason."""


class BackupRunningError(CesbrError):
    """Another backup of this instance is running."""

    exit_code = 11
    errno = errno.EBUSY


class SuspendedError(CesbrError):
    """The instance's configuration suspends backups and restores."""


class RegistryError(CesbrError):
    """The registry cannot be read or written."""


class RegistryUnreachableError(RegistryError):
    """The registry does not answer now; the same request may succeed later."""


class DoguError(CesbrError):
    """A dogu.json does not hold what its format promises."""


class ScriptError(CesbrError):
    """A program of the administrator's is not there, failed, or took too long."""


class HealthError(CesbrError):
    """A dogu is not well, so that its backup might not be worth much."""


class BlueprintError(CesbrError):
    """A backup is of another blueprint than the instance, which denies restoring it."""


class MountError(CesbrError):
    """The mount cannot be made or ended."""


class RestoreError(CesbrError):
    """A file, or the whole target, cannot be written by a restore."""


class RestoreRunningError(RestoreError):
    """Another restore into the same target is running."""

    exit_code = 11
    errno = errno.EBUSY
