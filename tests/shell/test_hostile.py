"""A repository whose every text contains escape sequences and line breaks, on a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cesbr.cli.arguments import command_parser
from cesbr.commands import MODULES, find_command
from cesbr.portal import Portal
from cesbr.runner import close, run_command
from cesbr.session import Session
from cesbr.ui.output import Output

from cesbrfs.config.settings import Flags
from cesbrfs.repo.storage import FileType
from tests.shell.conftest import Cesbr, Said
from tests.shell.terminal import terminal
from tests.support.memory_repo import Json, MemoryRepo

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b1m\r\nFORGED \u202eright\u2028\x7f"
"""A title, a cleared screen, a C1 control, a forged line, text from right to left."""
SHOWN = r"\x1b]0;owned\a\x1b[2J\xc2\x9b1m\r\nFORGED \xe2\x80\xaeright\xe2\x80\xa8\x7f"
_DIRECTORIES = {
    FileType.KEY: "keys",
    FileType.SNAPSHOT: "snapshots",
    FileType.INDEX: "index",
    FileType.LOCK: "locks",
}
_KEY = "the key"
_FIRST, _SECOND = f"one{EVIL}", f"two{EVIL}"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200c\u200e\u200f\u2028-\u202e\ufeff]")


def _tree(repo: MemoryRepo, text: bytes) -> Json:
    whose: Json = {"user": f"user{EVIL}", "group": f"group{EVIL}"}
    xattrs = [{"name": f"user.{EVIL}", "value": "eA=="}]
    files = [
        repo.file(f"file{EVIL}", text, extended_attributes=xattrs, **whose),
        repo.file("plain", text + b"plain", **whose),
        {"name": f"link{EVIL}", "type": "symlink", "linktarget": f"to{EVIL}", "mode": 0o777},
        {"name": f"odd{EVIL}", "type": f"type{EVIL}", "mode": 0o644},
        repo.directory(f"lost{EVIL}", **whose) | {"subtree": "ab" * 32},
        repo.file(f"short{EVIL}", **whose) | {"content": ["cd" * 32], "size": 5},
    ]
    return repo.directory(f"files{EVIL}", *files, **whose)


def _fill(repo: MemoryRepo) -> None:
    for day, name in enumerate((_FIRST, _SECOND), 1):
        common: Json = {
            "time": f"2026-11-{day:02}T21:30:00Z",
            "hostname": f"host{EVIL}",
            "username": f"user{EVIL}",
        }
        dogu = f"dogu{EVIL}"
        path = f"/var/lib/ces/{dogu}/volumes"
        tree = repo.tree(repo.path(path, repo.directory("volumes", _tree(repo, b"%d" % day))))
        tags = [name, "kind=volumes", f"dogu={dogu}"]
        volumes = repo.snapshot(tree, [path], tags=tags, **common)
        registry = json.dumps({f"/config/{EVIL}": EVIL, "/config/_global/fqdn": EVIL}).encode()
        tree = repo.tree(repo.file("registry.json", registry))
        points = [{"kind": "volumes", "dogu": dogu, "snapshot": volumes, "bytes": 1}]
        tags = [name, "kind=registry"]
        points.append({"kind": "registry", "dogu": None, "bytes": len(registry)})
        points[1]["snapshot"] = repo.snapshot(tree, ["/registry.json"], tags=tags, **common)
        failed = [{"path": f"/lost{EVIL}", "error": f"error{EVIL}"}] * (day == 1)
        for point in points:
            point["failed"] = failed
        manifest = {"format": 1, "id": name, "time": common["time"], "host": common["hostname"]}
        content = json.dumps({**manifest, "points": points}).encode()
        tree = repo.tree(repo.file("manifest.json", content))
        repo.snapshot(tree, ["/manifest.json"], tags=[name, "kind=manifest"], **common)
    repo.snapshot(repo.tree(_tree(repo, b"loose")), [f"/{EVIL}"], hostname=EVIL, username=EVIL)
    held = {"time": "2026-11-01T21:30:00Z", "hostname": EVIL, "username": EVIL, "pid": 7}
    repo.put_unpacked(FileType.LOCK, {**held, "exclusive": False})
    repo.put(FileType.SNAPSHOT, b"damaged")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, in a directory of an instance without dogus."""
    root = tmp_path_factory.mktemp("hostile")
    repo = MemoryRepo(password=_KEY.encode())
    _fill(repo)
    for (kind, name), raw in repo.storage.files.items():
        directory = "" if kind is FileType.CONFIG else _DIRECTORIES.get(kind, f"data/{name[:2]}")
        path = root / "repository" / directory / (name or "config")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    (root / "key").write_text(_KEY)
    (root / "instance").mkdir()
    return root


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


