"""init, backup, check, unlock, status, and the state of the repository before them."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.shell.conftest import KEY, Cesbr, Site
from tests.shell.waiting import hang_the_index, wait_until


def leave_a_lock(site: Site, restic: Path) -> None:
    """Kill a restic process that holds a lock."""
    with hold_a_lock(site, restic) as holding:
        holding.kill()
    assert site.locks


def hold_a_lock(site: Site, restic: Path) -> subprocess.Popen[bytes]:
    """Start a restic process that holds a lock until its stdin is closed."""
    holding = subprocess.Popen(
        [restic, "-r", site.repository, "backup", "--stdin", "--no-cache"],
        env=os.environ | {"RESTIC_PASSWORD": KEY},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: site.locks, "restic's lock")
    return holding


def test_nothing_configured_changes_nothing(cesbr: Cesbr) -> None:
    """Without a repository every command prints what to set, exits with 2, creates nothing."""
    bare = cesbr.having(CESBR_ROOT=str(cesbr.here))
    for command in ("backups", "check", "init"):
        said = bare(command)
        assert said.code == 2
        assert "--repo" in said.err
    assert list(cesbr.here.iterdir()) == []


def test_missing_repository_is_initialised(
    cesbr: Cesbr, new_site: Site, restic_binary: Path
) -> None:
    """The first command that needs it creates it and prints a notice, with any restic version."""
    own = cesbr.having(CESBR_ROOT=str(new_site.root), CESBR_RESTIC=str(restic_binary))
    said = own("backups", "--json")
    assert said.code == 0
    assert said.json == []
    assert "Initialised the repository" in said.err
    assert (new_site.repository / "config").exists()
    again = own("check")
    assert (again.code, again.err) == (0, "")


@pytest.mark.parametrize("command", [("backups",), ("check",), ("backup", "redmine"), ("ls",)])
def test_no_init_is_error_10(cesbr: Cesbr, new_site: Site, command: tuple[str, ...]) -> None:
    """With --no-init a missing repository is error 10, and nothing is created."""
    said = cesbr.having(CESBR_ROOT=str(new_site.root))("--no-init", *command)
    assert said.code == 10
    assert str(new_site.repository) in said.err
    assert not new_site.repository.exists()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("status",), 0),
        (("backup", "--dry-run"), 0),
        (("restore", "--dry-run", "--backup", "latest"), 10),
        (("init", "--help"), 0),
    ],
)
def test_looking_never_initialises(
    cesbr: Cesbr, new_site: Site, command: tuple[str, ...], code: int
) -> None:
    """status, dry runs and help do not create a missing repository."""
    assert cesbr.having(CESBR_ROOT=str(new_site.root))(*command).code == code
    assert not new_site.repository.exists()


def test_init_keeps_what_is_there(cesbr: Cesbr, new_site: Site) -> None:
    """The first init creates, the second leaves it unchanged; both exit with 0."""
    own = cesbr.having(CESBR_ROOT=str(new_site.root))
    first = own("init", "--json")
    assert (first.code, first.json) == (
        0,
        {"repository": str(new_site.repository), "initialised": True},
    )
    config = (new_site.repository / "config").read_bytes()
    second = own("init")
    assert second.code == 0
    assert "already exists" in second.out
    assert (new_site.repository / "config").read_bytes() == config
    assert len(list((new_site.repository / "keys").iterdir())) == 1


@pytest.mark.parametrize("command", [("backups",), ("check",), ("backup",), ("unlock",), ("init",)])
def test_wrong_key_is_error_12(own: Cesbr, site: Site, command: tuple[str, ...]) -> None:
    """The reader and restic both report a wrong key; nothing is changed."""
    site.set("/config/backup/encryption_key", "another key")
    said = own(*command)
    assert said.code == 12
    assert "encryption key" in said.err
    assert "another key" not in said.err


def test_lost_config_is_not_initialised(own: Cesbr, site: Site) -> None:
    """A repository without its config file is damaged, not missing."""
    (site.repository / "config").unlink()
    assert own("backups").code == 1
    assert own("init").code == 1
    assert not (site.repository / "config").exists()


def test_backup_reports_what_it_made(cesbr: Cesbr, empty_site: Site, restic_binary: Path) -> None:
    """The result contains the new backup ID, which the listing shows as complete."""
    own = cesbr.having(CESBR_ROOT=str(empty_site.root), CESBR_RESTIC=str(restic_binary))
    said = own("--json", "backup", "redmine")
    assert said.code == 0, said.err
    result = said.json
    assert isinstance(result, dict)
    assert result["status"] == "complete"
    assert result["failed"] == []
    assert {point["kind"] for point in result["points"]} >= {"metadata", "volumes"}
    listed = own("--json", "backups").json
    assert isinstance(listed, list)
    assert [backup["id"] for backup in listed] == [result["id"]]
    assert empty_site.locks == []


def test_incomplete_backup_is_error_3(cesbr: Cesbr, empty_site: Site) -> None:
    """A missing volume makes the backup incomplete and is reported."""
    shutil.rmtree(empty_site.files)
    said = cesbr.having(CESBR_ROOT=str(empty_site.root))("backup", "redmine")
    assert said.code == 3
    assert "incomplete" in said.out
    assert str(empty_site.files) in said.out


def test_a_suspended_instance(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """With active=false backup and restore are refused, unless --force is given."""
    site.set("/config/backup/active", "False")
    restore = ("restore", "--backup", "latest", "--target", str(tmp_path / "back"), "--yes")
    for command in (("backup",), restore):
        said = own(*command)
        assert said.code == 1
        assert "suspended: /config/backup/active in the registry" in said.err
        assert "pass --force" in said.err
        assert own(*command, "--dry-run").code == 0
    assert not (tmp_path / "back").exists()
    assert own(*restore, "--force").code == 0
    assert (tmp_path / "back").exists()
    assert own("backup", "--force").code == 0
    site.set("/config/backup/active", "perhaps")
    said = own("backup")
    assert said.code == 2
    assert "Set it to true or false" in said.err


def test_a_key_that_cannot_be_read(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """Whether restores are suspended is then not known: files are restored elsewhere only."""
    key = site.root / "var/lib/cesbr/registry/config/backup/active"
    key.unlink(missing_ok=True)
    key.symlink_to(key)
    restore = ("restore", "--backup", "latest", "redmine/volumes", "--yes")
    said = own(*restore, "--target", str(tmp_path / "back"))
    assert (said.code, "Whether restores are suspended is not known: " in said.err) == (0, True)
    assert (tmp_path / "back/redmine/volumes/files").is_dir()
    said = own(*restore, "--in-place")
    assert (said.code, said.err.count("config/backup/active")) == (1, 1), said.err


def test_dry_run_shows_the_plan(kept: Cesbr, kept_site: Site) -> None:
    """It lists the data to be backed up, as text and as JSON."""
    assert str(kept_site.files) in kept("backup", "--dry-run").out
    plan = kept("backup", "redmine", "--dry-run", "--json").json
    assert isinstance(plan, dict)
    assert {step["dogu"] for step in plan["steps"]} == {"redmine"}


def test_unknown_dogu_is_a_usage_error(kept: Cesbr) -> None:
    """The error lists the existing dogus."""
    said = kept("backup", "redmein")
    assert said.code == 2
    assert "redmine" in said.err


def test_check_finds_bit_rot_with_read_data(own: Cesbr, site: Site, restic_binary: Path) -> None:
    """A flipped bit in a pack is found only with --read-data."""
    own = own.having(CESBR_RESTIC=str(restic_binary))
    packs = (site.repository / "data").glob("*/*")
    pack = max(packs, key=lambda file: file.stat().st_size)
    pack.chmod(0o600)
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    assert own("check").code == 0
    said = own("check", "--read-data", "--json")
    assert said.code == 1
    report = said.json
    assert isinstance(report, dict)
    assert report["ok"] is False
    assert report["errors"]
    assert own("check", "--read-data-subset", "100%").code == 1


def test_locked_repository_is_error_11(own: Cesbr, site: Site, restic_binary: Path) -> None:
    """Commands that need an exclusive lock report who holds a conflicting one."""
    with hold_a_lock(site, restic_binary) as holding:
        said = own.having(CESBR_RESTIC=str(restic_binary))("check")
        assert said.code == 11
        assert str(holding.pid) in said.err
        assert own("backups").code == 0
        holding.kill()


def test_unlock_removes_dead_locks(own: Cesbr, site: Site, restic_old: Path) -> None:
    """The lock of a dead process is removed, that of a running one only with --remove-all."""
    leave_a_lock(site, restic_old)
    removed = own("unlock", "--json").json
    assert isinstance(removed, dict)
    assert (removed["removed"], removed["left"]) == (1, 0)
    assert site.locks == []
    with hold_a_lock(site, restic_old) as holding:
        said = own("unlock", "--json").json
        assert isinstance(said, dict)
        assert (said["removed"], said["left"]) == (0, 1)
        (lock,) = said["locks"]
        assert (lock["pid"], lock["host"]) == (holding.pid, socket.gethostname())
        assert (lock["removed"], lock["exclusive"]) == (False, False)
        text = own("unlock", "--remove-all").out
        assert text.startswith("1 lock removed.\n")
        line = rf"^removed +{re.escape(socket.gethostname())} +{holding.pid} .* s +shared$"
        assert re.search(line, text, re.MULTILINE)
        holding.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_cleanly(
    own: Cesbr, site: Site, number: signal.Signals, code: int
) -> None:
    """An interrupted command prints no traceback and leaves no lock."""
    hang_the_index(site)
    with own.start("check") as running:
        wait_until(lambda: site.locks, "restic's lock")
        running.send_signal(number)
        assert running.stderr is not None
        error = running.stderr.read().decode()
    assert running.returncode == code
    assert "Traceback" not in error
    assert site.locks == []


def test_interrupted_backup_leaves_no_lock(own: Cesbr, site: Site) -> None:
    """An interrupted backup leaves no lock, and is not shown as complete."""
    before = sorted(os.listdir(site.repository / "snapshots"))
    hang_the_index(site)
    with own.start("backup", "redmine") as running:
        wait_until(lambda: site.locks, "restic's lock")
        running.send_signal(signal.SIGINT)
        running.communicate()
    assert running.returncode == 130
    assert site.locks == []
    assert sorted(os.listdir(site.repository / "snapshots")) == before


def test_status_shows_settings_but_no_secret(kept: Cesbr, kept_site: Site) -> None:
    """Each setting is printed with its source; the key is never shown."""
    said = kept("status", "--json")
    assert said.code == 0
    status = said.json
    assert isinstance(status, dict)
    assert status["repository"]["state"] == "ready"
    assert status["repository"]["url"] == str(kept_site.repository)
    assert status["restic"]["version"].startswith("0.")
    assert status["settings"]["password"] == {
        "value": "***",
        "source": "registry /config/backup/encryption_key",
    }
    assert isinstance(status["mounts"], list)
    text = kept("status").out
    assert str(kept_site.repository) in text
    assert KEY.strip() not in text + said.out


@pytest.mark.parametrize(
    ("key", "value", "state"),
    [
        ("encryption_key", "another key", "wrong key"),
        ("local_config/path", "/no/such/repository", "missing"),
        ("backup_type", "carrier pigeon", "not configured"),
    ],
)
def test_status_tells_the_state(own: Cesbr, site: Site, key: str, value: str, state: str) -> None:
    """`status` reports every problem and exits with 0."""
    site.set(f"/config/backup/{key}", value)
    said = own("status", "--json")
    assert said.code == 0
    status = said.json
    assert isinstance(status, dict)
    assert status["repository"]["state"] == state
    assert status["repository"]["message"]


@pytest.mark.parametrize("secret", ["encryption_key", "s3_bucket_config/secret_access_key"])
def test_status_tells_the_address_without_the_secrets(own: Cesbr, site: Site, secret: str) -> None:
    """If a secret cannot be decrypted, status reports that and still shows the address."""
    site.set("/config/backup/backup_type", "S3")
    site.set("/config/backup/s3_bucket_config/address", "https://127.0.0.1:1/bucket")
    site.set(f"/config/backup/{secret}", base64.b64encode(bytes(256)).decode())
    said = own("status", "--json")
    assert said.code == 0
    status = said.json
    assert isinstance(status, dict)
    assert status["repository"]["url"] == "s3:https://127.0.0.1:1/bucket"
    assert status["repository"]["state"] == "unknown"
    assert (
        f"Cannot decrypt the value of /config/backup/{secret} " in status["repository"]["message"]
    )
    address = status["settings"]["repository"]
    assert address["source"] == "registry /config/backup/s3_bucket_config/address"


def test_status_without_any_configuration(cesbr: Cesbr) -> None:
    """`status` prints what to set and exits with 0."""
    said = cesbr.having(CESBR_ROOT=str(cesbr.here))("status")
    assert said.code == 0
    assert "not configured" in said.out
    assert "--repo" in said.out
