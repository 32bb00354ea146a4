"""Find the credentials for requests to S3 in restic's order; renew temporary ones.

1. the environment: ``AWS_ACCESS_KEY_ID`` or ``AWS_ACCESS_KEY``, ``AWS_SECRET_ACCESS_KEY`` or
   ``AWS_SECRET_KEY``, ``AWS_SESSION_TOKEN``; then ``MINIO_ROOT_USER``, ``MINIO_ROOT_PASSWORD``;
   then ``MINIO_ACCESS_KEY``, ``MINIO_SECRET_KEY``;
2. a profile of AWS's credentials file: ``AWS_SHARED_CREDENTIALS_FILE``, ``AWS_PROFILE``, in which
   ``credential_process`` takes precedence over keys;
3. an alias in the configuration of MinIO's client: ``MINIO_SHARED_CREDENTIALS_FILE``,
   ``MINIO_ALIAS``;
4. the role of a container, from the service that ``AWS_CONTAINER_CREDENTIALS_*`` name, or that of
   an EC2 instance, from its metadata service (IMDS).

Sources: minio-go's ``pkg/credentials``, which restic uses; Amazon's "Container credential provider"
and "Use the Instance Metadata Service".
"""

from __future__ import annotations

import configparser
import logging
import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import httpx2
import msgspec
import trio

from cesbrfs.errors import CesbrError, RepositoryDeniedError, RepositoryUnreachableError, UsageError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.http.client import is_loopback
from cesbrfs.repo.storage.options import option_is_true
from cesbrfs.repo.storage.s3.sigv4 import Credentials
from cesbrfs.util.environment import without_password
from cesbrfs.util.secret import Secret

_log = logging.getLogger(__name__)

METADATA: Final = "http://169.254.169.254"
"""Base URL of the instance metadata service (IMDS) of EC2."""
_CONTAINERS: Final = "http://169.254.170.2"
_ROLES: Final = "/latest/meta-data/iam/security-credentials/"
_ASSUMED: Final = "RESTIC_AWS_ASSUME_ROLE_ARN"
_TOKEN_SECONDS: Final = 1.0
"""Timeout of the request for a token. In a container it may fail although IMDS is accessible."""
_SECONDS: Final = 5.0
_PROCESS_SECONDS: Final = 30.0
_RENEWED_AT: Final = 0.8
"""Fraction of their lifetime after which credentials are renewed, as in minio-go."""
_AGAIN: Final = 10.0
"""Seconds until the next attempt to renew credentials that are still valid."""


class _Role(msgspec.Struct, rename="pascal"):
    """Credentials in the response of either service."""

    access_key_id: str
    secret_access_key: str
    token: str = ""
    expiration: datetime | None = None


class _Printed(msgspec.Struct, rename={"access_key_id": "AccessKeyId"}, kw_only=True):
    """The output of a ``credential_process``."""

    access_key_id: str
    secret_access_key: str = msgspec.field(name="SecretAccessKey")
    session_token: str = msgspec.field(name="SessionToken", default="")
    expiration: datetime | None = msgspec.field(name="Expiration", default=None)


class _MinioAlias(msgspec.Struct):
    access_key: str = msgspec.field(name="accessKey", default="")
    secret_key: str = msgspec.field(name="secretKey", default="")


class _MinioConfig(msgspec.Struct):
    aliases: dict[str, _MinioAlias] = {}
    hosts: dict[str, _MinioAlias] = {}


