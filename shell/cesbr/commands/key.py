"""The encryption keys of a repository: list, add, remove, and replace the one in use."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.ui import humanize
from cesbr.ui.table import fitted
from cesbrfs.errors import NotFoundError, UsageError
from cesbrfs.util.escape import show
from cesbrfs.util.secret import Secret

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.change_key import KeyChange
    from cesbrfs.repo.keys import KeyInfo
    from cesbrfs.repo.repository import Repository
    from cesbrfs.restic import Restic

_SHORT: Final = 8
_OF_RESTIC: Final = "passwd"
"""restic's word for a change."""
_GENERATED_BYTES: Final = 32


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=("list", "add", "remove", "change", _OF_RESTIC),
        help="list: list the keys; add: add one with another password; remove: remove keys;"
        " change: replace the key in use, also where it is stored",
    )
    parser.add_argument(
        "keys", metavar="KEY", nargs="*", default=[], help="with remove: IDs of keys"
    )
    parser.add_argument(
        "--new-password-file",
        metavar="FILE",
        help="with add and change: a file with the new password, or - for standard input (default:"
        " ask for it)",
    )
    parser.add_argument(
        "--generate",
        action="store_true",
        help="with add and change: generate the new password; add prints it",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


async def _key(context: Context, arguments: argparse.Namespace) -> int:
    action: str = arguments.action
    if bool(arguments.keys) != (action == "remove"):
        raise UsageError(
            "Name the keys to remove; 'cesbr key list' lists them."
            if action == "remove"
            else f"'key {action}' takes no KEY."
        )
    if action in ("list", "remove") and (arguments.generate or arguments.new_password_file):
        raise UsageError(f"'key {action}' needs no new password.")
    if arguments.generate and arguments.new_password_file:
        raise UsageError("Pass --generate or --new-password-file, not both.")
    run = _ACTIONS[action]
    return await run(context, arguments)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of the open repository; `current` is the one in use."""

    repository: Repository
    keys: Sequence[KeyInfo]
    current: KeyInfo

    def find(self, wanted: str) -> KeyInfo:
        """Return the key with this ID, or the only one whose ID begins with it."""
        found = [key for key in self.keys if key.name.startswith(wanted.lower())]
        if len(found) != 1 or not wanted:
            problem = "Several keys have" if found else "No key has"
            raise NotFoundError(
                f"{problem} an ID that begins with '{show(os.fsencode(wanted))}'. 'cesbr key list'"
                " lists the keys."
            )
        return found[0]


async def _read_keys(context: Context) -> _Keys:
    from cesbrfs.repo.keys import list_keys, name_of_key

    view = await context.view(may_init=False)
    storage = view.repository.storage
    name = await name_of_key(storage, (await context.session.access()).key)
    keys = await list_keys(storage)
    return _Keys(view.repository, keys, next(key for key in keys if key.name == name))


def _created(key: KeyInfo) -> str:
    from cesbrfs.errors import DamagedError
    from cesbrfs.repo.format.timestamps import parse_time

    try:
        return humanize.local_time(parse_time(key.created or ""))
    except DamagedError:
        return "unknown"


def _owner(key: KeyInfo) -> str:
    return show(os.fsencode(f"{key.username or '?'}@{key.hostname or '?'}"))


async def _list(context: Context, _arguments: argparse.Namespace) -> int:
    found = await _read_keys(context)
    rows = [
        (
            key.name[:_SHORT],
            _created(key),
            _owner(key),
            "in use" if key is found.current else "",
        )
        for key in found.keys
    ]
    await context.out.result(
        [
            {
                "id": key.name,
                "created": key.created,
                "user": key.username,
                "host": key.hostname,
                "current": key is found.current,
            }
            for key in found.keys
        ],
        lambda: fitted(rows, ("ID", "Created", "By", ""), context.out.room),
    )
    return 0


async def _add(context: Context, arguments: argparse.Namespace) -> int:
    from cesbrfs.repo.keys import name_of_key

    found = await _read_keys(context)
    password = await _new_password(context, arguments)
    restic = await context.session.restic()
    with context.out.progress("Adding the key"):
        await restic.add_key(password)
        name = await name_of_key(found.repository.storage, password)
    result = {"id": name}
    text = f"Added key {name[:_SHORT]}. Keep its password: it opens all backups.\n"
    if arguments.generate:
        result["password"] = os.fsdecode(password.value)
        text += f"Password: {result['password']}\n"
    await context.out.result(result, text)
    return 0


async def _remove(context: Context, arguments: argparse.Namespace) -> int:
    found = await _read_keys(context)
    chosen = list(dict.fromkeys(found.find(wanted) for wanted in arguments.keys))
    if found.current in chosen:
        raise UsageError(
            f"Key {found.current.name[:_SHORT]} is in use. 'cesbr key change' replaces it."
        )
    if not arguments.yes:
        for key in chosen:
            line = f"Key {key.name[:_SHORT]}, created {_created(key)} by {_owner(key)}"
            context.out.note(line, always=True)
        count = humanize.count(len(chosen), "key")
        if not await context.out.ask(f"Remove {count}? The passwords open nothing afterwards."):
            context.out.note("Nothing was removed.")
            return 0
    restic = await context.session.restic()
    removed: list[str] = []
    with context.out.progress("Removing keys"):
        for key in chosen:
            await restic.remove_key(key.name)
            removed.append(key.name)
    names = ", ".join(name[:_SHORT] for name in removed)
    await context.out.result({"removed": removed}, f"Removed {names}.\n")
    return 0


async def _change(context: Context, arguments: argparse.Namespace) -> int:
    from cesbr.state.key_change import KeyChangeRecord
    from cesbr.state.state_dir import state_directory
    from cesbrfs.change_key import KeyChange, change_key
    from cesbrfs.config.key_store import key_store
    from cesbrfs.restic import Restic

    session = context.session
    store = key_store(session.loaded())
    found = await _read_keys(context)
    record = KeyChangeRecord(state_directory(session.environ), found.repository.id)
    change = None if arguments.generate or arguments.new_password_file else record.read()
    if change is not None and await _is_current(context, found, change):
        context.out.note("Completing the change that was interrupted.")
    else:
        change = KeyChange(found.current.name, await _new_password(context, arguments))
    if not arguments.yes:
        where = found.repository.storage.display_url
        context.out.note(
            f"The new key of {where} replaces the one in {store.location}.", always=True
        )
        if not await context.out.ask("Change the key?"):
            context.out.note("Nothing was changed.")
            return 0
    restic = await session.restic()

    def open_restic(key: Secret) -> Restic:
        return Restic(restic.binary, restic.version, replace(restic.access, key=key))

    with context.out.progress("Changing the key"):
        name = await change_key(
            change,
            storage=found.repository.storage,
            store=store,
            record=record,
            open_restic=open_restic,
        )
    await session.start_over()
    result = {"id": name, "removed": change.old, "stored": store.location}
    await context.out.result(
        result,
        f"Key {name[:_SHORT]} replaces {change.old[:_SHORT]}. It is stored in {store.location}.\n",
    )
    return 0


async def _is_current(context: Context, found: _Keys, change: KeyChange) -> bool:
    """Return whether the key in use is the one to replace, or the new one."""
    key = (await context.session.access()).key
    return found.current.name == change.old or key == change.new


async def _new_password(context: Context, arguments: argparse.Namespace) -> Secret:
    """Return the new password: generated, from a file, or asked for twice."""
    from cesbrfs.restic import raise_if_unusable

    if arguments.generate:
        import secrets

        return Secret(secrets.token_urlsafe(_GENERATED_BYTES).encode())
    file: str | None = arguments.new_password_file
    if file is None:
        password = await _asked(context)
    else:
        from pathlib import Path

        from cesbrfs.config.layers import absolute_path
        from cesbrfs.config.password import read_text

        source = Path("/dev/stdin") if file == "-" else Path(absolute_path(file))
        password = Secret(read_text(source, "password file"))
    raise_if_unusable(password)
    return password


async def _asked(context: Context) -> Secret:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "There is no terminal to ask for the new password. Pass --new-password-file or"
            " --generate."
        )
    first = await context.out.ask_secret("New password: ")
    if first != await context.out.ask_secret("The same again: "):
        raise UsageError("The passwords differ. Nothing was changed.")
    return Secret(os.fsencode(first))


_ACTIONS: Final = {
    "list": _list, "add": _add, "remove": _remove, "change": _change, _OF_RESTIC: _change,
}  # fmt: skip
COMMANDS: Final = (
    Command(
        "key",
        "List, add, remove or change the keys that open a repository.",
        "key list",
        _arguments,
        _key,
        "Each key is opened by one password.  'change' adds a new key, stores its password where"
        " the current one is stored, in the password file or the registry, and only then removes"
        " the old key.  If it is interrupted, the same command completes it.",
    ),
)
