"""Find out what does not work, and print what a restore without this machine needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.ui.table import fitted
from cesbrfs.errors import CesbrError, UsageError

if TYPE_CHECKING:
    from cesbr.doctor.finding import Finding
    from cesbr.session import Context
    from cesbrfs.config.settings import Settings


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sheet",
        action="store_true",
        help="print an emergency sheet instead: what a restore without this machine needs",
    )
    parser.add_argument(
        "--with-key",
        action="store_true",
        help="print the encryption key on the sheet, and a password in the address",
    )


async def _doctor(context: Context, arguments: argparse.Namespace) -> int:
    if arguments.sheet:
        return await _sheet(context, with_key=arguments.with_key)
    if arguments.with_key:
        raise UsageError("--with-key is an option of 'doctor --sheet'. Add --sheet.")
    from cesbr.doctor.examination import examine
    from cesbr.doctor.finding import State

    with context.out.progress("Checking", events=False):
        findings = await examine(context.session.flags, context.session.environ)
    await context.out.result(
        [finding.json() for finding in findings], lambda: _text(findings, context.out.room)
    )
    return 1 if any(finding.state is State.ERROR for finding in findings) else 0


def _text(findings: Sequence[Finding], available: int | None) -> str:
    rows = [(finding.state.value, f"{finding.check}:", finding.text) for finding in findings]
    return fitted(rows, ("State", "Check", "Found"), available, headed=False)


async def _sheet(context: Context, *, with_key: bool) -> int:
    from cesbr.doctor.sheet import make_sheet

    sheet = await make_sheet(await _settings(context), with_key=with_key)
    await context.out.result(sheet.json(), sheet.text)
    if with_key:
        context.out.note(
            "The sheet contains the encryption key. Store it where only you can read it."
        )
    return 0


async def _settings(context: Context) -> Settings:
    """Return the settings with what the registry adds, as far as it can be read."""
    settings = context.session.loaded()
    try:
        return await settings.resolve()
    except CesbrError:  # of the key, or of a registry that is not needed for the address
        return await settings.located(settings.open_registry())


COMMANDS: Final = (
    Command(
        "doctor",
        "Find out what does not work: check settings, repository, key, tools and schedule.",
        "doctor",
        _arguments,
        _doctor,
        "Prints a line for each check: ok, warning or error, what was found, and what to do.  It"
        " changes nothing, and exits with 1 if there is an error.",
    ),
)
