"""Settings: precedence, sources, error messages, and no secrets in output."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cesbrfs.catalog.rules import DEFAULT_RULES
from cesbrfs.ces.registry import Registry
from cesbrfs.config import layers
from cesbrfs.config.settings import DEFAULT_PATIENCE, Flags, Settings, load
from cesbrfs.errors import RegistryError, UsageError
from cesbrfs.repo.cache.config import DEFAULT_MEMORY
from cesbrfs.util.secret import Secret
from tests.support.project import PROJECT
from tests.support.restic_repo import create
from tests.support.rights import open_directory, without_rights


@pytest.fixture(autouse=True)
def _no_system_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layers, "SYSTEM_CONFIG", tmp_path / "etc/cesbr/config.toml")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home directory with a directory for the settings file."""
    (tmp_path / "home/.config/cesbr").mkdir(parents=True)
    return tmp_path / "home"


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


async def set_backup(registry: Registry, values: Mapping[str, str]) -> None:
    for key, value in values.items():
        await registry.set(f"/config/backup/{key}", value)


def test_defaults() -> None:
    """Without settings the instance is this machine, and nothing is guessed."""
    settings = load(Flags(), {})
    assert settings.repository is None
    assert settings.password is None
    assert settings.root == Path("/")
    assert settings.registry == "/var/lib/cesbr/registry"
    assert settings.cache_dir == Path("/var/cache/cesbrfs")
    assert settings.cache_size == DEFAULT_MEMORY
    assert (settings.auto_init, settings.restic, settings.rules) == (True, None, DEFAULT_RULES)
    assert settings.backup_tag.fullmatch("20261122T213000Z-7f3a9c")
    assert not settings.backup_tag.fullmatch("kind=volumes")
    assert settings.sources == {}
    assert {about["source"] for about in settings.describe().values()} == {"default"}


def test_flags_go_before_environment_before_file(home: Path) -> None:
    """Each value comes from the source with the highest precedence, which is recorded."""
    file = write(
        home / ".config/cesbr/config.toml",
        'repository = "/from/file"\nroot = "/from/file"\ncache_size = "1M"\nrestic = "/opt/restic"',
    )
    environ = {
        "HOME": str(home),
        "CESBR_REPOSITORY": "/from/cesbr",
        "RESTIC_REPOSITORY": "/from/restic",
        "CESBR_ROOT": "/from/cesbr",
    }
    settings = load(Flags(repository="/from/flag"), environ)
    assert settings.repository == "/from/flag"
    assert settings.root == Path("/from/cesbr")
    assert settings.cache_size == 1 << 20
    assert settings.sources == {
        "repository": "flag",
        "root": "environment CESBR_ROOT",
        "cache_size": f"file {file}",
        "restic": f"file {file}",
    }
    assert load(Flags(), environ).repository == "/from/cesbr"
    del environ["CESBR_REPOSITORY"]
    assert load(Flags(), environ).repository == "/from/restic"
    environ["RESTIC_REPOSITORY"] = ""
    assert load(Flags(), environ).repository == "/from/file"


def test_every_value_has_a_variable(tmp_path: Path) -> None:
    """Each setting with a single value has a CESBR_* variable."""
    settings = load(
        Flags(),
        {
            "CESBR_REPOSITORY": "/repository",
            "CESBR_PASSWORD_FILE": "/password",
            "CESBR_REGISTRY": "/registry",
            "CESBR_ROOT": "/root",
            "CESBR_AUTO_INIT": "no",
            "CESBR_RESTIC": "restic-next",
            "CESBR_CACHE_DIR": "/cache",
            "CESBR_CACHE_SIZE": "2GiB",
            "CESBR_PATIENCE": "2.5",
            "CESBR_DOGU_CONTROL": "docker {action} {dogu}",
            "CESBR_BACKUP_TAG": "id=(?P<id>.+)",
        },
    )
    assert settings.repository == "/repository"
    assert settings.password
    assert settings.password.file == Path("/password")
    assert (settings.registry, settings.root) == ("/registry", Path("/root"))
    assert (settings.auto_init, settings.restic) == (False, "restic-next")
    assert (settings.cache_dir, settings.cache_size) == (Path("/cache"), 2 << 30)
    assert settings.patience == 2.5
    assert settings.dogu_control == ("docker", "{action}", "{dogu}")
    assert settings.backup_tag.pattern == "id=(?P<id>.+)"


