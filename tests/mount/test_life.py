"""Start and end of a mount: daemon, signals, crashes, logs and refusals."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.support.mounting import Mount, environment, is_mounted
from tests.support.restic_repo import ResticRepo, create

_SECONDS = 30


@pytest.fixture(scope="module")
def repo(restic_new: Path, tmp_path_factory: pytest.TempPathFactory) -> ResticRepo:
    """A repository with one backup, shared read-only by all tests."""
    top = tmp_path_factory.mktemp("life")
    volume = top / "var/lib/ces/redmine/volumes/files"
    volume.mkdir(parents=True)
    (volume / "note.txt").write_text("hello\n")
    (volume / "big").write_bytes(os.urandom(2 << 20))
    for number in range(200):
        (volume / f"n{number:03}").write_text("x" * number)
    made = create(restic_new, top / "repo")
    made.backup(volume, tags=["b1"])
    return made


def run(access: Access, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the mount program until it returns."""
    return subprocess.run(
        [sys.executable, "-m", "cesbrfs", *arguments],
        env=environment(access),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


def serving(path: Path) -> list[int]:
    """Return the PIDs of processes with `path` in their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.fsencode(path) in Path("/proc", pid, "cmdline").read_bytes().split(b"\0"):
                found.append(int(pid))
    return found


def wait_until(true: Callable[[], bool]) -> None:
    """Poll until `true` returns True; fail after a timeout of 30 s."""
    deadline = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # another process, which sends no notification


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount on; kills its mount process and unmounts it afterwards."""
    path = tmp_path / "backups"
    path.mkdir()
    yield path
    for pid in serving(path):
        os.kill(pid, signal.SIGKILL)
    if is_mounted(path):
        subprocess.run(["fusermount3", "-uz", path], check=True)


def test_the_daemon_returns_once_the_mount_answers(repo: ResticRepo, mountpoint: Path) -> None:
    """The program exits with 0 once files are readable; fusermount3 -u ends the daemon."""
    done = run(repo.access, mountpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (mountpoint / "b1/redmine/volumes/files/note.txt").read_text() == "hello\n"
    subprocess.run(["fusermount3", "-u", mountpoint], check=True)
    wait_until(lambda: not serving(mountpoint))
    assert not is_mounted(mountpoint)
    assert os.listdir(mountpoint) == []


def test_interrupting_the_start(mountpoint: Path, tmp_path: Path) -> None:
    """^C while the server does not answer: exit code 130, and no process stays."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_SECONDS)
        url = f"rest:http://127.0.0.1:{server.getsockname()[1]}/"
        with (tmp_path / "errors").open("w+b") as errors:
            starting = subprocess.Popen(
                [sys.executable, "-m", "cesbrfs", mountpoint],
                env=environment(Access(url, Secret(b"key"))),
                stderr=errors,
                start_new_session=True,
            )
            connection, _ = server.accept()
            with connection:
                os.killpg(starting.pid, signal.SIGINT)
                assert starting.wait(_SECONDS) == 130
            errors.seek(0)
            assert errors.read() == b""
    assert not serving(mountpoint)
    assert not is_mounted(mountpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signals_end_it_cleanly(
    repo: ResticRepo, mount: Callable[..., Mount], number: signal.Signals
) -> None:
    """SIGTERM, SIGINT and SIGQUIT unmount a mount in use and exit with 0."""
    made = mount(repo.access)
    (made.path / "b1/redmine/volumes/files/note.txt").read_bytes()
    assert made.stop(number) == 0
    assert not made.mounted


def test_sigterm_ends_a_busy_mount(repo: ResticRepo, mount: Callable[..., Mount]) -> None:
    """SIGTERM unmounts and ends the process while a file is open."""
    made = mount(repo.access)
    file = os.open(made.path / "b1/redmine/volumes/files/big", os.O_RDONLY)
    try:
        assert len(os.read(file, 1000)) == 1000
        assert made.stop() == 0
        assert not made.mounted
    finally:
        with contextlib.suppress(OSError):  # the mount process has ended
            os.close(file)


def test_the_next_start_replaces_a_crashed_mount(
    repo: ResticRepo, mount: Callable[..., Mount], mountpoint: Path
) -> None:
    """After SIGKILL the mountpoint returns errors until the next start replaces it."""
    assert run(repo.access, mountpoint).returncode == 0
    (pid,) = serving(mountpoint)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not serving(mountpoint))
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(mountpoint)
    assert run(repo.access, mountpoint).returncode == 0
    assert "b1" in os.listdir(mountpoint)


def test_sighup_does_not_end_the_mount(repo: ResticRepo, mount: Callable[..., Mount]) -> None:
    """After SIGHUP the mount still lists its backups."""
    made = mount(repo.access)
    made.process.send_signal(signal.SIGHUP)
    assert "b1" in os.listdir(made.path)
    assert made.process.poll() is None


def test_other_signals_are_ignored(repo: ResticRepo, mount: Callable[..., Mount]) -> None:
    """SIGUSR1, SIGALRM and others, which kill by default, do not end the mount."""
    made = mount(repo.access)
    for number in (
        signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF,
        signal.SIGIO, signal.SIGPIPE,
    ):  # fmt: skip
        made.process.send_signal(number)
        assert "b1" in os.listdir(made.path)
    assert made.process.poll() is None


def test_a_rotated_log_is_reopened(
    repo: ResticRepo, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """After the log file was renamed, new lines are written to a new file."""
    log, rotated = tmp_path / "mount.log", tmp_path / "mount.log.1"
    made = mount(repo.access, "--log", str(log))
    log.rename(rotated)
    assert made.stop() == 0
    assert "Ending on SIGTERM" in log.read_text()
    assert "Ending on SIGTERM" not in rotated.read_text()


@pytest.mark.parametrize("obstacle", ["no directory", "a directory of its name"])
def test_a_log_that_cannot_be_reopened_does_not_end_the_mount(
    obstacle: str, repo: ResticRepo, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Log lines are written to stderr instead."""
    log_dir = tmp_path / "logs"
    log_dir.mkdir()
    log = log_dir / "mount.log"
    made = mount(repo.access, "--log", str(log))
    log.unlink()
    if obstacle == "no directory":
        log_dir.rmdir()
    else:
        log.mkdir()
    assert made.stop() == 0
    assert not made.mounted
    assert "Ending on SIGTERM" in made.log.read_text()
    assert "Traceback" not in made.log.read_text()


@pytest.mark.parametrize("last", ["link", "linked/backups"])
def test_a_mountpoint_behind_a_symlink(repo: ResticRepo, tmp_path: Path, last: str) -> None:
    """A path with a symlink works for replacing a crashed mount and `cesbr umount`."""
    (tmp_path / "real/backups").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/backups")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    named, real = tmp_path / last, tmp_path / "real/backups"
    try:
        assert run(repo.access, named).returncode == 0
        (pid,) = serving(named)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not serving(named))
        done = run(repo.access, named)
        assert (done.returncode, done.stderr) == (0, "")
        assert "b1" in os.listdir(named)
        done = subprocess.run(
            [sys.executable, "-m", "cesbr", "umount", named],
            env=environment(repo.access), capture_output=True, text=True, check=False,
            timeout=_SECONDS,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda: not serving(named))
        assert not is_mounted(real)
    finally:
        for pid in serving(named):
            os.kill(pid, signal.SIGKILL)
        if is_mounted(real):
            subprocess.run(["fusermount3", "-uz", real], check=True)


def test_a_new_backup_updates_the_mtime_of_the_root(
    restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """The root's mtime changes with a new backup, even if a client only calls stat."""
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(tmp_path / "repo/config", tags=["b1"], time="2026-11-20 10:00:00")
    made = mount(repo.access)
    assert "b1" in os.listdir(made.path)
    before = made.path.stat().st_mtime_ns
    assert time.strftime("%Y-%m-%d", time.gmtime(before / 1e9)) == "2026-11-20"
    repo.backup(tmp_path / "repo/config", tags=["b2"], time="2026-11-19 10:00:00")
    wait_until(lambda: made.path.stat().st_mtime_ns > before)


def test_killed_clients_do_not_block_the_mount(
    repo: ResticRepo, mount: Callable[..., Mount]
) -> None:
    """The mount still answers after clients were killed during requests."""
    made = mount(repo.access)
    for number in range(40):
        reader = subprocess.Popen(
            ["grep", "-r", "hello", made.path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            reader.wait(number / 1000)
        reader.kill()
        reader.wait()
    assert (made.path / "b1/redmine/volumes/files/note.txt").read_text() == "hello\n"


def test_arguments_of_fstab_are_accepted(repo: ResticRepo, mountpoint: Path) -> None:
    """The repository comes first, and options without effect are ignored, as for mount(8)."""
    key = mountpoint.parent / "key"
    key.write_text(repo.password)
    bare = Access("", Secret(b""))
    done = subprocess.run(
        [sys.executable, "-m", "cesbrfs", repo.directory, mountpoint, "-o",
         f"ro,dev,suid,_netdev,nofail,x-systemd.automount,password_file={key}"],
        env={k: v for k, v in environment(bare).items() if not k.startswith("RESTIC_")},
        capture_output=True, text=True, timeout=_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "b1" in os.listdir(mountpoint)


class TestRefusals:
    """Failed mounts print one line with the reason and return an exit code."""

    def refuse(self, access: Access, code: int, text: str, *arguments: str | Path) -> None:
        """Run the program and check its exit code and message."""
        done = run(access, *arguments)
        assert done.returncode == code, done.stderr
        assert text in done.stderr
        assert done.stderr.startswith("cesbrfs: ")
        assert done.stderr.count("\n") == 1

    def test_missing_mountpoint(self, repo: ResticRepo, tmp_path: Path) -> None:
        """A missing mountpoint is an error."""
        self.refuse(repo.access, 1, "does not exist", tmp_path / "nowhere")

    def test_file_as_mountpoint(self, repo: ResticRepo, tmp_path: Path) -> None:
        """A file as mountpoint is an error."""
        (tmp_path / "file").touch()
        self.refuse(repo.access, 1, "is not a directory", tmp_path / "file")

    def test_already_mounted(self, repo: ResticRepo, mount: Callable[..., Mount]) -> None:
        """Mounting twice on one directory is an error; the first mount continues."""
        made = mount(repo.access)
        self.refuse(repo.access, 1, "already a mount point", made.path)
        assert "b1" in os.listdir(made.path)

    @pytest.mark.parametrize("where", [".", "data", ".."])
    def test_over_the_repository(self, repo: ResticRepo, where: str) -> None:
        """A mountpoint on, inside or above the repository is an error."""
        self.refuse(repo.access, 1, "overlaps the repository", repo.directory / where)

    def test_no_repository(self, mountpoint: Path, tmp_path: Path) -> None:
        """A repository that does not exist is error 10, and nothing is created."""
        missing = Access(str(tmp_path / "missing"), Secret(b"key"))
        self.refuse(missing, 10, "There is no repository", mountpoint)
        assert not (tmp_path / "missing").exists()

    def test_wrong_key(self, repo: ResticRepo, mountpoint: Path) -> None:
        """A wrong key is error 12; the message names the repository and not the key."""
        wrong = Access(repo.access.url, Secret(b"not the key"))
        self.refuse(wrong, 12, str(repo.directory), mountpoint)
        assert "not the key" not in run(wrong, mountpoint).stderr

    def test_unknown_option(self, repo: ResticRepo, mountpoint: Path) -> None:
        """An unknown -o option is a usage error that names it."""
        self.refuse(repo.access, 2, "-o colour=red", mountpoint, "-o", "colour=red")


def test_an_open_file_of_a_forgotten_backup_stays_readable(
    restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """A file opened before its backup was forgotten can be read to the end."""
    file = tmp_path / "var/lib/ces/redmine/volumes/files/big"
    file.parent.mkdir(parents=True)
    file.write_bytes(os.urandom(4 << 20))
    repo = create(restic_new, tmp_path / "repo")
    snapshot = repo.backup(file.parent, tags=["b1"])
    made = mount(repo.access)
    with (made.path / "b1/redmine/volumes/files/big").open("rb", buffering=0) as opened:
        first = opened.read(1000)
        repo.run("forget", snapshot)
        wait_until(lambda: "b1" not in os.listdir(made.path))
        assert first + opened.read() == file.read_bytes()


_DRIVER = """
import os, sys, trio
from cesbrfs.fuse import cli, interrupts, operations

class UnexpectedError(Exception):
    pass

async def handler(self, ctx):
    raise UnexpectedError

async def background(self):
    while not os.path.exists(sys.argv[2]):
        await trio.sleep(0.02)
    raise UnexpectedError

if sys.argv[1] == "handler":
    operations.Operations.statfs = handler
else:
    interrupts.InterruptWatcher.run = background
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.parametrize("where", ["handler", "background"])
def test_an_unexpected_exception_leaves_a_broken_mountpoint(
    where: str, repo: ResticRepo, mountpoint: Path, tmp_path: Path
) -> None:
    """The mountpoint stays mounted and returns errors until the next start replaces it."""
    flag = tmp_path / "now"
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, where, flag, mountpoint],
        env=environment(repo.access), capture_output=True, text=True, timeout=_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "b1" in os.listdir(mountpoint)
    (pid,) = serving(mountpoint)
    if where == "handler":
        subprocess.run(
            ["stat", "-f", mountpoint], check=False, capture_output=True, timeout=_SECONDS
        )
    else:
        flag.touch()
    wait_until(lambda: not serving(mountpoint))
    assert is_mounted(mountpoint), f"process {pid} unmounted"
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
        os.listdir(mountpoint)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    assert run(repo.access, mountpoint).returncode == 0
    assert "b1" in os.listdir(mountpoint)
