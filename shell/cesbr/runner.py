"""Runs one command to its exit code, for the one-shot call and for the prompt alike."""

from __future__ import annotations

import argparse
from typing import Final

from cesbr.commands import Command
from cesbr.damage import report_damaged
from cesbr.portal import Portal
from cesbr.safeguards import take_back_maintenance
from cesbr.session import Context, Session
from cesbr.ui.errors import show_error
from cesbr.ui.output import Output
from cesbrfs.errors import CesbrError, NotFoundError
from cesbrfs.util.argparser import quote_hint

_STOPPING: Final = "cesbr: Stopping cleanly. Press ^C again to leave it in the background."


def run_command(
    command: Command, arguments: argparse.Namespace, session: Session, portal: Portal, out: Output
) -> int:
    """Run `command`, report its error if it has one, and return its exit code."""
    values = vars(arguments)
    context = Context(session, out, no_init=values.get("no_init", False))

    async def run() -> int:
        with out.progress(command.name, events=False, results=True):
            if not session.looked_back:
                session.looked_back = True
                await take_back_maintenance(context)
            if session.view is not None:
                session.view.chose_newest = False
                session.view.repository.damaged_files.drop_readable()
            try:
                code = await command.run(context, arguments)
            except CesbrError:
                await report_damaged(context, again=command.all_backups)
                raise
            partial = command.all_backups or (
                session.view is not None and session.view.chose_newest
            )
            damaged = await report_damaged(context, again=partial)
            return code or (damaged if partial else 0)

    try:
        try:
            return portal.run(run, lambda: out.note(_STOPPING, always=True), out.tick)
        finally:
            out.clear_progress()
    except Exception as error:  # noqa: BLE001 - every error of a command is reported here
        code = show_error(error, as_json=out.as_json, debug=values.get("debug", False))
        paths = values.get("paths") or ()
        if isinstance(error, NotFoundError) and len(paths) > 1 and quote_hint(paths):
            out.note(f"{quote_hint(paths).removeprefix('. ')}.")
        return code


def close(session: Session, portal: Portal) -> None:
    """Close the session and end the loop."""
    if session.view is not None:
        portal.run(session.aclose)
    portal.close()