def test_which_file_is_read(tmp_path: Path, home: Path) -> None:
    """Only the first of --config, $CESBR_CONFIG, the user's and the system's file."""
    xdg = write(tmp_path / "xdg/cesbr/config.toml", 'restic = "xdg"')
    user = write(home / ".config/cesbr/config.toml", 'restic = "user"')
    system = write(layers.SYSTEM_CONFIG, 'restic = "system"')
    named = write(tmp_path / "named.toml", 'restic = "named"')
    flag = write(tmp_path / "flag.toml", 'restic = "flag"')
    environ = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "CESBR_CONFIG": str(named),
    }
    assert load(Flags(config=str(flag)), environ).restic == "flag"
    assert load(Flags(), environ).config_file == named
    del environ["CESBR_CONFIG"]
    assert load(Flags(), environ).config_file == xdg
    del environ["XDG_CONFIG_HOME"]
    assert load(Flags(), environ).config_file == user
    del environ["HOME"]
    assert load(Flags(), environ).config_file == system
    system.unlink()
    assert load(Flags(), environ).config_file is None


def test_the_whole_file(tmp_path: Path) -> None:
    """Every key of the file is supported."""
    file = write(
        tmp_path / "config.toml",
        """
        repository = "sftp:backup@host:/srv/repo"
        password_command = "pass show ces"
        registry = "registry"
        root = "/instance"
        auto_init = false
        restic = "./bin/restic"
        cache_dir = "~/cache"
        cache_size = 1024
        dogu_control = "cesapp {action} {dogu}"
        backup_tag = "backup-(?P<id>[0-9]+)"
        [options]
        "s3.region" = "eu-central-1"
        "sftp.connections" = 3
        [[rules]]
        match = "/data/(?P<dogu>[^/]+)"
        kind = "volumes"
        """,
    )
    settings = load(Flags(config=str(file), options=("s3.region=us",)), {"HOME": "/home/me"})
    assert settings.repository == "sftp:backup@host:/srv/repo"
    assert settings.password
    assert settings.password.command == "pass show ces"
    assert settings.registry == str(tmp_path / "registry")
    assert settings.root == Path("/instance")
    assert settings.restic == str(tmp_path / "bin/restic")
    assert settings.cache_dir == Path("/home/me/cache")
    assert settings.cache_size == 1024
    assert settings.dogu_control == ("cesapp", "{action}", "{dogu}")
    assert settings.options == {"s3.region": "us", "sftp.connections": "3"}
    assert settings.rules
    assert [(r.match.pattern, r.kind) for r in settings.rules] == [
        ("/data/(?P<dogu>[^/]+)", "volumes")
    ]
    assert settings.sources["options"] == "flag"
    assert settings.sources["password"] == settings.sources["rules"] == f"file {file}"
    assert json.loads(json.dumps(settings.describe()))["auto_init"] == {
        "value": False,
        "source": f"file {file}",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repository = ", "not TOML"),
        ('repositry = "/x"', "Unknown key 'repositry'"),
        ("repository = 7", "'repository'"),
        ("repository = ''", "'repository'"),
        ('repository = "s4:host/bucket"', "Unknown scheme 's4'"),
        ('auto_init = "perhaps"', "'auto_init'"),
        ("auto_init = 1", "'auto_init'"),
        ('cache_size = "64 apples"', "'cache_size'"),
        ("cache_size = -1", "'cache_size'"),
        ("cache_size = true", "'cache_size'"),
        ('script_timeout = "soon"', "'script_timeout'"),
        ("script_timeout = -1", "'script_timeout'"),
        ("workers = -1", "'workers'"),
        ('workers = "all"', "'workers'"),
        ("workers = true", "'workers'"),
        ("health_host = 7", "'health_host'"),
        ('command_runner = "docker exec {dogu}"', "does not contain the word {command}"),
        ('dogu_control = "docker stop {dogu}"', "does not contain the word {action}"),
        ('command_runner = "docker \'exec {command}"', "is not a valid command line"),
        ('patience = "a minute"', "'patience'"),
        ("patience = -1", "'patience'"),
        ("patience = inf", "'patience'"),
        ("patience = true", "'patience'"),
        ('backup_tag = "(?P<id>"', "'backup_tag'"),
        ('backup_tag = "(.*)"', "no group 'id'"),
        ('options = "s3.region=eu"', "'options'"),
        ("[options]\nx = []", "option 'x'"),
        ('rules = "x"', "'rules'"),
        ('[[rules]]\nmatch = "x"', "rule 1"),
        ('[[rules]]\nmatch = "x"\nkind = "registry"\nmore = 1', "rule 1"),
        ('[[rules]]\nmatch = "x"\nkind = "dogus"', "unknown kind in rule 1"),
        ('[[rules]]\nmatch = "("\nkind = "registry"', "match of rule 1"),
        ('password_file = "a"\npassword_command = "b"', "both set"),
    ],
)
def test_mistakes_in_the_file_name_it_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    """An invalid setting is a usage error that names the file and the key."""
    file = write(tmp_path / "config.toml", text)
    with pytest.raises(UsageError) as raised:
        load(Flags(config=str(file)), {})
    assert message in raised.value.message
    assert str(file) in raised.value.message


