"""A mount as a service: sd_notify, watchdog, reload, log, and the end of an idle mount."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.mount.test_life import wait_until
from tests.support.mounting import Mount, environment, is_mounted
from tests.support.rest import serving
from tests.support.restic_repo import PASSWORD, ResticRepo, create

_SECONDS = 30

_DRIVER = """
import os, sys
from cesbrfs.fuse import cli, operations

async def statfs(self, ctx):
    "Block the event loop until a file is written to the pipe."
    with open(os.environ["HUNG"], "w") as hung:
        hung.write("hung")
    with open(os.environ["RELEASE"]) as release:
        release.read()
    raise OSError

operations.Operations.statfs = statfs
os.environ["WATCHDOG_PID"] = str(os.getpid())
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def shared(restic_new: Path, tmp_path_factory: pytest.TempPathFactory) -> ResticRepo:
    """A repository with one backup, shared read-only."""
    return _repository(restic_new, tmp_path_factory.mktemp("service"))


@pytest.fixture
def repo(restic_new: Path, tmp_path: Path) -> ResticRepo:
    """A repository with one backup."""
    return _repository(restic_new, tmp_path)


def _repository(restic: Path, top: Path) -> ResticRepo:
    volume = top / "var/lib/ces/redmine/volumes/files"
    volume.mkdir(parents=True)
    (volume / "note.txt").write_text("hello\n")
    made = create(restic, top / "repo")
    made.backup(volume, tags=["b1"])
    return made


