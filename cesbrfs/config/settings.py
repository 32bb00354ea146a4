"""What is configured: flags, then the environment, a TOML file, the CES registry, defaults.

`load` reads all but the registry and touches no network; `Settings.resolve` adds what the registry
knows, `Settings.access` obtains the encryption key.  Each value remembers where it came from.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbrfs.catalog.rules import DEFAULT_BACKUP_TAG, DEFAULT_RULES, KINDS, Rule
from cesbrfs.config.layers import SYSTEM_CONFIG, ConfigLayers, Flags, RawSetting
from cesbrfs.config.password import NO_PASSWORD, Password, read_text
from cesbrfs.errors import UsageError
from cesbrfs.repo.cache.config import DEFAULT_MEMORY, CacheConfig
from cesbrfs.repo.location import Access, kind_of
from cesbrfs.util.secret import Secret, redact

if TYPE_CHECKING:  # both import trio, which no completion of a command line should wait for
    from cesbrfs.ces.instance import Instance
    from cesbrfs.ces.registry import Registry

__all__ = ["Flags", "Settings", "load"]

DEFAULT_PATIENCE: Final = 60.0
DEFAULT_SCRIPT_TIMEOUT: Final = 3600.0

_PASSED: Final = re.compile(
    "(AWS_|MINIO_|B2_|AZURE_|GOOGLE_|OS_|ST_|RCLONE_|RESTIC_REST_).*"
    "|RESTIC_(KEY_HINT|CACERT|TLS_CLIENT_CERT|COMPRESSION|PACK_SIZE|READ_CONCURRENCY)"
    "|RESTIC_AWS_ASSUME_ROLE_.*"
)
"""Variables that the storage or restic itself understands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force.  `sources` tells for each field where its value came from."""

    repository: str | None = field(repr=False)
    password: Password | None
    registry: str
    root: Path
    private_key: Path | None
    """The file of the key that opens encrypted values of the registry; None: any of the dogus'."""
    auto_init: bool
    restic: str | None
    """The restic program, None to look for ``restic`` in the PATH."""
    cache_dir: Path
    cache_size: int
    """Bytes of memory for blobs."""
    patience: float
    """Seconds that readers wait for a server that is away."""
    data_cache_size: int
    """Bytes on disk for data blobs of a repository behind a network."""
    restic_cache: Path
    """Where restic keeps its own caches."""
    options: Mapping[str, str] = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)
    """Variables for the storage; their values may be secrets."""
    backup_tag: re.Pattern[str]
    """Matches a whole tag that is a Backup ID, its group ``id``."""
    rules: tuple[Rule, ...]
    """Rules by path: the built-in ones, or those that were set in their place."""
    health_host: str | None
    """Where a dogu's health is checked, ``{dogu}`` for its name; None to find that out."""
    command_runner: tuple[str, ...]
    """The words of a command line that runs a dogu's ``{command}``; none: no dumps are made."""
    dogu_control: tuple[str, ...]
    """The words of a command line that does ``{action}``, start or stop, with a ``{dogu}``."""
    script_timeout: float
    """Seconds that a script or a dump may take."""
    workers: int | None
    """Processes that restores and backups run at once; None: as many as there are cores."""
    config_file: Path | None
    sources: Mapping[str, str] = field(repr=False)

    @property
    def caching(self) -> CacheConfig:
        """What the reader may hold, and where."""
        return CacheConfig(
            memory=self.cache_size,
            directory=self.cache_dir,
            data=self.data_cache_size,
            restic=self.restic_cache,
        )

    def open_registry(self) -> Registry:
        """Return the configured registry; a file registry that does not exist is empty."""
        if "://" in self.registry:
            from cesbrfs.ces.etcd import EtcdRegistry

            return EtcdRegistry(self.registry)
        from cesbrfs.ces.registry import FileRegistry

        return FileRegistry(Path(self.registry))

    def instance(self) -> Instance:
        """Return the instance below the configured root, with its registry."""
        from cesbrfs.ces.instance import Instance

        return Instance(self.root, self.open_registry())

    async def resolve(self, registry: Registry | None = None) -> Settings:
        """Return these settings with what the registry adds to them.

        Asks nothing when the repository and the key are known.  UsageError names a key that cannot
        be used; what is configured nowhere stays None.
        """
        if self.repository is not None and self.password is not None:
            return self
        from cesbrfs.ces import repository_config
        from cesbrfs.ces.private_keys import PrivateKeys

        registry = registry or self.open_registry()
        keys = PrivateKeys(self.root, self.private_key)
        settings = await self.located(registry)
        registered = settings.repository if self.repository is None else None
        # Credentials in the environment count as a whole, never mixed with others.
        if kind_of(registered or "") == "s3" and "AWS_ACCESS_KEY_ID" not in self.environment:
            found = await repository_config.configured_credentials(registry, keys)
            if found:
                sources = {
                    **settings.sources,
                    "credentials": f"registry {repository_config.S3_CONFIG}",
                }
                settings = replace(
                    settings, environment={**found, **self.environment}, sources=sources
                )
        if settings.password is None:
            key = await repository_config.configured_key(registry, keys)
            if key:
                settings = replace(
                    settings,
                    password=Password(value=key),
                    sources={
                        **settings.sources,
                        "password": f"registry {repository_config.ENCRYPTION_KEY}",
                    },
                )
        return settings

    async def located(self, registry: Registry) -> Settings:
        """Return these settings with the repository's address alone, which needs no secret."""
        from cesbrfs.ces import repository_config

        if self.repository is not None:
            return self
        found = await repository_config.configured_repository(registry)
        if found is None:
            return self
        sources = {**self.sources, "repository": f"registry {found.key}"}
        return replace(self, repository=found.url, sources=sources)

    async def access(self) -> Access:
        """Return how to reach the repository, reading the key's file or running its command.

        UsageError says what to set when there is no repository or no key.
        """
        settings = await self.resolve()
        if settings.repository is None:
            raise UsageError(
                "No repository is configured. Pass --repo URL, set RESTIC_REPOSITORY, set "
                f"'repository' in {self.config_file or SYSTEM_CONFIG}, or set "
                f"/config/backup/backup_type and its address in the registry {self.registry}."
            )
        if settings.password is None:
            raise UsageError(
                "No encryption key is configured. Pass --password-file FILE, set RESTIC_PASSWORD, "
                f"set 'password_file' in {self.config_file or SYSTEM_CONFIG}, or set "
                f"/config/backup/encryption_key in the registry {self.registry}. {NO_PASSWORD}"
            )
        return Access(
            url=settings.repository,
            key=await settings.password.obtain(settings.sources["password"]),
            options=settings.options,
            patience=settings.patience,
            environment=settings.environment,
        )

    def access_nowait(self) -> tuple[str, Secret] | None:
        """Return the repository's address and its key if both are available without waiting."""
        key = self.password.obtain_nowait() if self.password else None
        return (self.repository, key) if self.repository and key else None

    def describe(self) -> dict[str, dict[str, object]]:
        """Return each setting's ``value`` and ``source`` for people and JSON, without secrets."""
        shown: dict[str, object] = {
            "repository": redact(self.repository) if self.repository is not None else None,
            "password": "***" if self.password else None,
            "credentials": "***" if "AWS_ACCESS_KEY_ID" in self.environment else None,
            "registry": redact(self.registry),
            "root": str(self.root),
            "private_key": str(self.private_key) if self.private_key else None,
            "auto_init": self.auto_init,
            "restic": self.restic,
            "cache_dir": str(self.cache_dir),
            "cache_size": self.cache_size,
            "patience": self.patience,
            "data_cache_size": self.data_cache_size,
            "options": sorted(self.options),
            "backup_tag": self.backup_tag.pattern,
            "health_host": self.health_host,
            "command_runner": shlex.join(self.command_runner) or None,
            "dogu_control": shlex.join(self.dogu_control) or None,
            "script_timeout": self.script_timeout,
            "workers": self.workers,
            "rules": [{"match": rule.match.pattern, "kind": rule.kind} for rule in self.rules],
        }
        return {
            name: {"value": value, "source": self.sources.get(name, "default")}
            for name, value in shown.items()
        }


