"""forget and retention policies, as an administrator runs them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.shell.conftest import KEY, Cesbr, Site, back_up_twice, copy
from tests.shell.terminal import terminal
from tests.shell.test_maintenance import hold_a_lock
from tests.shell.waiting import hang_the_index, wait_until
from tests.support.restic_repo import ResticRepo


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, empty_template: Site, restic_old: Path) -> Site:
    """An instance with two full backups, which tests do not change."""
    root = tmp_path_factory.mktemp("twice") / "site"
    return back_up_twice(copy(empty_template, root), restic_old)


@pytest.fixture
def site(tmp_path: Path, twice: Site) -> Site:
    """The same, for this test only."""
    return copy(twice, tmp_path / "site")


def snapshots(site: Site) -> set[str]:
    return set(os.listdir(site.repository / "snapshots"))


def statuses(cesbr: Cesbr) -> list[str]:
    """Return the status of each backup, oldest first."""
    found = cesbr("backups", "--json").json
    assert isinstance(found, list)
    return [backup["status"] for backup in found]


def ids(cesbr: Cesbr) -> list[str]:
    found = cesbr("backups", "--json").json
    assert isinstance(found, list)
    return [backup["id"] for backup in found]


def test_a_dry_run_shows_and_changes_nothing(own: Cesbr, site: Site) -> None:
    """Backups to remove, backups to keep, and the reasons, as text and as JSON."""
    before = snapshots(site)
    said = own("forget", "--policy", "removeAllButKeepLatest", "--dry-run", "--prune")
    assert (said.code, said.err) == (0, "")
    gone, kept = said.out.splitlines()[1:]
    assert gone.startswith("remove")
    assert kept.startswith("keep")
    assert "newest complete" in kept
    told = own("forget", "--keep-last", "1", "--dry-run", "--json").json
    assert isinstance(told, dict)
    assert [backup["keep"] for backup in told["backups"]] == [False, True]
    assert snapshots(site) == before


def test_policies_tell_what_each_would_do(own: Cesbr, site: Site) -> None:
    """`policies` shows the effect of each policy and marks the configured one."""
    site.set("/config/backup/retention_enabled", "true")
    site.set("/config/backup/retention_strategy", "KeepLastSevenDays")
    found = own("policies", "--json").json
    assert isinstance(found, list)
    assert {p["name"]: len(p["remove"]) for p in found} == {
        "keepAll": 0,
        "removeAllButKeepLatest": 1,
        "keepLastSevenDays": 0,
        "keep7Days1Month1Quarter1Year": 0,
    }
    assert [p["name"] for p in found if p["configured"]] == ["keepLastSevenDays"]
    assert "1 of 2" in own("policies").out


def test_a_backup_of_one_dogu_does_not_stand_in_for_all(own: Cesbr) -> None:
    """The full backup before it is still the latest; the plan distinguishes the two."""
    assert own("forget", ids(own)[0], "--yes").code == 0
    assert own("backup", "redmine").code == 0
    said = own("forget", "--policy", "removeAllButKeepLatest", "--dry-run")
    whole, some = said.out.splitlines()[1:]
    assert whole.startswith("keep")
    assert " all " in whole
    assert some.startswith("keep")
    assert " redmine " in some
    said = own("forget", ids(own)[0])
    assert said.code == 2
    assert "is the last complete backup" in said.err


def test_nights_and_hosts_under_one_tag_are_judged_apart(
    own: Cesbr, site: Site, restic_old: Path
) -> None:
    """Each is a separate backup: a policy keeps the new ones and shows the host."""
    repo = ResticRepo(restic_old, site.repository, KEY)
    for day in (1, 2, 3):
        for host in ("a", "b"):
            repo.backup(
                "--host", host, site.files, tags=["nightly"], time=f"2026-01-0{day} 10:00:00"
            )
    listed = own("--json", "backups").json
    assert isinstance(listed, list)
    nights = [backup for backup in listed if backup["id"].startswith("nightly@")]
    assert [backup["host"] for backup in nights] == ["a", "b"] * 3
    assert len({backup["id"] for backup in nights}) == 6
    said = own("forget", "--keep-within", "1d", "--yes", "--json").json
    assert isinstance(said, dict)
    assert sorted(said["removed"]) == sorted(backup["id"] for backup in nights[:4])
    said = own("cat", "--backup", "nightly", "redmine/volumes/files/hello.txt")
    assert said.code != 0
    assert "2 backups have the tag 'nightly'" in said.err


def test_a_backup_dated_in_the_future(own: Cesbr, site: Site, restic_old: Path) -> None:
    """It is marked, is never the latest, and does not affect policies."""
    repo = ResticRepo(restic_old, site.repository, KEY)
    repo.backup(site.files, tags=["future"], time="2036-01-01 10:00:00")
    real = ids(own)[:2]
    said = own("backups")
    assert "unverified, in the future" in said.out
    assert "Backup future is dated in the future" in said.err
    for rule in (("--keep-last", "1"), ("--keep-within", "1y"), ("--policy", "keepLastSevenDays")):
        said = own("forget", *rule, "--dry-run", "--json")
        assert "Check the clock of" in said.err
        assert isinstance(said.json, dict)
        kept = {fate["id"]: fate["keep"] for fate in said.json["backups"]}
        assert kept["future"]
        assert kept[real[1]]
    assert own("use", "latest", "--json").json["id"] == real[1]  # type: ignore[index]  # an object


def test_the_configured_policy(own: Cesbr, site: Site) -> None:
    """It is the default; if disabled, all backups stay; if invalid, the error names its key."""
    site.set("/config/backup/retention_strategy", "removeAllButKeepLatest")
    off = own("forget", "--yes")
    assert off.code == 0
    assert "not enabled" in off.err
    assert len(ids(own)) == 2
    site.set("/config/backup/retention_enabled", "true")
    *_, newest = ids(own)
    done = own("forget", "--yes", "--prune", "--json").json
    assert isinstance(done, dict)
    assert (len(done["removed"]), done["pruned"]) == (1, True)
    assert ids(own) == [newest]
    assert statuses(own) == ["complete"]
    assert own("check", "--read-data").code == 0
    site.set("/config/backup/retention_strategy", "keepSome")
    wrong = own("forget", "--yes")
    assert wrong.code == 2
    assert "retention_strategy" in wrong.err
    assert "keepAll" in wrong.err


def test_where_nobody_can_answer_yes_is_needed(own: Cesbr, site: Site) -> None:
    """Also for named backups; the error follows the plan and precedes any removal."""
    before = snapshots(site)
    oldest, _ = ids(own)
    said = own("forget", oldest)
    assert said.code == 2
    assert "--yes" in said.err
    assert f"remove  {oldest}" in said.err
    assert snapshots(site) == before
    assert own("forget", oldest, "--yes").code == 0
    assert oldest not in ids(own)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("latest", "--policy", "keepAll"), "not several of them"),
        (("--policy", "keepAll", "--keep-last", "1"), "not several of them"),
        (("--policy", "keepNone"), "keepLastSevenDays"),
        (("--keep-daily", "0"), "Invalid value 0 for --keep-daily"),
        (("--keep-within", "soon"), "Invalid duration"),
        (("--policy", "keepAll", "--force"), "--force"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    kept: Cesbr, arguments: tuple[str, ...], told: str
) -> None:
    """Invalid options fail before the repository is read."""
    said = kept("forget", "--yes", *arguments)
    assert said.code == 2
    assert told in said.err


def test_the_last_complete_backup_stays(own: Cesbr, site: Site) -> None:
    """It is removed only by name with --force; other snapshots are never removed."""
    repo = ResticRepo(Path(own.environ["CESBR_RESTIC"]), site.repository, KEY)
    foreign = repo.backup(tags=["kind=x"], stdin=("file", b"foreign"))
    both = ids(own)
    said = own("forget", *both, "--yes")
    assert said.code == 2
    assert f"{both[-1]} is the last complete backup" in said.err
    assert len(ids(own)) == 2
    assert own("forget", *both, "--yes", "--force").code == 0
    assert snapshots(site) == {foreign}


def test_a_killed_removal_is_finished_by_the_same_command(
    own: Cesbr, site: Site, tmp_path: Path
) -> None:
    """Killed after the first restic call, it leaves a backup that is shown as incomplete."""
    deadly = tmp_path / "restic"
    real = own.environ["CESBR_RESTIC"]
    deadly.write_text(
        f'#!/bin/sh\n{real} "$@" || exit\ncase "$*" in *forget*) kill -9 $PPID;; esac\n'
    )
    deadly.chmod(0o755)
    command = ("forget", "--policy", "removeAllButKeepLatest", "--yes")
    assert own.having(CESBR_RESTIC=str(deadly))(*command).code == -signal.SIGKILL
    assert statuses(own) == ["incomplete", "complete"]
    assert own(*command).code == 0
    assert statuses(own) == ["complete"]
    assert site.locks == []


@pytest.mark.parametrize("one_shot", [False, True])
def test_an_interrupted_prune(own: Cesbr, site: Site, tmp_path: Path, *, one_shot: bool) -> None:
    """The backup is removed completely, no lock remains, and a later prune finishes."""
    oldest, newest = ids(own)
    command = ("forget", oldest, "--prune", "--yes")
    kept = {file: file.read_bytes() for file in (site.repository / "index").iterdir()}
    hang_the_index(site)
    with terminal(own, tmp_path, *(command if one_shot else ())) as screen:
        if not one_shot:
            screen.wait_for_prompt()
            screen.line(" ".join(command))
        screen.wait_for(r"^Pruning  0:0\d")
        wait_until(lambda: site.locks, "restic's lock")
        if one_shot:
            screen.keys("C-c")
            assert screen.exit_code() == 130
            assert screen.screen().endswith("cesbr: Interrupted.")
        else:
            screen.interrupt()
    assert site.locks == []
    for file, content in kept.items():
        file.unlink()
        file.write_bytes(content)
    assert ids(own) == [newest]
    assert statuses(own) == ["complete"]
    again = own("forget", "--keep-last", "1", "--prune", "--yes")
    assert again.code == 0, again.err
    assert own("check", "--read-data").code == 0


def test_a_locked_repository_is_error_11(own: Cesbr, site: Site, restic_binary: Path) -> None:
    """Nothing is removed, and the owner of the lock is reported."""
    before = snapshots(site)
    with hold_a_lock(site, restic_binary) as holding:
        said = own.having(CESBR_RESTIC=str(restic_binary))("forget", "--keep-last", "1", "--yes")
        holding.kill()
    assert said.code == 11
    assert str(holding.pid) in said.err
    assert "not finished" not in said.err
    assert snapshots(site) == before


def test_a_repository_that_does_not_answer(kept: Cesbr) -> None:
    """One error message, and no repository is created."""
    said = kept("--repo", "rest:http://127.0.0.1:1/", "forget", "--keep-last", "1", "--yes")
    assert said.code in {1, 2}
    assert said.err.count("\n") == 1
    assert "127.0.0.1:1" in said.err


def test_a_dry_run_never_initialises(cesbr: Cesbr, new_site: Site) -> None:
    """A dry run does not create a missing repository."""
    missing = cesbr.having(CESBR_ROOT=str(new_site.root))
    assert missing("forget", "--keep-last", "1", "--dry-run").code == 10
    assert not new_site.repository.exists()
