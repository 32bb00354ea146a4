"""protect, unprotect and note, as an administrator runs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shell.conftest import KEY, Inside, Site
from tests.support.restic_repo import ResticRepo


@pytest.fixture
def own(site: Site, restic_old: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    """Commands in this process, on backups that the test may change."""
    monkeypatch.setenv("CESBR_RESTIC", str(restic_old))
    made = Inside(site.root)
    yield made
    made.close()


def listed(own: Inside) -> list[Any]:
    found = own("backups", "--json").json
    assert isinstance(found, list)
    return found


def test_a_protected_backup_is_shown_and_kept(own: Inside) -> None:
    """In `backups`, `use`, backup.json and the plan of `forget`; by ID it is refused."""
    first = listed(own)[0]["id"]
    said = own("protect", first, "latest~1")
    assert (said.code, said.out) == (0, f"Backup {first} is now protected.\n")
    assert [backup["protected"] for backup in listed(own)] == [True, False]
    assert [backup["status"] for backup in listed(own)] == ["complete"] * 2
    assert own("backups").out.count("complete, protected") == 1
    assert "complete, protected." in own("use", first).out
    assert '"protected": true' in own("cat", f"/{first}/backup.json").out
    said = own("forget", "--keep-last", "1", "--dry-run")
    assert "protected" in said.out.splitlines()[1]
    assert "remove" not in said.out
    said = own("forget", first, "--force", "--yes")
    assert said.code == 2
    assert said.err == (
        f"cesbr: {first} is protected. Run 'cesbr unprotect {first}' before you remove it.\n"
    )
    assert own("protect", first, "--json").json == [
        {"id": first, "protected": True, "changed": False}
    ]
    assert own("unprotect", first).out == f"Backup {first} is no longer protected.\n"
    assert own("forget", first, "--yes").code == 0
    assert len(listed(own)) == 1


def test_a_note_is_shown(own: Inside) -> None:
    """It has its own column in `backups` once there is one."""
    assert "Note" not in own("backups").out
    assert own("note", "latest").out == ""
    said = own("note", "latest", "before the upgrade, 100 %")
    assert said.code == 0, said.err
    last = listed(own)[-1]
    assert last["note"] == "before the upgrade, 100 %"
    shown = own("backups").out
    assert "Note" in shown
    assert "before the upgrade, 100 %" in shown.splitlines()[2]
    assert own("use", "latest").out.splitlines()[1] == "before the upgrade, 100 %"
    assert own("note", "latest").out == "before the upgrade, 100 %\n"
    assert own("note", "latest", "x", "--remove").code == 2
    assert own("note", "latest", " ").code == 2
    assert own("note", "latest", "--remove").code == 0
    assert listed(own)[-1]["note"] is None


def test_tags_of_others_cannot_move_the_cursor(own: Inside, site: Site, restic_old: Path) -> None:
    """A note that another program wrote is escaped like a file name."""
    repo = ResticRepo(restic_old, site.repository, KEY)
    repo.backup(site.files, tags=["foreign", "note=a%1b[2Jb\x1bc"])
    said = own("backups")
    assert "\x1b" not in said.out
    assert "a\\x1b[2Jb\\x1bc" in said.out
    assert "\x1b" not in own("note", "foreign").out