def require_root(settings: Settings) -> None:
    """Raise UsageError if the configured root of the instance is not a directory."""
    where = settings.sources.get("root", "default")
    try:
        if stat.S_ISDIR(os.stat(settings.root).st_mode):
            return
        problem = "not a directory"
    except FileNotFoundError:
        problem = "no such directory"
    except OSError as error:
        problem = error.strerror or str(error)
    raise UsageError(
        f"Invalid instance root {settings.root}: {problem}. Correct --root or the setting 'root'"
        f" ({where})."
    )


def load(flags: Flags, environ: Mapping[str, str]) -> Settings:
    """Read flags, environment and the TOML file; UsageError names what cannot be used."""
    return from_layers(ConfigLayers(flags, environ))


def from_layers(layers: ConfigLayers) -> Settings:
    """Return the settings of `layers`; UsageError names what cannot be used."""
    environ = layers.environ
    repository = _repository(layers)
    password = _password(layers)
    root_given = layers.first("root")
    root = root_given.path() if root_given else Path("/")
    private_key = layers.first("private_key")
    health_host, script_timeout = layers.first("health_host"), layers.first("script_timeout")
    if environ.get("AWS_ACCESS_KEY_ID"):
        layers.sources["credentials"] = "environment AWS_ACCESS_KEY_ID"
    auto_init, restic = layers.first("auto_init"), layers.first("restic")
    cache_dir, cache_size = layers.first("cache_dir"), layers.first("cache_size")
    patience = layers.first("patience")
    data_cache_size = layers.first("data_cache_size")
    workers = layers.first("workers")
    return Settings(
        repository=repository.repository() if repository else None,
        password=password,
        registry=_registry(layers, root),
        root=root,
        private_key=private_key.path() if private_key else None,
        auto_init=auto_init.flag() if auto_init else True,
        restic=_program(restic) if restic else None,
        cache_dir=cache_dir.path() if cache_dir else _default_cache(environ),
        patience=patience.seconds() if patience else DEFAULT_PATIENCE,
        cache_size=cache_size.size() if cache_size else DEFAULT_MEMORY,
        data_cache_size=data_cache_size.size() if data_cache_size else 0,
        restic_cache=_restic_cache(environ),
        options=_options(layers),
        environment={name: value for name, value in environ.items() if _PASSED.fullmatch(name)},
        backup_tag=_backup_tag(layers.first("backup_tag")),
        rules=_rules(layers),
        health_host=health_host.text() if health_host else None,
        command_runner=_command_line(
            layers.first("command_runner"), "docker exec -i {dogu} {command}", "command"
        ),
        dogu_control=_command_line(
            layers.first("dogu_control"), "docker {action} {dogu}", "action", "dogu"
        ),
        script_timeout=script_timeout.seconds() if script_timeout else DEFAULT_SCRIPT_TIMEOUT,
        workers=workers.count() if workers else None,
        config_file=layers.file,
        sources=layers.sources,
    )