class Shell:
    """Runs commands in one session as if stdout were a terminal."""

    def __init__(self, root: Path, restic: Path) -> None:
        flags = Flags(
            repository=str(root / "repository"),
            password_file=str(root / "key"),
            root=str(root / "instance"),
            registry=str(root / "registry"),
        )
        (root / "state").mkdir(exist_ok=True)
        environ = {
            "HOME": str(root),
            "XDG_STATE_HOME": str(root / "state"),
            "NO_COLOR": "1",
            "CESBR_RESTIC": str(restic),
        }
        self.session = Session(flags, environ=environ)
        self._portal = Portal()

    def __call__(self, name: str, *given: str, quiet: bool = False) -> Said:
        """Run one command and wait for it to finish."""
        command = find_command(name)
        stdout = _Terminal(io.BytesIO(), encoding="utf-8", newline="\n")
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            arguments = command_parser(command).parse_intermixed_args(list(given))
            out = Output(stdout, as_json="json" in arguments, quiet=quiet)
            code = run_command(command, arguments, self.session, self._portal, out)
        buffer = stdout.buffer
        assert isinstance(buffer, io.BytesIO)
        return Said(code, buffer.getvalue(), stderr.getvalue())

    def close(self) -> None:
        """End the session."""
        close(self.session, self._portal)