def test_files_that_cannot_be_read_are_told(tmp_path: Path, home: Path) -> None:
    """An explicitly given file must exist; invalid UTF-8 is reported with the file name."""
    with pytest.raises(UsageError, match=r"none\.toml: No such file"):
        load(Flags(config=str(tmp_path / "none.toml")), {})
    (home / ".config/cesbr/config.toml").mkdir()
    with pytest.raises(UsageError, match=r"Cannot read .*: Is a directory"):
        load(Flags(), {"HOME": str(home)})
    (tmp_path / "bytes.toml").write_bytes(b'restic = "\xff"')
    with pytest.raises(UsageError, match=r"bytes\.toml: not TOML"):
        load(Flags(), {"CESBR_CONFIG": str(tmp_path / "bytes.toml")})


@pytest.mark.parametrize("given", ["flag", "RESTIC_REPOSITORY", ""])
def test_system_file_that_only_root_can_read(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other users need --repo or a variable, even if the file contains only comments."""
    with open_directory() as directory:
        file = write(directory / "config.toml", "")
        file.chmod(0o600 if os.geteuid() == 0 else 0)
        monkeypatch.setattr(layers, "SYSTEM_CONFIG", file)
        flags = Flags(repository="/repo" if given == "flag" else None)
        environ = {given: "/repo"} if given.isupper() else {}
        with without_rights():
            if given:
                assert load(flags, environ).config_file is None
                return
            with pytest.raises(
                UsageError, match=r"Permission denied\. Run the command as root, or"
            ):
                load(flags, environ)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("0", 0), ("7", 7), ("7B", 7), ("64k", 64 << 10), ("64M", 64 << 20), ("1 GiB", 1 << 30),
     ("3gb", 3 << 30), ("1T", 1 << 40)],
)  # fmt: skip
def test_sizes(size: str, expected: int) -> None:
    """Units are powers of 1024 and case-insensitive."""
    assert load(Flags(cache_size=size), {}).cache_size == expected


async def test_patience_reaches_the_storage(tmp_path: Path) -> None:
    """The option overrides the file, and the storage receives the value."""
    file = write(tmp_path / "config.toml", "patience = 7")
    environ = {"RESTIC_REPOSITORY": "/repository", "RESTIC_PASSWORD": "x"}
    settings = load(Flags(config=str(file), patience="0"), environ)
    assert (await settings.access()).patience == 0
    assert load(Flags(config=str(file)), environ).patience == 7
    assert load(Flags(), environ).patience == DEFAULT_PATIENCE


@pytest.mark.parametrize("key", ["repository", "registry"])
def test_a_password_that_all_users_can_read(tmp_path: Path, key: str) -> None:
    """A settings file with an address that contains a password is refused; a group may read it."""
    file = write(tmp_path / "config.toml", f'{key} = "rest:http://me:s3cret@host/"')
    flags = Flags(config=str(file), root="/x")
    file.chmod(0o644)
    with pytest.raises(UsageError, match=f"'{key}'.*chmod o-r") as caught:
        load(flags, {})
    assert "s3cret" not in caught.value.message
    file.chmod(0o640)
    assert load(flags, {})
    write(file, f'{key} = "rest:http://host/"').chmod(0o644)
    assert load(flags, {})


@pytest.mark.parametrize("option", ["s3.region", "=x", ""])
def test_options_need_a_key_and_a_value(option: str) -> None:
    """-o without key=value is a usage error."""
    with pytest.raises(UsageError, match="key=value"):
        load(Flags(options=(option,)), {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/srv/repo", "/srv/repo"),
        ("/srv/../repo/", "/repo"),
        ("repo", "HERE/repo"),
        ("./a:b", "HERE/a:b"),
        ("local:repo", "HERE/repo"),
        (" spaced ", "HERE/ spaced "),
        ("sftp:user@host:/repo", "sftp:user@host:/repo"),
        ("SFTP:user@host:/repo", "sftp:user@host:/repo"),
        ("s3:https://host/bucket", "s3:https://host/bucket"),
        ("rest:http://user:pw@host/", "rest:http://user:pw@host/"),
    ],
)
def test_repository_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    """Local addresses become absolute, those of servers are kept in restic's form."""
    monkeypatch.chdir(tmp_path)
    settings = load(Flags(repository=given), {})
    assert settings.repository == expected.replace("HERE", str(tmp_path))


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a removed directory absolute paths work; a relative path is a usage error."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert load(Flags(repository="/repo"), {}).repository == "/repo"
    for flags in (Flags(repository="repo"), Flags(config="config.toml")):
        with pytest.raises(UsageError, match="working directory does not exist"):
            load(flags, {})


def test_repository_file(tmp_path: Path) -> None:
    """RESTIC_REPOSITORY_FILE is trimmed as in restic, and excludes RESTIC_REPOSITORY."""
    file = write(tmp_path / "where", "\ufeff /srv/repo \n")
    environ = {"RESTIC_REPOSITORY_FILE": str(file)}
    assert load(Flags(), environ).repository == "/srv/repo"
    assert load(Flags(repository="/other"), environ).repository == "/other"
    with pytest.raises(UsageError, match=r"RESTIC_REPOSITORY.*RESTIC_REPOSITORY_FILE.*both set"):
        load(Flags(), {**environ, "RESTIC_REPOSITORY": "/x"})


async def key_of(flags: Flags, environ: Mapping[str, str]) -> bytes:
    settings = load(flags, {"CESBR_REPOSITORY": "/repo", **environ})
    return (await settings.access()).key.value


async def test_where_the_key_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Option, CESBR_*, RESTIC_*, file, in this order; plain values are used byte for byte."""
    one, two = write(tmp_path / "one", " first \n"), write(tmp_path / "two", "second")
    config = write(tmp_path / "config.toml", f'password_file = "{two.name}"')
    environ = {"CESBR_CONFIG": str(config)}
    assert await key_of(Flags(), environ) == b"second"
    environ["RESTIC_PASSWORD"] = os.fsdecode(b" exact \xff\n")
    assert await key_of(Flags(), environ) == b" exact \xff\n"
    environ["RESTIC_PASSWORD_COMMAND"] = "printf ' com\"man\"d \n'"
    assert await key_of(Flags(), environ) == b'com"man"d'
    environ["RESTIC_PASSWORD_COMMAND"] = "sh -c 'printf %s \"$RESTIC_PASSWORD$OTHER_SECRET\"'"
    monkeypatch.setenv("RESTIC_PASSWORD", "not for other programs")
    monkeypatch.setenv("OTHER_SECRET", "for them")
    assert await key_of(Flags(), environ) == b"for them"
    environ["CESBR_PASSWORD_FILE"] = str(one)
    assert await key_of(Flags(), environ) == b"first"
    assert await key_of(Flags(password_file=str(two)), environ) == b"second"
    environ["CESBR_PASSWORD_COMMAND"] = "true"
    with pytest.raises(UsageError, match=r"CESBR_PASSWORD_FILE.*CESBR_PASSWORD_COMMAND.*both"):
        await key_of(Flags(), environ)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"key", b"key"),
        (b"\t key \r\n\n", b"key"),
        (b"\xc2\xa0key\xe2\x80\x83", b"key"),
        (b"\x1ckey\x1f", b"\x1ckey\x1f"),
        (b"\xffkey\xfe \n", b"\xffkey\xfe"),
        (b"\xef\xbb\xbfkey\n", b"key"),
        (b"\xff\xfek\0e\0y\0\n\0", b"key"),
        (b"\xfe\xff\0k\0e\0y", b"key"),
    ],
)
async def test_password_files_are_read_as_restic_reads_them(
    tmp_path: Path, content: bytes, key: bytes
) -> None:
    """White space as defined by Go is trimmed, byte order marks count, other bytes stay."""
    (tmp_path / "password").write_bytes(content)
    assert await key_of(Flags(password_file=str(tmp_path / "password")), {}) == key


@pytest.mark.parametrize("content", [b"\x1ckey\xc2\x85 \n", b"\xff\xfek\0e\0y\0"])
async def test_restic_agrees_about_password_files(
    tmp_path: Path, restic_binary: Path, content: bytes
) -> None:
    """A repository made with restic's password file can be opened with our parsing."""
    file = tmp_path / "password"
    file.write_bytes(content)
    key = await key_of(Flags(password_file=str(file)), {})
    repo = create(restic_binary, tmp_path / "repo", password=key.decode())
    repo.run("--password-file", file, "cat", "config", environment={"RESTIC_PASSWORD": ""})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RESTIC_PASSWORD_FILE": "/none"}, r"Cannot read .* /none: No such file"),
        (
            {"RESTIC_PASSWORD_FILE": "/dev/null"},
            r"file is empty \(environment RESTIC_PASSWORD_FILE\)",
        ),
        ({"RESTIC_PASSWORD_COMMAND": "true"}, r"nothing \(environment RESTIC_PASSWORD_COMMAND\)"),
        ({"RESTIC_PASSWORD_COMMAND": "false"}, r"COMMAND\) failed with exit code 1"),
        ({"RESTIC_PASSWORD_COMMAND": "/none s3cret"}, r"COMMAND\): No such file"),
        ({"RESTIC_PASSWORD_COMMAND": "echo 's3cret"}, r"COMMAND\): No closing"),
    ],
)
async def test_a_key_that_cannot_be_had_is_told(environ: dict[str, str], message: str) -> None:
    """The error names the source, but not the text of a password command."""
    with pytest.raises(UsageError, match=message) as raised:
        await key_of(Flags(), environ)
    assert "s3cret" not in raised.value.message


