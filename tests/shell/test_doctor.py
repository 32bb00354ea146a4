"""``cesbr doctor``: each check, what it finds and proposes; and the emergency sheet."""

from __future__ import annotations

import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import trio
from cesbr.doctor.examination import ORDER
from cesbr.doctor.finding import Finding, State, bounded, in_thread

from cesbrfs.errors import CesbrError
from tests.shell.conftest import KEY, Cesbr, Said, Site
from tests.support.http_server import serving

_DEPENDENT = ("repository", "key", "last backup")


def findings(said: Said) -> dict[str, dict[str, str]]:
    found = said.json
    assert isinstance(found, list)
    assert [each["check"] for each in found] == list(ORDER)
    for each in found:
        assert each.keys() == {"check", "state", "found", "action"}
        assert said.code == 1 or each["state"] != "error", each
    return {each["check"]: each for each in found}


def test_a_machine_that_works(kept: Cesbr, kept_site: Site) -> None:
    """Everything about the backups is ok; each check is one line."""
    said = kept("doctor", "--json")
    assert said.code == 0, said.out
    found = findings(said)
    for check in ("settings", "registry", *_DEPENDENT, "clock", "restic", "cache"):
        assert found[check]["state"] == "ok", found[check]
    assert str(kept_site.repository) in found["repository"]["found"]
    assert found["last backup"]["found"].endswith("complete")
    text = kept("doctor").out
    assert [line.split()[0] for line in text.splitlines()] == [x["state"] for x in found.values()]
    assert KEY.strip() not in text


def test_a_machine_with_nothing(cesbr: Cesbr) -> None:
    """Without repository, registry and restic, every check has a line, and nothing is created."""
    bare = cesbr.having(
        CESBR_RESTIC="/nope/restic", CESBR_ROOT=str(cesbr.here), CESBR_CACHE_DIR="/proc/none"
    )
    said = bare("doctor", "--json")
    assert (said.code, said.err) == (1, "")
    found = findings(said)
    assert found["repository"]["state"] == "error"
    assert found["repository"]["action"].startswith("Pass --repo URL")
    assert [found[check]["state"] for check in ("registry", "restic", "cache")] == ["warning"] * 3
    assert list(cesbr.here.iterdir()) == []


def test_settings_that_cannot_be_used(kept: Cesbr) -> None:
    """One error; what does not depend on the settings is checked all the same."""
    found = findings(kept.having(CESBR_PATIENCE="soon")("doctor", "--json"))
    assert found["settings"]["state"] == "error"
    assert "CESBR_PATIENCE" in found["settings"]["found"]
    assert found["restic"]["state"] == "ok"
    assert found["repository"]["found"] == "not checked: the settings cannot be used"


def test_keys(kept: Cesbr, tmp_path: Path) -> None:
    """A wrong key, a missing one, and one that others can read; the repository is there."""
    key = tmp_path / "a key"
    key.write_text("wrong")
    key.chmod(0o640)
    found = findings(kept("doctor", "--json", "-p", str(key)))
    assert [found[check]["state"] for check in _DEPENDENT] == ["ok", "error", "warning"]
    assert found["secrets"]["state"] == "warning"
    assert found["secrets"]["action"] == f"Run 'chmod 600 '{key}''"
    key.unlink()
    found = findings(kept("doctor", "--json", "-p", str(key)))
    assert [found[check]["state"] for check in _DEPENDENT] == ["ok", "error", "warning"]
    assert found["secrets"]["state"] == "error"


def test_a_backup_from_the_future(own: Cesbr, site: Site, restic_old: Path) -> None:
    """A snapshot dated in the future makes the clock suspicious."""
    from tests.support.restic_repo import ResticRepo

    restic = ResticRepo(restic_old, site.repository, KEY)
    restic.run("backup", "--time", "2099-01-01 00:00:00", str(site.files / "hello.txt"))
    found = findings(own("doctor", "--json"))
    assert found["clock"]["state"] == "warning"
    assert "in the future" in found["clock"]["found"]


class _LateServer(BaseHTTPRequestHandler):
    """Has no repository, and a clock that is an hour ahead."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + 3600)

    def log_message(self, *_: object) -> None:
        pass


def test_the_clock_of_a_server(kept: Cesbr) -> None:
    """It is compared even if there is no repository."""
    with serving(_LateServer) as port:
        said = kept("doctor", "--json", "-r", f"rest:http://127.0.0.1:{port}/")
    found = findings(said)
    assert found["repository"]["action"].startswith("Create it with 'cesbr init'")
    assert found["clock"]["state"] == "error"
    assert found["clock"]["found"].endswith(" s behind the server")


def test_a_server_that_is_silent(kept: Cesbr) -> None:
    """The other checks do not wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rest:http://127.0.0.1:{server.getsockname()[1]}/"
        found = findings(kept("doctor", "--json", "--patience", "1", "-r", url))
    assert "within 1 s" in found["repository"]["found"]
    assert [found[check]["state"] for check in _DEPENDENT] == ["error", "warning", "warning"]


async def test_a_check_never_hangs_and_never_raises(tmp_path: Path) -> None:
    """A thread that blocks is abandoned; an unexpected error is a finding."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def blocking() -> Finding:
        await in_thread(fifo.read_bytes)
        raise AssertionError

    late = await bounded("late", blocking, 0.05)
    assert (late.state, late.found) == (State.WARNING, "not checked: no result within 0 s")
    threading.Thread(target=fifo.write_bytes, args=(b"",)).start()

    async def fails() -> Finding:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    assert (await bounded("x", fails)).found == "not checked: ZeroDivisionError()"

    async def refuses() -> Finding:
        await trio.lowlevel.checkpoint()
        raise CesbrError("It is broken: no fuse. Change the fuse.")

    refused = await bounded("x", refuses)
    assert (refused.found, refused.action) == ("It is broken: no fuse", "Change the fuse.")


def test_the_emergency_sheet(kept: Cesbr, kept_site: Site) -> None:
    """It has address, variables by name and commands; the key on request only."""
    own = kept.having(RESTIC_KEY_HINT="hidden value", AWS_SECRET_ACCESS_KEY="unrelated")
    said = own("doctor", "--sheet")
    assert said.code == 0, said.err
    assert f"export RESTIC_REPOSITORY={kept_site.repository}\n" in said.out
    assert "export RESTIC_KEY_HINT=...\n" in said.out
    assert "AWS_" not in said.out
    assert "registry /config/backup/encryption_key" in said.out
    assert KEY.strip() not in said.out
    assert "hidden value" not in said.out
    with_key = own("doctor", "--sheet", "--with-key")
    assert f"export RESTIC_PASSWORD='{KEY}'\n" in with_key.out
    assert "hidden value" not in with_key.out
    as_json = own("doctor", "--sheet", "--json").json
    assert isinstance(as_json, dict)
    assert as_json["key"] is None
    assert own("doctor", "--with-key").code == 2


def test_a_sheet_without_the_repository(cesbr: Cesbr) -> None:
    """The address alone is enough; a password in it is shown with --with-key only."""
    url = "rest:http://me:hidden@127.0.0.1:1/"
    said = cesbr("doctor", "--sheet", "--repo", url)
    assert said.code == 0, said.err
    assert "rest:http://me:***@127.0.0.1:1/" in said.out
    assert "none is configured" in said.out
    assert cesbr("doctor", "--sheet").code == 2