def _repository(layers: ConfigLayers) -> RawSetting | None:
    """Find the repository's address; of restic's own two variables only one may be set."""
    given = layers.from_flag("repository") or layers.from_environment("CESBR_REPOSITORY")
    if given is None:
        given = layers.from_environment("RESTIC_REPOSITORY")
        file = layers.from_environment("RESTIC_REPOSITORY_FILE")
        if given and file:
            raise UsageError(f"{given.where} and {file.where} are both set. Unset one of them.")
        if file:
            text = read_text(file.path(), "file of RESTIC_REPOSITORY_FILE")
            given = replace(file, value=os.fsdecode(text))
    given = given or layers.from_file("repository")
    if given:
        layers.sources["repository"] = given.source
    return given


def _password(layers: ConfigLayers) -> Password | None:
    """Find where the key comes from; as with restic, a file or a command goes before the value."""
    environment = layers.from_environment
    for file, command, plain in (
        (layers.from_flag("password_file"), None, None),
        (environment("CESBR_PASSWORD_FILE"), environment("CESBR_PASSWORD_COMMAND"), None),
        (
            environment("RESTIC_PASSWORD_FILE"),
            environment("RESTIC_PASSWORD_COMMAND"),
            environment("RESTIC_PASSWORD"),
        ),
        (layers.from_file("password_file"), layers.from_file("password_command"), None),
    ):
        if file and command:
            raise UsageError(f"{file.where} and {command.where} are both set. Unset one of them.")
        given = file or command or plain
        if given:
            layers.sources["password"] = given.source
        if file:
            return Password(file=file.path())
        if command:
            return Password(command=command.text())
        if plain:
            return Password(value=Secret(os.fsencode(plain.text())))
    return None


