"""The administrator's scripts: what runs, what is refused, and that nothing of them stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from cesbrfs.ces.hooks import Scripts
from cesbrfs.errors import ScriptError
from tests.shell.waiting import wait_until


def script(folder: Path, body: str) -> Path:
    """Write a script that can be run."""
    path = folder / "script.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie, which nobody here can wait for, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    """Wait until the kernel has ended a process that was killed."""
    await trio.to_thread.run_sync(lambda: wait_until(lambda: not alive(pid), "its end"))


async def test_output_comes_as_it_is_written(tmp_path: Path) -> None:
    """Each line of both streams is told, while the script still runs; it knows the Backup ID."""
    answer = tmp_path / "answer"
    os.mkfifo(answer)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line == "out abc":  # it waits for this
            descriptor = os.open(answer, os.O_RDWR)
            os.write(descriptor, b"go\n")
            held.append(descriptor)

    held: list[int] = []
    body = f'echo "out $CESBR_BACKUP"; read line < {answer}; echo err $line >&2; printf last'
    scripts = Scripts({"pre_backup": script(tmp_path, body)}, say)
    await scripts.run("pre_backup", CESBR_BACKUP="abc")
    os.close(held[0])
    assert said == ["out abc", "err go", "last"]


async def test_one_that_is_not_configured_is_not_missed() -> None:
    """Without a script nothing happens."""
    await Scripts({"pre_backup": None}, print).run("pre_backup")
    await Scripts({}, print).run("post_backup")


async def test_secrets_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key in our environment is none of a script's business."""
    monkeypatch.setenv("RESTIC_PASSWORD", "very secret")
    said: list[str] = []
    await Scripts({"pre_backup": script(tmp_path, "env")}, said.append).run("pre_backup")
    assert any(line.startswith("PATH=") for line in said)
    assert not any("very secret" in line for line in said)


async def test_a_failure_names_script_and_key(tmp_path: Path) -> None:
    """A script that fails, or is killed, is told by its path, its key and how it ended."""
    for body, how in (("exit 7", "exit code 7"), ("kill -9 $$", "signal 9")):
        path = script(tmp_path, body)
        with pytest.raises(ScriptError) as raised:
            await Scripts({"post_restore": path}, print).run("post_restore")
        assert str(path) in raised.value.message
        assert "/config/backup/post_restore_script" in raised.value.message
        assert how in raised.value.message


async def test_what_is_no_script_is_refused(tmp_path: Path) -> None:
    """It must be absolute, exist, be a file and be executable, root or not."""
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    plain.chmod(0o644)
    text = script(tmp_path, "")
    text.write_text("no program")
    for path, reason in (
        (Path("script.sh"), "not absolute"),
        (tmp_path / "missing", "No such file"),
        (tmp_path, "not a file"),
        (plain, "not executable"),
        (text, "cannot be started"),
    ):
        with pytest.raises(ScriptError, match=reason) as raised:
            await Scripts({"pre_backup": path}, print).run("pre_backup")
        assert "/config/backup/pre_backup_script" in raised.value.message


async def test_a_deadline_ends_all_that_it_started(tmp_path: Path) -> None:
    """A script that takes too long is ended together with its children, and that is told."""
    said: list[str] = []
    path = script(tmp_path, "sleep 1000 & echo $!; sleep 1000")
    with pytest.raises(ScriptError, match=r"longer than 0\.5 s \(script_timeout\)") as raised:
        await Scripts({"pre_backup": path}, said.append, seconds=0.5).run("pre_backup")
    assert "/config/backup/pre_backup_script" in raised.value.message
    await gone(int(said[0]))


async def test_a_cancelled_script_is_ended(tmp_path: Path) -> None:
    """^C ends the script and its children, even one that ignores the first signal."""
    said: list[str] = []
    with trio.CancelScope() as scope:

        def say(line: str) -> None:
            said.append(line)
            scope.cancel()

        path = script(tmp_path, "(trap '' TERM; sleep 1000; sleep 1000) & echo $!; wait")
        await Scripts({"pre_backup": path}, say).run("pre_backup")
    assert scope.cancelled_caught
    await gone(int(said[0]))


async def test_what_outlives_its_script_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A program that the script leaves behind on purpose holds its output open; we go on."""
    said: list[str] = []
    path = script(tmp_path, "sleep 1000 & echo $!")
    with trio.fail_after(30):
        await Scripts({"pre_backup": path}, said.append).run("pre_backup")
    assert alive(int(said[0]))
    os.kill(int(said[0]), 9)