class CredentialsProvider:
    """Provides the credentials for signing the requests to a repository."""

    def __init__(self, access: Access, *, metadata: str = METADATA) -> None:
        """Use the configuration in `access`; `metadata` is the base URL of IMDS."""
        self._access: Final = access
        self._metadata: Final = metadata
        self._asking: Final = trio.Lock()
        self._current: Credentials | None = None
        self._renew_at = self._ends_at = -math.inf

    async def current(self) -> Credentials | None:
        """Return the credentials, renewed if necessary; None if requests are not to be signed.

        Raises RepositoryDeniedError if there are none, UsageError for an invalid configuration, and
        RepositoryUnreachableError if they have expired and cannot be renewed now.
        """
        if option_is_true(self._access, "s3.unsafe-anonymous-auth"):
            return None
        if time.time() >= self._renew_at:
            async with self._asking:  # one request for all waiting tasks
                if time.time() >= self._renew_at:
                    await self._renew()
        return self._current

    async def _renew(self) -> None:
        if self._access.environment.get(_ASSUMED):
            # The credentials found without it would be those of somebody else.
            raise _not_used(_ASSUMED, "assuming a role is not supported", self._access.display_url)
        written = _written(self._access)
        if written is not None:
            self._current, self._renew_at = written, math.inf
            return
        try:
            command = _profile_of(self._access.environment).get("credential_process", "")
            role = await (self._from_process(command) if command else self._role())
        except CesbrError as error:
            if time.time() < self._ends_at:
                _log.debug("Credentials not renewed: %s", error)
                self._renew_at = time.time() + _AGAIN
                return
            if self._current is None or isinstance(error, UsageError):
                raise
            raise RepositoryUnreachableError(
                f"The credentials for {self._access.display_url} have expired and cannot be"
                " renewed. Check the credentials service."
            ) from error
        now = time.time()
        self._ends_at = role.expiration.timestamp() if role.expiration else math.inf
        self._renew_at = now + _RENEWED_AT * (self._ends_at - now)
        secrets = (Secret(text.encode()) for text in (role.secret_access_key, role.token))
        self._current = Credentials(role.access_key_id, *secrets)

    async def _from_process(self, command: str) -> _Role:
        """Run a profile's ``credential_process`` and return the credentials that it prints."""
        why = "no response in time"
        with trio.move_on_after(_PROCESS_SECONDS):
            try:
                done = await trio.run_process(
                    shlex.split(command),
                    capture_stdout=True,
                    check=False,
                    env=without_password(os.environ),
                )
                printed = msgspec.json.decode(done.stdout, type=_Printed)
            except (OSError, ValueError, RecursionError) as error:
                # The command and its output may contain secrets, so neither is quoted.
                why = error.strerror or "" if isinstance(error, OSError) else "invalid output"
            else:
                if not done.returncode:
                    return _Role(
                        access_key_id=printed.access_key_id,
                        secret_access_key=printed.secret_access_key,
                        token=printed.session_token,
                        expiration=printed.expiration,
                    )
                why = f"exit code {done.returncode}"
        raise RepositoryDeniedError(
            f"The credential_process of {_name_of_profile(self._access.environment)} returned no"
            f" credentials for {self._access.display_url}: {why}. Run it by hand to see the error."
        )

    async def _role(self) -> _Role:
        environ, display_url = self._access.environment, self._access.display_url
        if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
            name, why = "AWS_WEB_IDENTITY_TOKEN_FILE", "web identity tokens are not supported"
            raise _not_used(name, why, display_url)
        container = _container(environ, display_url)
        if not container and environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"):
            name, why = "AWS_EC2_METADATA_SERVICE_ENDPOINT", "restic does not support it"
            raise _not_used(name, why, display_url)
        # Both services are accessed without a proxy.
        async with httpx2.AsyncClient(trust_env=False, timeout=None) as client:
            try:
                with trio.fail_after(_SECONDS):
                    if container:
                        answer = await client.get(container, headers=_authorization(environ))
                    else:
                        answer = await self._of_instance(client)
                answer.raise_for_status()
                return msgspec.json.decode(answer.content, type=_Role)
            except (httpx2.HTTPError, ValueError, RecursionError, trio.TooSlowError) as error:
                raise _none_given(self._access, container, error) from error

    async def _of_instance(self, client: httpx2.AsyncClient) -> httpx2.Response:
        """Request the role of the instance from IMDS, and then the credentials of the role."""
        headers = {}
        with trio.move_on_after(_TOKEN_SECONDS):
            token = await client.put(
                f"{self._metadata}/latest/api/token",
                headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
            )
            token.raise_for_status()
            headers = {"X-aws-ec2-metadata-token": token.text}
        roles = await client.get(self._metadata + _ROLES, headers=headers)
        role = roles.raise_for_status().text.partition("\n")[0]
        return await client.get(f"{self._metadata}{_ROLES}{role}", headers=headers)