@pytest.fixture
def shell(hostile: Path, restic_old: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """Commands on the hostile repository."""
    monkeypatch.setenv("COLUMNS", "80")
    made = Shell(hostile, restic_old)
    yield made
    made.close()


_DOGU = f"/{_SECOND}/dogu{EVIL}"
_FILES = f"{_DOGU}/volumes/files{EVIL}"
_EVERY: dict[str, list[tuple[str, ...]]] = {
    "drill": [("--list",), (EVIL,), ("--backup", EVIL), ("--sample", EVIL), ("--full",)],
    "backups": [()],
    "use": [(_FIRST,), (f"one{SHOWN}",), ("t",), (EVIL,), ("tw0",)],
    "cd": [(_FILES,), (f"{_FILES}/plain",), (f"{_FILES}/file",), ("/",)],
    "pwd": [()],
    "ls": [("/",), ("-l", _FILES), ("-Rl",), (f"{_FILES}/lost{EVIL}",), (EVIL,), ("-l", "/*/*")],
    "tree": [("/",), (_FILES,)],
    "stat": [(f"{_FILES}/file{EVIL}",), (f"{_FILES}/link{EVIL}",), (f"{_FILES}/*",)],
    "cat": [(_FILES,), (f"{_FILES}/link{EVIL}",), (f"{_FILES}/short{EVIL}",), (f"{_FILES}/odd*",)],
    "less": [(_FILES,), (f"{_FILES}/plain", f"{_FILES}/short{EVIL}")],
    "find": [(), ("--each",), ("--name", "plain"), ("--backup", EVIL), (f"nothing{EVIL}",)],
    "versions": [(f"dogu{EVIL}/volumes/files{EVIL}/plain",), (EVIL,), (f"{_FILES}/*",)],
    "grep": [("plain",), ("-l", ".", "--all"), (EVIL, _FILES), ("x", EVIL)],
    "export": [(_FILES, "-o", "/nowhere/a.tar"), (EVIL, "-o", "/nowhere/a.tar")],
    "log": [("/",), (f"dogu{EVIL}/volumes/files{EVIL}",), (EVIL,)],
    "diff": [(_FIRST, _SECOND), (_FIRST, _SECOND, "--content"), (_FIRST, "live"), ("one", "thr")],
    "du": [("/",), (_FILES,)],
    "select": [(_FILES,), (EVIL,)],
    "selected": [()],
    "deselect": [(EVIL,), (f"{_FILES}x",)],
    "plan": [(_FILES,), ("--backup", _FIRST), (_FILES, "--in-place"), (EVIL,)],
    "restore": [(_FILES, "-n"), ("--backup", "one", "-y"), (_FILES, "--in-place", "-y")],
    "undo": [("--list",), (EVIL,), (EVIL, "--remove", "-y"), ("-n",)],
    "restore-registry": [("--backup", "two", "-n"), (EVIL, "--backup", "two", "-n")],
    "backup": [("-n",), (EVIL,)],
    "init": [()],
    "check": [()],
    "unlock": [()],
    "status": [(), ("--max-age", EVIL)],
    "metrics": [(), ("--output", f"/nowhere/{EVIL}")],
    "forget": [("-n", "--keep-last", "1"), ("-n", "one"), (EVIL, "-y")],
    "protect": [(EVIL,), ("one",)],
    "unprotect": [("one",)],
    "copy": [("--all", "--to", f"/nowhere/{EVIL}"), (EVIL, "--to", "/nowhere")],
    "note": [("one", "x"), ("one",), (EVIL, "x")],
    "policies": [()],
    "schedule": [("--at", EVIL)],
    "mount": [(f"/nowhere/{EVIL}",)],
    "umount": [(f"/nowhere/{EVIL}",)],
    "refresh": [(f"/nowhere/{EVIL}",)],
    "doctor": [(), ("--sheet",)],
    "config": [("check",), ("init", "--output", f"/proc/{EVIL}")],
    "completion": [("bash",)],
}
"""Arguments by command: what it shows, and errors that quote names."""


def test_every_command_is_tried() -> None:
    """Fails if a new command is missing from this list."""
    assert set(_EVERY) == {name for names in MODULES.values() for name in names}


@pytest.mark.parametrize("more", [(), ("--json",), ("--debug",)], ids=["text", "json", "debug"])
@pytest.mark.parametrize("name", _EVERY)
def test_no_command_lets_control_characters_through(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, more: tuple[str, ...]
) -> None:
    """Results, notes, errors and tracebacks are escaped, so that no name can start a new line."""
    monkeypatch.chdir(tmp_path)
    for given in _EVERY[name]:
        for quiet in (False, True):
            said = shell(name, *given, *more, quiet=quiet)
            told = said.out + said.err
            assert not _CONTROL.search(told), (given, told)
            assert not re.search("^FORGED", told, re.MULTILINE), (given, told)
            if said.code and name != "completion":
                assert told, "a failure says something"


def test_what_is_shown_can_be_typed(shell: Shell) -> None:
    """Names are escaped in results and errors, and commands accept the escaped form."""
    assert f"one{SHOWN}" in shell("use", f"one{SHOWN}").out
    assert shell("use", f"one{SHOWN[:9]}").code == 0
    shell("cd", "/")
    told = shell("ls", "-l", _FILES).out
    assert f"file{SHOWN}" in told
    assert f"to{SHOWN}" in told


def test_the_prompt_and_tab(hostile: Path, cesbr: Cesbr, tmp_path: Path) -> None:
    """The prompt, completions and errors are escaped; a completed backup ID works."""
    own = cesbr.having(
        CESBR_REPOSITORY=str(hostile / "repository"),
        CESBR_PASSWORD_FILE=str(hostile / "key"),
        CESBR_ROOT=str(hostile / "instance"),
        NO_COLOR="1",
    )
    with terminal(own, tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.line("backups")
        prompt.wait_for(r"two\\x1b")
        prompt.keys("C-l")
        prompt.wait_for(r"\Acesbr>\Z")
        prompt.tmux("send-keys", "-l", "use one")
        prompt.keys("Tab")
        prompt.wait_for(r"use one\\x1b\]0;owned\\a")
        prompt.keys("Enter")
        prompt.wait_for(r"^Backup one\\x1b")
        shown = prompt.wait_for(r">\Z")
    assert "FORGED" in shown
    assert not re.search("^FORGED", shown, re.MULTILINE)