class Manager:
    """A service manager: it starts mounts and receives their messages."""

    def __init__(self, directory: Path, listener: socket.socket) -> None:
        self.path = directory / "backups"
        self.path.mkdir()
        self.log = directory / "stderr"
        self._listener = listener
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, access: Access, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start ``cesbrfs -f`` or another `command`."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *(command or ("-m", "cesbrfs")), "-f", str(self.path)],
                env={
                    **environment(access),
                    "NOTIFY_SOCKET": self._listener.getsockname(),
                    **variables,
                },
                stderr=log,
            )
        return self._process

    def next(self, skip: str = "WATCHDOG") -> str:
        """Return the next message that does not begin with `skip`."""
        while (message := self._listener.recv(1000).decode()).startswith(skip):
            pass
        return message

    def silent(self, seconds: float) -> bool:
        """Return whether no message comes within `seconds`, after those in the queue."""
        self._listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._listener.recv(1000)
        self._listener.settimeout(seconds)
        try:
            self._listener.recv(1000)
        except TimeoutError:
            return True
        finally:
            self._listener.settimeout(_SECONDS)
        return False

    def end(self) -> None:
        """End the mount."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if is_mounted(self.path):
            subprocess.run(["fusermount3", "-uz", self.path], check=True)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager; its mount is ended afterwards."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(_SECONDS)
        made = Manager(tmp_path, listener)
        try:
            yield made
        finally:
            made.end()


def test_states_from_start_to_end(repo: ResticRepo, manager: Manager, tmp_path: Path) -> None:
    """Ready, reloads that find a new backup or fail, and the end; the log has the same."""
    process = manager.start(repo.access)
    assert manager.next() == "READY=1"
    assert manager.next().startswith("STATUS=1 backup, listed ")

    repo.backup(repo.directory / "config", tags=["b2"])
    process.send_signal(signal.SIGHUP)
    assert manager.next().startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert manager.next("STATUS") == "READY=1"
    status = manager.next()
    assert status.startswith("STATUS=2 backups, listed ")
    assert status.endswith("the repository is ready")

    repo.directory.rename(tmp_path / "away")
    process.send_signal(signal.SIGHUP)
    assert manager.next("STATUS").startswith("RELOADING=1")
    assert manager.next("STATUS") == "READY=1"
    assert manager.next().endswith("the repository is gone")
    (tmp_path / "away").rename(repo.directory)

    process.terminate()
    assert manager.next("STATUS") == "STOPPING=1"
    assert process.wait(_SECONDS) == 0
    log = manager.log.read_text()
    assert f"mounted {repo.directory} (repository " in log
    assert f" on {manager.path}. Options: none. 1 backup, listed " in log
    assert "2 backups: 1 new, 0 removed." in log
    assert "Reloading failed: The repository" in log
    assert "Traceback" not in log


def test_a_hung_loop_is_noticed(shared: ResticRepo, manager: Manager, tmp_path: Path) -> None:
    """WATCHDOG=1 comes until the event loop hangs, and again when it continues."""
    hung, release = tmp_path / "hung", tmp_path / "release"
    os.mkfifo(hung)
    os.mkfifo(release)
    manager.start(
        shared.access, "-c", _DRIVER, WATCHDOG_USEC="200000", HUNG=str(hung), RELEASE=str(release)
    )
    assert manager.next() == "READY=1"
    for _ in range(3):
        assert manager.next("STATUS") == "WATCHDOG=1"
    with subprocess.Popen(
        ["stat", "-f", manager.path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ):
        hung.read_text()
        try:
            assert manager.silent(1)
        finally:
            release.write_text("")
    assert manager.next("STATUS") == "WATCHDOG=1"


def test_sighup_reopens_the_log_and_lists(
    repo: ResticRepo, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """As logrotate does it: rename, SIGHUP; the new file has all later lines."""
    log, rotated = tmp_path / "mount.log", tmp_path / "mount.log.1"
    made = mount(repo.access, "--log", str(log))
    wait_until(lambda: "mounted" in log.read_text())
    log.rename(rotated)
    made.process.send_signal(signal.SIGHUP)
    wait_until(lambda: log.exists() and "Reloaded: 1 backup" in log.read_text())
    assert "Reloading on SIGHUP" not in rotated.read_text()
    status = json.loads((made.path / ".cesbrfs/status.json").read_text())
    assert status["pid"] == made.process.pid
    assert status["backups"] == 1
    assert status["reloads"] == {"started": 1, "finished": 1, "error": None}


def test_signals_change_the_log_level(shared: ResticRepo, mount: Callable[..., Mount]) -> None:
    """SIGUSR1 logs debug messages, SIGUSR2 no longer; without them, requests are not logged."""
    made = mount(shared.access)
    wait_until(lambda: "mounted" in made.log.read_text())
    quiet = made.log.read_text()
    (made.path / "b1/redmine/volumes/files/note.txt").read_bytes()
    assert made.log.read_text() == quiet
    made.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "DEBUG Log level is DEBUG (SIGUSR1)." in made.log.read_text())
    made.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "INFO Log level is INFO (SIGUSR2)." in made.log.read_text())


def test_an_idle_mount_ends(shared: ResticRepo, mount: Callable[..., Mount]) -> None:
    """Not while a file is open or a process has its working directory there."""
    made = mount(shared.access, "-o", "idle=1s")
    with (made.path / "b1/redmine/volumes/files/note.txt").open("rb", buffering=0) as file:
        with pytest.raises(subprocess.TimeoutExpired):
            made.process.wait(2)
        assert file.read() == b"hello\n"
        with subprocess.Popen(
            ["cat"], cwd=made.path / "b1", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as user:
            file.close()
            wait_until(lambda: f"cat ({user.pid})" in made.log.read_text())
            assert is_mounted(made.path)
            user.communicate()
    assert made.process.wait(_SECONDS) == 0
    assert not made.mounted
    assert "no requests for 1 s" in made.log.read_text()


def _cesbr(access: Access, *arguments: str | Path, module: str = "cesbr") -> tuple[int, str, str]:
    """Run ``cesbr``, or another program; return exit code, output and error."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment(access), cwd="/", capture_output=True, text=True, check=False,
        timeout=_SECONDS,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_refresh_waits_for_the_listing(
    repo: ResticRepo, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """`refresh` reports the number of backups, or why they could not be listed."""
    made = mount(repo.access)
    repo.backup(repo.directory / "config", tags=["b2"])
    code, out, error = _cesbr(repo.access, "refresh", made.path, "--json")
    assert (code, error) == (0, "")
    assert json.loads(out) == [{"mountpoint": str(made.path), "backups": 2}]
    repo.directory.rename(tmp_path / "away")
    code, out, error = _cesbr(repo.access, "refresh", made.path)
    assert (code, out) == (1, "")
    assert f"{made.path} could not list the backups: The repository at" in error
    assert "has disappeared" in error
    (tmp_path / "away").rename(repo.directory)
    assert _cesbr(repo.access, "refresh", made.path)[0] == 0
    code, _, error = _cesbr(repo.access, "refresh", tmp_path)
    assert code == 1
    assert "is not a mount point" in error


def test_refresh_while_the_server_is_offline(
    shared: ResticRepo, mount: Callable[..., Mount], rest_server_program: Path, tmp_path: Path
) -> None:
    """`refresh` fails after `patience`, and works again when the server is back."""
    with serving(rest_server_program, tmp_path / "server") as server:
        shutil.copytree(shared.directory, server.root / "repo")
        access = Access(
            f"{server.url}/repo/", Secret(PASSWORD.encode()), {}, server.environment, patience=1
        )
        made = mount(access)
        server.kill()
        code, _, error = _cesbr(access, "refresh", made.path)
        assert code == 1
        assert "cannot be reached" in error
        status = json.loads((made.path / ".cesbrfs/status.json").read_text())
        assert status["repository"]["state"] == "unreachable"
        assert "cannot be reached" in status["reloads"]["error"]
        server.start()
        assert _cesbr(access, "refresh", made.path)[:2] == (0, f"{made.path}: 1 backup.\n")
    log = made.log.read_text()
    assert "Reloading failed: " in log
    assert "responds again" in log


def test_umount(shared: ResticRepo, mount: Callable[..., Mount], tmp_path: Path) -> None:
    """`cesbrfs --umount` names the processes that use the mount; --lazy unmounts it anyway."""

    def umount(*arguments: str | Path) -> tuple[int, str]:
        code, _, error = _cesbr(shared.access, "--umount", *arguments, module="cesbrfs")
        return code, error

    assert umount(tmp_path) == (
        1,
        f"cesbrfs: {tmp_path} is not a mount point. 'cesbr status' lists the mounts.\n",
    )
    assert umount("/proc") == (
        1,
        "cesbrfs: /proc is not a mount of backups, but of proc. 'cesbr status' lists the mounts.\n",
    )
    made = mount(shared.access)
    with subprocess.Popen(["cat"], cwd=made.path / "b1", stdin=subprocess.PIPE) as user:
        assert umount(made.path) == (
            1,
            f"cesbrfs: {made.path} is in use by cat ({user.pid}). End them, or pass --lazy.\n",
        )
        assert made.mounted
        assert umount("--lazy", made.path) == (0, "")
        assert not is_mounted(made.path)
        user.communicate()
    assert made.process.wait(_SECONDS) == 0