@pytest.mark.parametrize(
    ("values", "url", "key"),
    [
        ({"backup_type": "local", "local_config/path": "/srv"}, "/srv", "local_config/path"),
        ({"backup_type": "LOCAL\n", "local_config/path": "/r/\n"}, "/r", "local_config/path"),
        ({"backup_type": "local", "local_config/path": "local:/r"}, "/r", "local_config/path"),
        (
            {"backup_type": "SFTP", "sftp_config/address": "sftp:root@192.0.2.1:/root/repo"},
            "sftp:root@192.0.2.1:/root/repo",
            "sftp_config/address",
        ),
        (
            {"backup_type": "sftp", "sftp_config/address": "root@192.0.2.1:/root/repo"},
            "sftp:root@192.0.2.1:/root/repo",
            "sftp_config/address",
        ),
        (
            {"backup_type": "Sftp", "sftp_config/address": "SFTP://root@192.0.2.1:22//repo"},
            "sftp://root@192.0.2.1:22//repo",
            "sftp_config/address",
        ),
        (
            {"backup_type": "S3", "s3_bucket_config/address": "https://minio:9000/bucket"},
            "s3:https://minio:9000/bucket",
            "s3_bucket_config/address",
        ),
        (
            {"backup_type": "s3", "s3_bucket_config/address": "s3:s3.amazonaws.com/bucket"},
            "s3:s3.amazonaws.com/bucket",
            "s3_bucket_config/address",
        ),
    ],
)  # fmt: skip
async def test_the_registrys_repository(
    registry: Registry, values: dict[str, str], url: str, key: str
) -> None:
    """The three types in any case; addresses with and without the scheme."""
    await set_backup(registry, values)
    settings = await load(Flags(registry=registry.address), {}).resolve()
    assert settings.repository == url
    assert settings.sources["repository"] == f"registry /config/backup/{key}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backup_type": "ftp"}, "Invalid value 'ftp' of /config/backup/backup_type"),
        ({"backup_type": "local"}, "Set /config/backup/local_config/path"),
        ({"backup_type": "local", "local_config/path": "srv"}, "not an absolute path"),
        ({"backup_type": "SFTP", "sftp_config/address": "sftp:"}, "sftp_config/address"),
        ({"backup_type": "S3", "local_config/path": "/srv"}, "s3_bucket_config/address"),
    ],
)
async def test_mistakes_in_the_registry_name_the_key(
    registry: Registry, values: dict[str, str], message: str
) -> None:
    """The error for an invalid registry value names its key."""
    await set_backup(registry, values)
    with pytest.raises(UsageError, match=message):
        await load(Flags(registry=registry.address), {}).resolve()