def _written(access: Access) -> Credentials | None:
    """Return the credentials from the environment or a file; None if there are none."""
    environ = access.environment
    values = {
        "id": environ.get("AWS_ACCESS_KEY_ID") or environ.get("AWS_ACCESS_KEY") or "",
        "secret": environ.get("AWS_SECRET_ACCESS_KEY") or environ.get("AWS_SECRET_KEY") or "",
        "token": environ.get("AWS_SESSION_TOKEN", ""),
    }
    credentials = (
        _credentials(values, ("id", "secret", "token"))
        or _credentials(environ, ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", ""))
        or _credentials(environ, ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", ""))
    )
    if credentials is not None:
        return credentials
    profile = _profile_of(environ)
    if "credential_process" in profile:
        return None
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return _credentials(profile, names) or _of_minio_client(environ)


def _profile_of(environ: Mapping[str, str]) -> Mapping[str, str]:
    return _profile(*_file_and_profile(environ))


def _name_of_profile(environ: Mapping[str, str]) -> str:
    file, profile = _file_and_profile(environ)
    return f"profile {profile!r} in {file}"


def _of_minio_client(environ: Mapping[str, str]) -> Credentials | None:
    """Return the credentials of an alias in the configuration of MinIO's client ``mc``."""
    path = environ.get("MINIO_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.mc/config.json")
    try:
        with open(path, "rb") as file:
            config = msgspec.json.decode(file.read(), type=_MinioConfig)
    except (OSError, ValueError, RecursionError):  # as in minio-go, the next source is used
        return None
    aliases = config.aliases or config.hosts
    alias = aliases.get(environ.get("MINIO_ALIAS") or "s3")
    if alias is None:
        return None
    return _credentials({"id": alias.access_key, "secret": alias.secret_key}, ("id", "secret", ""))


def _file_and_profile(environ: Mapping[str, str]) -> tuple[str, str]:
    file = environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.aws/credentials")
    return file, environ.get("AWS_PROFILE") or "default"


def _credentials(values: Mapping[str, str], names: Sequence[str]) -> Credentials | None:
    key_id, secret, token = (values.get(name, "").strip() for name in names)
    if not key_id or not secret:
        return None
    return Credentials(key_id, Secret(secret.encode()), Secret(token.encode()))


def _profile(path: str, profile: str) -> Mapping[str, str]:
    """Return the settings of a profile in AWS's credentials file; empty if it is missing."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, configparser.Error) as error:
        # The error contains the line, which may be a secret: it is neither quoted nor chained.
        reason = error.strerror if isinstance(error, OSError) else "not an INI file"
        raise UsageError(f"Cannot read the credentials in {path}: {reason}.") from None
    return parser[profile] if parser.has_section(profile) else {}


def _container(environ: Mapping[str, str], display_url: str) -> str:
    """Return the URL of the container's credentials service; "" if none is configured."""
    if place := environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        return _CONTAINERS + place
    url = environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
    if url and not environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") and not is_loopback(url):
        raise UsageError(
            f"AWS_CONTAINER_CREDENTIALS_FULL_URI for {display_url} refers to another machine, but"
            " AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is not set. Set it, or correct the URI."
        )
    return url


def _authorization(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the authorization header for the container's service, from a token file or variable.

    The file is read each time.
    """
    token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
    if path := environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        try:
            with open(path, encoding="ascii") as file:
                token = file.read().strip()
        except (OSError, ValueError):
            raise UsageError(
                f"Cannot read {path}, the value of AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE. Correct"
                " it."
            ) from None
    return {"authorization": token} if token else {}


def _not_used(name: str, why: str, display_url: str) -> UsageError:
    return UsageError(
        f"{name} is set for {display_url}, but {why}. Unset it, or set AWS_ACCESS_KEY_ID,"
        " AWS_SECRET_ACCESS_KEY and, for temporary credentials, AWS_SESSION_TOKEN."
    )


def _none_given(access: Access, container: str, error: Exception) -> CesbrError:
    """Return the error if neither service provides credentials."""
    if container:
        status = error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else ""
        reason = f"HTTP {status}" if status else "invalid response or timeout"
        return RepositoryDeniedError(
            f"No credentials for {access.display_url}: the service of AWS_CONTAINER_CREDENTIALS_*"
            f" returned none ({reason}). Correct the variable, or set AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY."
        )
    file, profile = _file_and_profile(access.environment)
    return RepositoryDeniedError(
        f"No credentials for {access.display_url}. Set AWS_ACCESS_KEY_ID and"
        f" AWS_SECRET_ACCESS_KEY, add the profile {profile!r} to {file}, or assign a role to this"
        " EC2 instance."
    )
