"""An interrupted restore: ^C on a terminal, and --resume."""

from __future__ import annotations

from pathlib import Path

from tests.shell.conftest import BINARY, Cesbr
from tests.shell.terminal import terminal
from tests.support.proxy import Proxy

FILES = "redmine/volumes/files"


def test_interrupted_and_resumed(far: Cesbr, proxy: Proxy, tmp_path: Path) -> None:
    """^C exits with 130 and prints how to resume; --resume completes and clears the selection."""
    assert far("select", f"/latest/{FILES}").code == 0
    with terminal(far, tmp_path, "restore", "--target", "back") as screen:
        screen.wait_for(r"^Restore this\? \[y/N\]")
        proxy.hold()
        screen.line("y")
        screen.wait_for(r"^Restoring .*0%")
        screen.keys("C-c")
        assert screen.exit_code() == 130
        assert "restore --resume" in screen.screen()
    proxy.heal()
    assert not list((far.here / "back").rglob("binary"))
    assert len(far("selected").out.splitlines()) > 1
    (tmp_path / "exit code").unlink()
    (tmp_path / "tmux").unlink(missing_ok=True)
    with terminal(far, tmp_path, "restore", "--resume") as screen:
        screen.wait_for(r"^Restore this\? \[y/N\]")
        screen.line("y")
        assert screen.exit_code() == 0
        assert "Restored 5 files" in screen.screen()
    assert (far.here / "back" / FILES / "sub/binary").read_bytes() == BINARY
    assert far("selected", "--json").json == []
    assert far("restore", "--resume", "--yes").code == 2


def test_resume_tries_what_failed(own: Cesbr) -> None:
    """After a partial restore --resume retries only failed files, in the same target."""
    blocked = own.here / "back" / FILES / "hello.txt"
    blocked.mkdir(parents=True)
    said = own("restore", "--backup", "latest", FILES, "--target", "back", "--yes")
    assert (said.code, "--resume" in said.err) == (3, True)
    blocked.rmdir()
    assert own("restore", "--resume", "x").code == 2
    assert own("restore", "--resume", "--target", "elsewhere", "--yes").code == 2
    plan = own("restore", "--resume", "--dry-run", "--json").json
    assert isinstance(plan, dict)
    assert (plan["files"], plan["done"], plan["target"]) == (1, 4, str(own.here / "back"))
    said = own("restore", "--resume", "--target", "back", "--yes", "--json")
    assert said.code == 0, said.err
    report = said.json
    assert isinstance(report, dict)
    assert (report["files"], report["done"]) == (1, 4)
    assert blocked.read_text() == "hello again\n"
