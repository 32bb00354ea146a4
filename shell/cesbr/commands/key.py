"""The command `key`: list, add, remove and change the passwords of the repository."""

from __future__ import annotations

import argparse
import os
import pwd
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cesbr.commands import Command
from cesbr.portal import in_front
from cesbr.safeguards import backups_blocked
from cesbr.ui import humanize
from cesbr.ui.table import fitted, pairs
from cesbrfs.config.layers import absolute_path
from cesbrfs.config.password import read_text
from cesbrfs.config.password_stores import manual_source, password_stores
from cesbrfs.errors import PartialError, UsageError
from cesbrfs.util.escape import printable
from cesbrfs.util.secret import Secret

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.config.password_stores import PasswordStore
    from cesbrfs.restic import Restic
    from cesbrfs.restic.events import RepositoryKey

_RANDOM_BYTES: Final = 32
"""Entropy of a generated password."""
_CREATED: Final = "%Y-%m-%d %H:%M:%S"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=("list", "add", "remove", "change"),
        help="list: list the keys; add: add a password; remove: remove a key; change: replace the"
        " password in use, and its key",
    )
    parser.add_argument("key", metavar="KEY", nargs="?", help="with remove: ID of the key")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--new-password-file",
        metavar="FILE",
        help="read the new password from this file, or from standard input if it is - (default:"
        " ask twice)",
    )
    how.add_argument("--generate", action="store_true", help="generate a random new password")
    parser.add_argument(
        "--show-password", action="store_true", help="with --generate: print the new password"
    )
    parser.add_argument(
        "--use",
        action="store_true",
        help="with add: store the new password, and use it from now on",
    )
    parser.add_argument(
        "--user", metavar="NAME", help="with add: user name to show in the list (default: yours)"
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show what would happen")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


async def _key(context: Context, arguments: argparse.Namespace) -> int:
    _check(arguments)
    await context.view(may_init=False)
    restic = await context.session.restic()
    if arguments.action == "list":
        return await _list(context, await restic.keys())
    root = (await context.session.settings()).root
    with backups_blocked(root, "A change of the repository's keys"):
        if arguments.action == "remove":
            return await _remove(context, restic, arguments)
        if arguments.action == "add" and not arguments.use:
            return await _add(context, restic, arguments)
        return await _rotate(context, restic, arguments)


def _check(arguments: argparse.Namespace) -> None:
    action = arguments.action
    if (arguments.key is not None) != (action == "remove"):
        raise UsageError(
            "Pass the ID of the key to remove. See 'cesbr key list'."
            if action == "remove"
            else f"'key {action}' takes no ID. Leave it out."
        )
    makes = action in ("add", "change")
    for name in ("new_password_file", "generate"):
        if getattr(arguments, name) and not makes:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is an option of 'key add' and 'key change'. Leave it out.")
    if (arguments.use or arguments.user is not None) and action != "add":
        raise UsageError("--use and --user are options of 'key add'. Leave them out.")
    if arguments.show_password and not arguments.generate:
        raise UsageError("--show-password requires --generate.")
    if arguments.generate and action == "add" and not (arguments.use or arguments.show_password):
        raise UsageError(
            "The generated password would be stored nowhere. Pass --show-password to print it, or"
            " --use to store it."
        )


# list and remove


async def _list(context: Context, keys: list[RepositoryKey]) -> int:
    from cesbrfs.key_rotation import replaced_by, unfinished

    await context.out.result(
        [
            {
                "id": key.id,
                "current": key.current,
                "user": key.user_name,
                "host": key.host_name,
                "created": _created(key),
                "replaces": replaced_by(key),
            }
            for key in keys
        ],
        lambda: fitted(
            [
                (
                    key.short_id,
                    "in use" if key.current else "",
                    printable(key.user_name),
                    printable(key.host_name),
                    key.created,
                )
                for key in keys
            ],
            ("ID", "State", "User", "Host", "Created"),
            context.out.room,
            spare=("Host", "User"),
        ),
    )
    for key in unfinished(keys):
        context.out.note(
            f"An interrupted change has left key {key.short_id}. Run 'cesbr key change' to finish"
            " it."
        )
    return 0


def _created(key: RepositoryKey) -> str | None:
    """Return the time of restic's list, which is local, in UTC."""
    try:
        local = datetime.strptime(key.created, _CREATED)  # noqa: DTZ007 - made aware next
    except ValueError:
        return None
    return f"{local.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


async def _remove(context: Context, restic: Restic, arguments: argparse.Namespace) -> int:
    from cesbrfs.key_rotation import find_removable

    key = await find_removable(restic, await _stores(context), arguments.key)
    if arguments.dry_run:
        await context.out.result({"removed": None, "key": key.id}, f"Would remove {_text(key)}.\n")
        return 0
    question = f"Remove {_text(key)}? Its password will not open the repository any more."
    if not arguments.yes and not await context.out.ask(question):
        context.out.note("Nothing was removed.")
        return 0
    with context.out.progress("Removing"):
        await restic.remove_key(key.id)
    await context.out.result({"removed": key.id, "key": key.id}, f"Removed key {key.short_id}.\n")
    return 0


def _text(key: RepositoryKey) -> str:
    from cesbrfs.key_rotation import owner

    return f"key {key.short_id} ({printable(owner(key))}, {printable(key.created)})"


# add


async def _add(context: Context, restic: Restic, arguments: argparse.Namespace) -> int:
    from cesbrfs.key_rotation import add

    if arguments.dry_run:
        await context.out.result({"key": None, "added": False}, "Would add a key.\n")
        return 0
    if not arguments.yes and not await context.out.ask("Add a key to the repository?"):
        context.out.note("Nothing was changed.")
        return 0
    new = await _new_password(arguments)
    with context.out.progress("Adding a key"):
        key, added = await add(restic, new, user=_user(arguments))
    done = f"Added key {key}." if added else f"Key {key} has this password already."
    await context.out.result(
        {"key": key, "added": added, **_shown(new, arguments)},
        f"{done}\n{_password_text(new, arguments)}",
    )
    return 0


# change, and add --use


async def _rotate(context: Context, restic: Restic, arguments: argparse.Namespace) -> int:
    from cesbrfs.key_rotation import obsolete_keys, opened_key, rotate, unfinished

    removes = arguments.action == "change"
    settings = await context.session.settings()
    keys, stores = await restic.keys(), await _stores(context)
    by_hand = manual_source(settings)
    new: Secret | None = None
    if removes and unfinished(keys) and not arguments.new_password_file:
        new = restic.access.key  # an interrupted change has stored it
    elif arguments.new_password_file:
        new = await _new_password(arguments)
    finishes = new is not None and new.value == restic.access.key.value
    by_hand = None if finishes else by_hand
    if by_hand and arguments.generate and not arguments.show_password:
        raise UsageError(f"Pass --show-password, because you must set {by_hand} yourself.")
    opened = await opened_key(restic.access, new) if new else None
    obsolete = obsolete_keys(keys, opened) if removes else []
    if finishes and not obsolete:
        await context.out.result(
            {"key": opened, "added": False, "stored": [], "removed": [], "by_hand": None},
            f"Key {opened} has this password already, and it is in use. Nothing was changed.\n",
        )
        return 0
    plan = {
        "stores": [store.name for store in stores],
        "remove": [key.id for key in obsolete if not by_hand],
        "by_hand": by_hand,
    }
    text = _plan_text(context, restic, obsolete, stores, by_hand=by_hand, finishes=finishes)
    if arguments.dry_run:
        await context.out.result(plan, text)
        return 0
    if not arguments.yes:
        context.out.event("plan", plan, text)
        if not await context.out.ask("Change the password?"):
            context.out.note("Nothing was changed.")
            return 0
    new = new or await _new_password(arguments)
    try:
        with context.out.progress("Changing the password"):
            done = await rotate(
                restic,
                stores,
                new,
                user=_user(arguments),
                remove_old=removes,
                by_hand=by_hand is not None,
                announce=context.out.note,
            )
    finally:
        context.session.forget_password()
    await context.out.result(
        {
            "key": done.key,
            "added": done.added,
            "stored": list(done.stored),
            "removed": list(done.removed),
            "by_hand": by_hand,
            **({} if finishes else _shown(new, arguments)),
        },
        f"Key {done.key} is used from now on.\n" * (by_hand is None)
        + ("" if finishes else _password_text(new, arguments)),
    )
    if by_hand is None:
        return 0
    then = " Then run 'cesbr key change' again to remove the old key." if removes else ""
    context.out.note(
        f"The old password is still in use. Set {by_hand} to the new one.{then}", always=True
    )
    return PartialError.exit_code


def _plan_text(
    context: Context,
    restic: Restic,
    obsolete: list[RepositoryKey],
    stores: list[PasswordStore],
    *,
    by_hand: str | None,
    finishes: bool,
) -> str:
    rows = [("Repository:", restic.access.display_url)]
    if finishes:
        rows.append(("Finish:", "the new password is stored, old keys are left"))
    rows += [("Password in:", store.name) for store in stores]
    if by_hand:
        rows.append(("Set yourself:", by_hand))
    word = "Keep for now:" if by_hand else "Remove:"
    rows += [(word, _text(key)) for key in obsolete]
    text = pairs(rows, context.out.room)
    if obsolete:
        text += humanize.lines(
            ["The password of a removed key does not work any more, also on other hosts."]
        )
    return text


async def _stores(context: Context) -> list[PasswordStore]:
    session = context.session
    return await password_stores(await session.settings(), session.flags, session.environ)


# Passwords


async def _new_password(arguments: argparse.Namespace) -> Secret:
    """Return the new password from the file, generated, or as a person types it twice."""
    if arguments.generate:
        return Secret(secrets.token_urlsafe(_RANDOM_BYTES).encode())
    file = arguments.new_password_file
    if file is not None:
        path = Path("/dev/stdin" if file == "-" else absolute_path(file))
        new = Secret(await trio.to_thread.run_sync(read_text, path, "new password file"))
    else:
        new = await in_front(_ask_twice)
    if not new:
        raise UsageError("The new password is empty. Choose another password.")
    return new


def _ask_twice() -> Secret:
    import getpass
    import sys

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "There is no terminal to ask for the new password. Pass --new-password-file FILE or"
            " --generate."
        )
    first, second = getpass.getpass("New password: "), getpass.getpass("Repeat new password: ")
    if first != second:
        raise UsageError("The passwords differ. Run the command again.")
    return Secret(os.fsencode(first))


def _user(arguments: argparse.Namespace) -> str:
    if arguments.user is not None:
        return str(arguments.user)
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _shown(new: Secret, arguments: argparse.Namespace) -> dict[str, str]:
    return {"password": os.fsdecode(new.value)} if arguments.show_password else {}


def _password_text(new: Secret, arguments: argparse.Namespace) -> str:
    return f"{os.fsdecode(new.value)}\n" if arguments.show_password else ""


COMMANDS: Final = (
    Command(
        "key",
        "List, add, remove or change the passwords of the repository.",
        "key list",
        _arguments,
        _key,
        "'key change' adds a key for the new password, verifies it, replaces the password where it"
        " is stored (password files that are configured, the registry), and then removes the old"
        " key.  If it is interrupted, run it again: every stored password opens the repository at"
        " each moment.  Exit code 3: the password is stored where only you can replace it.",
    ),
)
