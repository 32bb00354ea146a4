"""Health checks, scripts and maintenance mode around backups and restores, from the shell."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from tests.shell.conftest import Cesbr, Site
from tests.shell.waiting import wait_until

MAINTENANCE = "var/lib/cesbr/registry/config/_global/maintenance"


def script(site: Site, occasion: str, body: str) -> None:
    """Configure a script that runs `body`."""
    path = site.root / f"{occasion}.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    site.set(f"/config/backup/{occasion}_script", str(path))


def checked(site: Site, *checks: dict[str, object]) -> None:
    """Configure these health checks for redmine."""
    dogu = {"Name": "official/redmine", "Volumes": [{"Name": "files"}], "HealthChecks": checks}
    site.set("/dogu/redmine/1-1", json.dumps(dogu))


@pytest.fixture
def empty(cesbr: Cesbr, empty_site: Site) -> Cesbr:
    """``cesbr`` on an instance with an empty repository."""
    return cesbr.having(CESBR_ROOT=str(empty_site.root))


def ids(cesbr: Cesbr) -> list[str]:
    """Return the IDs of all backups."""
    found = cesbr("backups", "--json").json
    assert isinstance(found, list)
    return [backup["id"] for backup in found]


def test_an_ill_dogu_is_not_backed_up(empty: Cesbr, empty_site: Site) -> None:
    """The failed check and its reason are reported; an option or a registry key overrides it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        checked(empty_site, {"Type": "tcp", "Port": port}, {"Type": "state"})
        local = empty.having(CESBR_HEALTH_HOST="127.0.0.1")
        said = local("backup", "redmine")
        assert said.code == 1
        assert "redmine (state ready): /state/redmine is not set" in said.err
        assert f"tcp {port}" not in said.err
        assert "--skip-health-checks" in said.err
        assert ids(empty) == []
        empty_site.set("/state/redmine", "ready")
        assert local("backup", "redmine").code == 0
    said = local("backup", "redmine")
    assert said.code == 1
    assert f"redmine (tcp {port}): 127.0.0.1: connection refused" in said.err
    assert local("backup", "redmine", "--skip-health-checks").code == 0
    empty_site.set("/config/backup/ignore_dogu_health", "true")
    said = local("backup", "redmine")
    assert said.code == 0
    assert "ignore_dogu_health is true" in said.err
    assert len(ids(empty)) == 3


def test_a_check_that_cannot_be_made_is_told(empty: Cesbr, empty_site: Site) -> None:
    """If the address of a dogu is unknown, a warning is printed and the backup continues."""
    checked(empty_site, {"Type": "tcp", "Port": 1})
    said = empty("backup", "redmine")
    assert said.code == 0
    assert "Not checked: redmine (tcp 1): unknown host; set health_host." in said.err


def test_scripts_surround_a_backup(empty: Cesbr, empty_site: Site) -> None:
    """Pre and post scripts receive the backup ID, and their output goes to stderr."""
    late = empty_site.files.parent / "late"
    dogu = {"Name": "official/redmine", "Volumes": [{"Name": "files"}, {"Name": "late"}]}
    empty_site.set("/dogu/redmine/1-1", json.dumps(dogu))
    script(empty_site, "pre_backup", f'echo "before $CESBR_BACKUP_ID"; mkdir {late}')
    script(empty_site, "post_backup", 'echo "after $CESBR_BACKUP_ID"')
    said = empty("backup", "redmine", "--json")
    assert said.code == 0, said.err
    result = said.json
    assert isinstance(result, dict)
    events = [json.loads(line) for line in said.err.splitlines()]
    notes = [event["text"] for event in events if event["event"] == "note"]  # without the progress
    assert notes == [f"before {result['id']}", f"after {result['id']}"]
    assert empty("backup", "--dry-run").err == ""
    late.rmdir()
    script(empty_site, "pre_backup", "true")
    said = empty("backup", "redmine")
    assert said.code == 3
    assert "post-backup" not in said.err.replace("post-backup script was not run", "")


def test_a_script_that_fails(empty: Cesbr, empty_site: Site) -> None:
    """A failing pre script prevents the backup; a failing post script does not undo it."""
    script(empty_site, "pre_backup", "echo not today; exit 3")
    said = empty("backup", "redmine")
    assert said.code == 1
    assert "not today" in said.err
    assert "pre_backup_script) failed: exit code 3" in said.err
    assert ids(empty) == []
    script(empty_site, "pre_backup", "true")
    script(empty_site, "post_backup", "exit 4")
    said = empty("backup", "redmine")
    assert said.code == 1
    assert "is complete" in said.out
    assert "post_backup_script) failed: exit code 4" in said.err
    assert len(ids(empty)) == 1
    script(empty_site, "pre_backup", "sleep 1000")
    said = empty.having(CESBR_SCRIPT_TIMEOUT="0.3")("backup", "redmine")
    assert said.code == 1
    assert "no exit within 0.3 s" in said.err
    assert len(ids(empty)) == 1