def _registry(layers: ConfigLayers, root: Path) -> str:
    """Return the registry's address: an etcd's URLs, or the directory of a file registry.

    Where nothing says one, an embedded registry that is there counts, as somebody put it there;
    then the etcd of the instance's node master.
    """
    given = layers.first("registry")
    if given:
        return given.text() if "://" in given.text() else str(given.path())
    embedded, node_master = root / "var/lib/cesbr/registry", root / "etc/ces/node_master"
    try:
        if os.path.isdir(embedded):
            return str(embedded)
        # Nor is one hidden by a directory that only root may enter.
        host = node_master.read_text().split()[0]
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, IndexError):
        return str(embedded)
    except OSError as error:  # the embedded registry would be an empty one
        raise UsageError(
            f"Cannot read {node_master}, which has the address of the registry: {error.strerror}."
            " Check the disk, or pass --registry."
        ) from error
    layers.sources["registry"] = f"file {node_master}"
    return f"http://[{host}]:4001" if ":" in host else f"http://{host}:4001"


def _program(given: RawSetting) -> str:
    """Return a program's name, which the PATH resolves, or its absolute path."""
    return str(given.path()) if "/" in given.text() else given.text()


def _command_line(given: RawSetting | None, example: str, *required: str) -> tuple[str, ...]:
    """Split a command line as a shell does; it must contain the `required` words in braces."""
    if given is None:
        return ()
    try:
        words = tuple(shlex.split(given.text()))
    except ValueError as error:
        raise UsageError(
            f"{given.where} is not a valid command line: {error}. Correct it."
        ) from None
    for word in required:
        if f"{{{word}}}" not in words:
            raise UsageError(
                f"{given.where} does not contain the word {{{word}}}. Write for example"
                f" '{example}'."
            )
    return words


def _default_cache(environ: Mapping[str, str]) -> Path:
    xdg, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME")
    if xdg.startswith("/"):  # the XDG specification has relative ones ignored
        return Path(xdg, "cesbrfs")
    return Path(home, ".cache/cesbrfs") if home else Path("/var/cache/cesbrfs")


def _restic_cache(environ: Mapping[str, str]) -> Path:
    """Return where restic itself would keep its caches."""
    if named := environ.get("RESTIC_CACHE_DIR"):
        return Path(named)
    if xdg := environ.get("XDG_CACHE_HOME"):
        return Path(xdg, "restic")
    return Path(environ.get("HOME") or "/", ".cache/restic")


def _options(layers: ConfigLayers) -> dict[str, str]:
    options: dict[str, str] = {}
    given = layers.from_file("options")
    if given:
        if not isinstance(given.value, dict):
            raise UsageError(f"{given.where} is not a table. Write [options].")
        for key, value in given.value.items():
            if not isinstance(value, str | int):
                raise UsageError(f"The option {key!r} of {given.where} is not text. Quote it.")
            options[key] = str(value).lower() if isinstance(value, bool) else str(value)
        layers.sources["options"] = given.source
    for option in layers.flags.options:
        key, equals, value = option.partition("=")
        if not key or not equals:
            raise UsageError(f"The option {key!r} has no value. Write key=value.")
        options[key] = value
        layers.sources["options"] = "flag"
    return options


def _backup_tag(given: RawSetting | None) -> re.Pattern[str]:
    pattern = given.pattern() if given else DEFAULT_BACKUP_TAG
    if given and "id" not in pattern.groupindex:
        raise UsageError(
            f"{given.where} has no group 'id'. Write (?P<id>...) around the Backup ID."
        )
    return pattern


def _rules(layers: ConfigLayers) -> tuple[Rule, ...]:
    given = layers.from_file("rules")
    if given is None:
        return DEFAULT_RULES
    if not isinstance(given.value, list):
        raise UsageError(f"{given.where} is not a list of tables. Write [[rules]].")
    layers.sources["rules"] = given.source
    rules = []
    for number, entry in enumerate(given.value, 1):
        one = f"rule {number}"
        if not isinstance(entry, dict) or entry.keys() != {"match", "kind"}:
            raise UsageError(
                f"{given.where}: {one} must contain 'match' and 'kind' and nothing else."
            )
        if entry["kind"] not in KINDS:
            raise UsageError(
                f"{given.where}: unknown kind in {one}. Use one of {', '.join(KINDS)}."
            )
        match = replace(given, value=entry["match"], name=f"match of {one}")
        rules.append(Rule(match.pattern(), entry["kind"]))
    return tuple(rules)