async def test_the_registrys_key_is_used_byte_for_byte(registry: Registry) -> None:
    """White space is part of the key; an empty key counts as missing."""
    await set_backup(registry, {"encryption_key": " ke\u00fc \n", "backup_type": ""})
    settings = load(Flags(registry=registry.address, repository="/repo"), {})
    assert (await settings.access()).key == Secret(" ke\u00fc \n".encode())
    assert (await settings.resolve()).sources["password"] == (
        "registry /config/backup/encryption_key"
    )
    assert (
        await key_of(Flags(registry=registry.address), {"RESTIC_PASSWORD": "other"})
    ) == b"other"
    await set_backup(registry, {"encryption_key": ""})
    with pytest.raises(UsageError, match="No encryption key"):
        await settings.access()


async def test_the_registrys_s3_credentials_belong_to_its_address(registry: Registry) -> None:
    """They are used only for the registry's repository, never mixed with the environment."""
    await set_backup(
        registry,
        {
            "backup_type": "S3",
            "s3_bucket_config/address": "https://minio/bucket",
            "s3_bucket_config/access_key_id": "id\n",
            "s3_bucket_config/secret_access_key": "s3cret",
            "encryption_key": "key",
        },
    )
    flags = Flags(registry=registry.address)
    access = await load(flags, {"AWS_DEFAULT_REGION": "eu", "OTHER": "x"}).access()
    assert access.environment == {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_DEFAULT_REGION": "eu",
    }
    assert "s3cret" not in repr(access)
    described = (await load(flags, {}).resolve()).describe()["credentials"]
    assert described == {"value": "***", "source": "registry /config/backup/s3_bucket_config"}
    own = {"AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "own too"}
    assert (await load(flags, own).access()).environment == own
    elsewhere = Flags(registry=registry.address, repository="s3:https://other/bucket")
    assert (await load(elsewhere, {}).access()).environment == {}


async def test_a_known_repository_asks_no_registry(tmp_path: Path) -> None:
    """If address and key are set, an unreadable registry does not matter."""
    (tmp_path / "var/lib/cesbr/registry/config/backup/backup_type").mkdir(parents=True)
    flags = Flags(root=str(tmp_path))
    with pytest.raises(RegistryError, match="backup_type: it is a directory"):
        await load(flags, {}).resolve()
    assert await key_of(flags, {"RESTIC_PASSWORD": "k"}) == b"k"


async def test_nothing_configured_says_what_to_set(tmp_path: Path) -> None:
    """Without repository or key: exit code 2, what to set, and nothing is created."""
    with pytest.raises(UsageError, match=r"No repository .*--repo.*RESTIC_REPOSITORY.*backup_type"):
        await load(Flags(root=str(tmp_path)), {"RESTIC_PASSWORD": "k"}).access()
    with pytest.raises(UsageError, match=r"No encryption key .*--password-file.*encryption_key"):
        await load(Flags(root=str(tmp_path), repository=str(tmp_path / "r")), {}).access()
    assert os.listdir(tmp_path) == ["home"]


async def test_which_registry_is_asked(tmp_path: Path) -> None:
    """The configured one, else an existing embedded one, else the node master's etcd."""
    flags = Flags(root=str(tmp_path))
    embedded = tmp_path / "var/lib/cesbr/registry"
    assert load(flags, {}).registry == str(embedded)
    node_master = write(tmp_path / "etc/ces/node_master", "192.0.2.10\n")
    settings = load(flags, {})
    assert settings.registry == "http://192.0.2.10:4001"
    assert settings.sources["registry"] == f"file {node_master}"
    assert settings.open_registry().address == "http://192.0.2.10:4001"
    node_master.write_text("2001:db8::1")
    assert load(flags, {}).registry == "http://[2001:db8::1]:4001"
    node_master.write_text(" \n")
    assert load(flags, {}).registry == str(embedded)
    node_master.write_text("192.0.2.10")
    several = "http://a:4001,http://b:4001"
    assert load(flags, {"CESBR_REGISTRY": several}).open_registry().address == several
    embedded.mkdir(parents=True)
    settings = load(flags, {})
    assert (settings.registry, settings.sources) == (str(embedded), {"root": "flag"})


def test_a_node_master_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded registry, which is empty, is not used instead."""
    node_master = write(tmp_path / "etc/ces/node_master", "192.0.2.10\n")

    def fail(file: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(UsageError, match=f"Cannot read {node_master}.*Input/output error"):
        load(Flags(root=str(tmp_path)), {})


def test_a_closed_directory_hides_no_etcd() -> None:
    """If the embedded registry is not accessible, the etcd of node_master is reported."""
    with open_directory() as root:
        write(root / "etc/ces/node_master", "192.0.2.10")
        closed = root / "var/lib/cesbr"
        closed.mkdir(parents=True)
        closed.chmod(0)
        with without_rights():
            assert load(Flags(root=str(root)), {}).registry == "http://192.0.2.10:4001"
        closed.chmod(0o700)


async def test_a_registry_that_cannot_be_asked(tmp_path: Path) -> None:
    """An invalid etcd address is reported without its password."""
    settings = load(Flags(registry="ftp://me:s3cret@192.0.2.1"), {})
    with pytest.raises(UsageError, match=r"ftp://me:\*\*\*@192\.0\.2\.1.*Write http://HOST"):
        await settings.access()


async def test_secrets_are_never_shown(tmp_path: Path) -> None:
    """No repr, description or error of settings contains a password."""
    environ = {
        "RESTIC_PASSWORD": "s3cret",
        "RESTIC_REPOSITORY": "rest:https://me:s3cret@host/",
        "RESTIC_REST_PASSWORD": "s3cret",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
    }
    flags = Flags(options=("sftp.args=s3cret",), root=str(tmp_path))
    settings: Settings = await load(flags, environ).resolve()
    access = await settings.access()
    for shown in (repr(flags), repr(settings), repr(settings.describe()), access.display_url):
        assert "s3cret" not in shown
    assert settings.describe()["repository"]["value"] == "rest:https://me:***@host/"
    command = load(Flags(), {"CESBR_PASSWORD_COMMAND": "echo s3cret"})
    assert "s3cret" not in repr(command)
    assert "s3cret" not in repr(command.describe())


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/xdg/cesbrfs"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/cesbrfs"),
        ({"HOME": ""}, "/var/cache/cesbrfs"),
    ],
)
def test_default_cache(environ: dict[str, str], expected: str) -> None:
    """The cache follows the XDG specification, with a fixed path if there is no home."""
    assert load(Flags(), environ).cache_dir == Path(expected)


def test_settings_are_cheap_to_import() -> None:
    """Describing the settings imports neither trio nor the registry."""
    code = (
        "import sys; from cesbrfs.config.settings import Flags, load; load(Flags(), {});"
        "print(sorted({'trio', 'msgspec', 'cesbrfs.ces.registry', 'cmd2'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        cwd=PROJECT,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_tilde_is_the_home_wherever_a_path_is_given(home: Path) -> None:
    """Shells do not expand it in ``--repo=~/r``; no directory named ``~`` is created."""
    flags = Flags(
        repository="~/r", password_file="~/key", registry="~/reg", root="~/root", cache_dir="~/c"
    )
    for found in (
        load(flags, {"HOME": str(home)}),
        load(
            Flags(),
            {
                "HOME": str(home),
                "RESTIC_REPOSITORY": "~/r",
                "RESTIC_PASSWORD_FILE": "~/key",
                "CESBR_REGISTRY": "~/reg",
                "CESBR_ROOT": "~/root",
                "CESBR_CACHE_DIR": "~/c",
            },
        ),
    ):
        assert found.repository == str(home / "r")
        assert found.password is not None
        assert found.password.file == home / "key"
        assert found.registry == str(home / "reg")
        assert (found.root, found.cache_dir) == (home / "root", home / "c")
    assert load(Flags(repository="local:~/r"), {"HOME": str(home)}).repository == str(home / "r")
    config = write(home / "mine.toml", "auto_init = false\n")
    assert load(Flags(config="~/mine.toml"), {"HOME": str(home)}).config_file == config


async def test_a_repository_without_a_password_is_named_unsupported(tmp_path: Path) -> None:
    """With an empty password file, and without any password setting."""
    (tmp_path / "empty").touch()
    registry = str(tmp_path / "registry")
    for file in (str(tmp_path / "empty"), None):
        settings = load(Flags(repository="/r", password_file=file, registry=registry), {})
        with pytest.raises(UsageError, match="--insecure-no-password"):
            await settings.access()


def test_the_key_hint_goes_along() -> None:
    """It is passed to restic and to the reader."""
    settings = load(Flags(), {"RESTIC_KEY_HINT": "abcd"})
    assert settings.environment == {"RESTIC_KEY_HINT": "abcd"}