def test_a_restore_in_place_with_scripts_and_maintenance(own: Cesbr, site: Site) -> None:
    """Maintenance mode is on while scripts and the restore run, and off at the end."""
    page = site.root / MAINTENANCE
    for occasion in ("pre_restore", "post_restore"):
        script(site, occasion, f"echo {occasion}; cat {page}; test -f {page}")
    lost = site.files / "hello.txt"
    lost.unlink()
    said = own("restore", "--backup", "latest", "redmine", "--in-place", "--maintenance", "-y")
    assert said.code == 0, said.err
    assert lost.exists()
    assert said.err.index("pre_restore") < said.err.index("post_restore")
    assert said.err.count('"title": "Maintenance"') == 2
    assert not page.exists()
    said = own("restore", "--backup", "latest", "redmine", "--target", "back", "-y")
    assert (said.code, said.err) == (0, "")


def test_a_script_that_fails_keeps_a_restore_from_beginning(own: Cesbr, site: Site) -> None:
    """After a failing script nothing is written, and maintenance mode is switched off again."""
    script(site, "pre_restore", "exit 1")
    lost = site.files / "hello.txt"
    lost.unlink()
    said = own("restore", "--backup", "latest", "redmine", "--in-place", "--maintenance", "-y")
    assert said.code == 1
    assert "pre_restore_script" in said.err
    assert not lost.exists()
    assert not (site.root / MAINTENANCE).exists()


def test_a_killed_restore_is_made_good(own: Cesbr, site: Site) -> None:
    """After kill -9 the next start of cesbr ends maintenance mode and prints a notice."""
    started = site.root / "started"
    script(site, "pre_restore", f"echo $$ > {started}; exec sleep 1000")
    running = own.start(
        "restore", "--backup", "latest", "redmine", "--in-place", "--maintenance", "-y"
    )
    wait_until(lambda: started.exists() and started.read_text().endswith("\n"), "the script")
    running.kill()
    running.communicate()
    page = site.root / MAINTENANCE
    assert page.exists()
    said = own("backups", "--json")
    assert said.code == 0
    assert "has been turned off" in said.err
    assert not page.exists()
    assert own("backups").err == ""
    os.kill(int(started.read_text()), signal.SIGKILL)


def test_another_blueprint_is_denied(own: Cesbr, site: Site) -> None:
    """If the registry denies it, another blueprint's backup is not restored in place."""
    site.set("/config/backup/deny_cross_blueprint_restores", "true")
    site.set("/blueprint", '{"blueprintId": "mine"}')
    for command in (
        ("restore", "--backup", "latest", "redmine", "--in-place", "-y"),
        ("restore-registry", "redmine", "-y"),
    ):
        said = own(*command)
        assert said.code == 1
        assert "deny_cross_blueprint_restores" in said.err
    assert own("restore", "--backup", "latest", "--target", "back", "-y").code == 0


def test_what_would_be_denied_is_told_before(own: Cesbr, site: Site) -> None:
    """Plans and dry runs show the refusal, but only if the restore itself is refused."""
    whole = ("restore", "--backup", "latest", "redmine")
    plans = (
        (*whole, "--in-place", "--dry-run"),
        ("plan", *whole[1:], "--in-place"),
        ("restore-registry", "redmine", "--dry-run"),
    )
    for command in plans:
        assert "Denied" not in own(*command).out
    site.set("/config/backup/deny_cross_blueprint_restores", "true")
    site.set("/blueprint", '{"blueprintId": "mine"}')
    for command in plans:
        said = own(*command)
        assert said.code == 0
        assert said.out.splitlines()[-1].startswith("Denied: ")
        assert "deny_cross_blueprint_restores is true" in said.out
    found = own(*plans[0], "--json").json
    assert isinstance(found, dict)
    assert "deny_cross_blueprint_restores is true" in found["denied"]
    elsewhere = own(*whole, "--dry-run", "--json").json
    assert isinstance(elsewhere, dict)
    assert elsewhere["denied"] is None


def test_maintenance_is_for_in_place(own: Cesbr) -> None:
    """Restoring to a directory does not start maintenance mode."""
    said = own("restore", "--backup", "latest", "--maintenance", "--target", "x")
    assert said.code == 2
    assert "--in-place" in said.err


def test_keys_are_restored(own: Cesbr, site: Site) -> None:
    """The difference is shown without secrets, and only changed keys are written."""
    key = site.root / "var/lib/cesbr/registry/config/redmine/password"
    site.set("/config/redmine/password", "new and secret")
    assert own("backup", "redmine").code == 0
    site.set("/config/redmine/password", "changed and secret")
    site.set("/config/redmine/more", "mine")
    said = own("restore-registry", "redmine", "--dry-run")
    assert said.code == 0
    assert "~ /config/redmine/password  *** -> ***" in said.out
    assert "/config/redmine/more" in said.out
    assert "and secret" not in said.out + said.err
    assert own("restore-registry", "redmine").code == 2
    assert key.read_text() == "changed and secret"
    said = own("restore-registry", "redmine", "--yes", "--json")
    assert said.code == 0
    result = said.json
    assert isinstance(result, dict)
    assert (result["written"], result["removed"], result["failed"]) == (1, 0, [])
    assert [change["key"] for change in result["changes"]] == ["/config/redmine/password"]
    assert "and secret" not in said.out + said.err
    assert key.read_text() == "new and secret"
    said = own("restore-registry", "/config/redmine/more", "--delete", "--yes")
    assert "- /config/redmine/more  mine\n" in said.out
    assert "removed: 1" in said.out
    assert "No differences" in own("restore-registry", "redmine", "--dry-run").out
    said = own("restore-registry", "/")
    assert said.code == 2
