"""^C on a terminal during long-running commands."""

from __future__ import annotations

import re
from pathlib import Path

from tests.shell.conftest import Cesbr
from tests.shell.terminal import terminal
from tests.support.proxy import Proxy

FILE = "/latest/redmine/volumes/files/sub/binary"
_PAGER = """\
#!/bin/sh
trap '' INT  # and then only the end of what it reads ends cat
echo BEGIN
{}
echo END
read answer < /dev/tty
"""


def test_commands_that_read_backups(far: Cesbr, proxy: Proxy, tmp_path: Path) -> None:
    """While the storage hangs, ^C ends each command; the prompt returns."""
    commands = (
        "find --name 'x*'",
        "versions redmine/volumes/files/hello.txt",
        "log redmine/volumes",
        "diff latest live",
        "du /latest",
        "ls -R /latest",
        "tree /latest",
    )
    with terminal(far.having(XDG_CACHE_HOME=str(tmp_path / "cache")), tmp_path) as prompt:
        prompt.wait_for_prompt()
        proxy.hold(b"/index/")
        for command in commands:
            prompt.line(command)
            prompt.wait_for(rf"^cesbr> {re.escape(command)}\n\w+ .*0:\d\d\Z")
            prompt.interrupt()
        prompt.keys("C-d")
        assert prompt.exit_code() == 0


def test_commands_that_read_files(far: Cesbr, proxy: Proxy, tmp_path: Path) -> None:
    """While the server hangs, ^C ends cat and the read that less is waiting for."""
    pager = tmp_path / "pager"
    pager.write_text(_PAGER.format("cat"))
    pager.chmod(0o755)
    with terminal(far.having(PAGER=str(pager)), tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.line(f"ls {FILE}")
        prompt.wait_for(r"^/\S+/binary\ncesbr>\Z")
        prompt.keys("C-l")
        proxy.hold()
        prompt.line(f"cat {FILE} > copy")
        prompt.wait_for(r"^cat  0:0\d\Z")
        prompt.interrupt()
        assert (far.here / "copy").read_bytes() == b""
        prompt.line(f"less --force {FILE}")
        prompt.wait_for(r"^BEGIN\Z")
        prompt.keys("C-c")
        prompt.wait_for(r"END\Z")
        prompt.keys("Enter")
        prompt.wait_for(r"^cesbr: Interrupted\.\ncesbr>\Z")
        proxy.heal()
        prompt.line("cat /latest/redmine/volumes/files/hello.txt")
        prompt.wait_for(r"^hello again\ncesbr>\Z")


def test_a_pager_that_is_left_while_the_server_hangs(
    far: Cesbr, proxy: Proxy, tmp_path: Path
) -> None:
    """The prompt returns at once, without waiting for unread data."""
    pager = tmp_path / "pager"
    pager.write_text(_PAGER.format(":"))
    pager.chmod(0o755)
    with terminal(far.having(PAGER=str(pager)), tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.line(f"ls {FILE}")
        prompt.wait_for(r"^/\S+/binary\ncesbr>\Z")
        proxy.hold()
        prompt.line(f"less --force {FILE}")
        prompt.wait_for(r"END\Z")
        prompt.keys("Enter")
        prompt.wait_for(r"^cesbr>\Z")
        prompt.keys("C-d")
        assert prompt.exit_code() == 0
