"""Pre and post hooks: output, errors, timeouts and cleanup of child processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from cesbrfs.ces.hooks import Hooks
from cesbrfs.errors import ScriptError
from tests.shell.waiting import wait_until


def script(directory: Path, body: str) -> Path:
    """Write an executable script."""
    path = directory / "script.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def alive(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    """Wait until a killed process has exited."""
    await trio.to_thread.run_sync(
        lambda: wait_until(lambda: not alive(pid), "the exit of the process")
    )


async def test_output_is_forwarded_immediately(tmp_path: Path) -> None:
    """Lines of stdout and stderr arrive while the script runs; the backup ID is in its env."""
    answer = tmp_path / "answer"
    os.mkfifo(answer)
    output: list[str] = []

    def on_line(line: str) -> None:
        output.append(line)
        if line == "out abc":  # the script is waiting for this
            descriptor = os.open(answer, os.O_RDWR)
            os.write(descriptor, b"go\n")
            held.append(descriptor)

    held: list[int] = []
    body = f'echo "out $CESBR_BACKUP"; read line < {answer}; echo err $line >&2; printf last'
    hooks = Hooks({"pre_backup": script(tmp_path, body)}, on_line)
    await hooks.run("pre_backup", CESBR_BACKUP="abc")
    os.close(held[0])
    assert output == ["out abc", "err go", "last"]


async def test_unconfigured_scripts_are_skipped() -> None:
    """Nothing runs if no script is configured."""
    await Hooks({"pre_backup": None}, print).run("pre_backup")
    await Hooks({}, print).run("post_backup")


async def test_secrets_are_not_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encryption key in our environment is not passed to hooks."""
    monkeypatch.setenv("RESTIC_PASSWORD", "very secret")
    output: list[str] = []
    await Hooks({"pre_backup": script(tmp_path, "env")}, output.append).run("pre_backup")
    assert any(line.startswith("PATH=") for line in output)
    assert not any("very secret" in line for line in output)


async def test_errors_name_script_and_registry_key(tmp_path: Path) -> None:
    """The error for a failed or killed script has its path, key and exit code or signal."""
    for body, how in (("exit 7", "exit code 7"), ("kill -9 $$", "signal 9")):
        path = script(tmp_path, body)
        with pytest.raises(ScriptError) as raised:
            await Hooks({"post_restore": path}, print).run("post_restore")
        assert str(path) in raised.value.message
        assert "/config/backup/post_restore_script" in raised.value.message
        assert how in raised.value.message


async def test_invalid_scripts_are_rejected(tmp_path: Path) -> None:
    """A script is an absolute path of an executable file, even for root."""
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    plain.chmod(0o644)
    text = script(tmp_path, "")
    text.write_text("no program")
    for path, reason in (
        (Path("script.sh"), "not absolute"),
        (tmp_path / "missing", "No such file"),
        (tmp_path, "not a regular file"),
        (plain, "not executable"),
        (text, "Cannot start"),
    ):
        with pytest.raises(ScriptError, match=reason) as raised:
            await Hooks({"pre_backup": path}, print).run("pre_backup")
        assert "/config/backup/pre_backup_script" in raised.value.message


async def test_a_timeout_kills_the_process_group(tmp_path: Path) -> None:
    """A script that times out is killed with its children, and reported."""
    output: list[str] = []
    path = script(tmp_path, "sleep 1000 & echo $!; sleep 1000")
    with pytest.raises(ScriptError, match=r"no exit within 0\.5 s \(script_timeout\)") as raised:
        await Hooks({"pre_backup": path}, output.append, seconds=0.5).run("pre_backup")
    assert "/config/backup/pre_backup_script" in raised.value.message
    await gone(int(output[0]))


async def test_cancellation_kills_the_process_group(tmp_path: Path) -> None:
    """^C kills the script and its children, even those that ignore SIGTERM."""
    output: list[str] = []
    with trio.CancelScope() as scope:

        def on_line(line: str) -> None:
            output.append(line)
            scope.cancel()

        path = script(tmp_path, "(trap '' TERM; sleep 1000; sleep 1000) & echo $!; wait")
        await Hooks({"pre_backup": path}, on_line).run("pre_backup")
    assert scope.cancelled_caught
    await gone(int(output[0]))


async def test_a_background_process_does_not_block(tmp_path: Path) -> None:
    """A process left in the background keeps the output open; run() returns anyway."""
    output: list[str] = []
    path = script(tmp_path, "sleep 1000 & echo $!")
    with trio.fail_after(30):
        await Hooks({"pre_backup": path}, output.append).run("pre_backup")
    assert alive(int(output[0]))
    os.kill(int(output[0]), 9)
