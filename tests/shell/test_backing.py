"""Progress of a full backup, and the state after an interrupted one."""

from __future__ import annotations

import random
import re
import signal
import subprocess
from pathlib import Path

from cesbr.ui.backup_progress import BackupProgress
from cesbr.ui.progress import Progress

from cesbrfs.backup.executor import Step
from cesbrfs.backup.plan import PointResult, PointStep
from cesbrfs.restic.events import Status
from tests.shell.conftest import Cesbr
from tests.shell.waiting import wait_until

_MIB = 1 << 20


def _steps() -> list[PointStep]:
    return [PointStep("volumes", name) for name in ("small", "large")]


def _status(number: int, share: float, files: int, size: int) -> Step:
    event = Status(percent_done=share, files_done=files, bytes_done=size)
    return Step(number, 3, "volumes", ("small", "large")[number - 1], event=event)


def _ended(number: int, files: int, size: int) -> Step:
    dogu = ("small", "large")[number - 1]
    result = PointResult("volumes", dogu, snapshot="ab", files=files, bytes=size)
    return Step(number, 3, "volumes", dogu, result=result)


def test_a_point_weighs_what_it_had_before() -> None:
    """The percentage refers to the whole run: a large dogu counts for more than a small one."""
    progress = Progress("Backing up")
    run = BackupProgress(progress, {("volumes", "large"): 97 * _MIB})
    run.begin(_steps())
    run.update(_ended(1, 5, 10))
    assert progress.share == 0.01
    run.update(_status(2, 0.5, 3, 20))
    assert progress.share == (1 + 98 / 2) / 100
    assert (progress.files, progress.bytes) == (8, 30)
    assert run.saved == 1
    run.update(_ended(2, 6, 40))
    run.update(Step(3, 3, "manifest", None, result=PointResult("manifest", None, snapshot="cd")))
    assert (progress.share, progress.files, progress.bytes) == (1.0, 11, 50)


def test_it_never_goes_back() -> None:
    """No displayed value decreases when restic restarts its counters or another item reports."""
    chance = random.Random(7)
    progress = Progress("Backing up")
    run = BackupProgress(progress, {})
    run.begin(_steps())
    before = (0.0, 0, 0)
    for _ in range(500):
        number, size = chance.randint(1, 2), chance.randint(0, 1000)
        share = chance.random()
        if chance.random() < 0.01:
            run.update(_ended(number, size, size))
        else:
            run.update(_status(number, share, size, size))
        now = (progress.share or 0.0, progress.files or 0, progress.bytes or 0)
        assert all(a <= b for a, b in zip(before, now, strict=True))
        assert now[0] <= 1
        before = now


def _second_hangs(directory: Path, restic: Path) -> Path:
    """Return a restic whose first backup succeeds and all others hang."""
    begun = directory / "begun"
    begun.mkdir()
    subprocess.run(["mkfifo", directory / "never"], check=True)
    script = directory / "restic"
    script.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" backup "*) n=$(ls {begun} | wc -l); : > {begun}/$$\n'
        f"[ $n -ge 1 ] && exec cat {directory}/never;; esac\n"
        f'exec {restic} "$@"\n'
    )
    script.chmod(0o755)
    return script


def test_interrupted_it_names_what_it_left(own: Cesbr, tmp_path: Path, restic_old: Path) -> None:
    """^C prints the ID of the incomplete backup and a command that removes it."""
    slow = own.having(CESBR_RESTIC=str(_second_hangs(tmp_path, restic_old)))
    with slow.start("backup") as running:
        wait_until(lambda: len(list((tmp_path / "begun").iterdir())) > 1, "a second snapshot")
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        said = running.stderr.read().decode()
    assert running.returncode == 130
    found = re.fullmatch(
        r"cesbr: Interrupted\. Backup (\S+) is incomplete: 1 snapshot of it is in the repository\."
        r" '(cesbr forget \1)' removes it, and the next backup reuses its data\.\n",
        said,
    )
    assert found, said
    backups = own("backups", "--json").json
    assert isinstance(backups, list)
    assert (backups[-1]["id"], backups[-1]["status"]) == (found[1], "incomplete")
    removed = own(*found[2].split()[1:], "--yes")
    assert removed.code == 0, removed.err
