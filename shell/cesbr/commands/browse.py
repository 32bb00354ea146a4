"""The command `browse`: a full-screen browser of the backups."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command, find_command
from cesbr.commands.navigate import add_backup_flag, choose_backup, locate_one
from cesbr.ui import humanize
from cesbrfs.errors import UsageError

if TYPE_CHECKING:
    from cesbr.browser.messages import Request
    from cesbr.browser.model import Browser, Outcome
    from cesbr.session import Context

_WAIT_SECONDS: Final = 1.0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        default=".",
        help="a directory or file to begin at (default: here)",
    )
    add_backup_flag(parser)


async def _browse(context: Context, arguments: argparse.Namespace) -> int:
    _require_terminal(context)
    backup = await choose_backup(context, arguments.backup, [arguments.path])
    place = await locate_one(context, arguments.path, backup)
    from cesbr.browser.model import Browser

    view = await context.view()
    paths = context.session.basket(view).paths
    if place.entry.node.type == "dir":
        browser = Browser(place.parts, paths)
    else:
        browser = Browser(place.parts[:-1], paths, at=place.parts[-1])
    outcome = await _show(context, browser)
    if outcome != "quit":
        return await _restore(context, in_place=outcome == "restore in place")
    if browser.selected:
        count = humanize.count(len(browser.selected), "path")
        context.out.note(f"{count} selected. Run 'cesbr restore' to restore what is selected.")
    return 0


def _require_terminal(context: Context) -> None:
    if context.out.as_json:
        raise UsageError("'browse' has no JSON output. Use 'cesbr ls --json'.")
    is_terminal = context.out.terminal and sys.stdin.isatty()
    if not is_terminal or os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError("'browse' needs a terminal. Use 'cesbr ls' to list directories.")


async def _show(context: Context, browser: Browser) -> Outcome:
    """Show the browser in the front thread, and read in this one what it asks for."""
    import trio

    from cesbr.browser.reader import Reader
    from cesbr.browser.screen import Screen
    from cesbr.portal import in_front

    token = trio.lowlevel.current_trio_token()
    requests: trio.MemorySendChannel[Request]
    requests, received = trio.open_memory_channel(math.inf)

    def send(request: Request) -> None:
        token.run_sync_soon(requests.send_nowait, request)

    screen = Screen(browser, send)
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as reading:
            reading.start_soon(Reader(context, screen.deliver).serve, received)
            outcome = await in_front(screen.run)
            reading.cancel_scope.cancel()
            outer.start_soon(_explain_wait, context)
        outer.cancel_scope.cancel()
    return outcome


async def _explain_wait(context: Context) -> None:
    """Print why the command does not end, if a read cannot be cancelled."""
    import trio

    await trio.sleep(_WAIT_SECONDS)
    context.out.note("Waiting for a read that cannot be cancelled. Press ^C twice not to wait.")


async def _restore(context: Context, *, in_place: bool) -> int:
    """Run ``cesbr restore`` for the selection, which shows its plan and asks."""
    from cesbr.cli.arguments import command_parser

    command = find_command("restore")
    given = ["--in-place"] * in_place
    context.out.note(" ".join(("Running 'cesbr restore", *given)) + "'.")
    return await command.run(context, command_parser(command).parse_args(given))


COMMANDS: Final = (
    Command(
        "browse",
        "Browse the backups in full screen: preview, versions, differences, select, restore.",
        "browse /latest/redmine",
        _arguments,
        _browse,
        "Keys are shown at the bottom, ? shows all; the mouse works as well.  Storage that is slow"
        " never blocks the keys.",
    ),
)
