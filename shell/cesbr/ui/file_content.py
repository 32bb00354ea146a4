"""Write the content of files to a stream, a pager or a terminal."""

from __future__ import annotations

import re
import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from cesbr.commands.navigate import choose_backup, locate_all
from cesbr.ui.errors import report
from cesbrfs.errors import CesbrError, IsDirectoryError, UsageError
from cesbrfs.util.argparser import quote_hint
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.vfs.entries import ResolvedPath

_CHUNK: Final = 4 << 20
_LOOKED_AT: Final = 8 << 10
CONTROL: Final = re.compile(rb"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")
"""What text does not hold; terminals' own ESC is in many a log."""


async def write_content(
    context: Context,
    paths: Sequence[str],
    backup: str | None,
    write: Callable[[bytes], Awaitable[bool]],
    *,
    guarded: bool,
) -> int:
    """Pass the bytes of each file to `write` until it returns False (the reader has closed)."""
    failed: list[int] = []
    where = await choose_backup(context, backup, paths)
    for path in paths:
        try:
            for _, place in await locate_all(context, path, where):
                if not await _write_one(context, place, write, guarded=guarded):
                    return 0
        except CesbrError as error:
            if len(paths) == 1:
                raise
            failed.append(await report(error, context.out))
    if len(failed) == len(paths) and (hint := quote_hint(paths)):
        context.out.note(f"{hint.removeprefix('. ')}.")
    return failed[0] if failed else 0


async def _write_one(
    context: Context,
    place: ResolvedPath,
    write: Callable[[bytes], Awaitable[bool]],
    *,
    guarded: bool,
) -> bool:
    from cesbrfs.vfs.entries import VirtualFile

    view = await context.view()
    node = place.entry.node
    if stat.S_ISDIR(node.mode):
        raise IsDirectoryError(f"{place.shown} is a directory. Run 'cesbr ls' to list it.")
    if node.type == "symlink":
        raise UsageError(
            f"{place.shown} is a symbolic link to {show(node.target)}. Pass that file."
        )
    if node.type != "file":
        raise UsageError(f"{place.shown} is a {node.type} and has no content.")
    content = await view.content(place.entry)
    if isinstance(content, VirtualFile):
        return await write(content.content)
    for offset in range(0, content.size, _CHUNK):
        data = await content.read(offset, _CHUNK)
        if guarded and offset == 0 and looks_binary(data):
            raise UsageError(
                f"{place.shown} is binary, which could confuse the terminal. Redirect it with >"
                " or |, or pass --force."
            )
        if not await write(data):
            return False
    return True


def looks_binary(data: bytes) -> bool:
    """Return whether content is not UTF-8 text, judged by its beginning."""
    beginning = data[:_LOOKED_AT]
    if CONTROL.search(beginning):
        return True
    try:
        beginning.decode()
    except UnicodeDecodeError as error:
        # A character may be cut in two where the beginning ends.
        return len(data) <= _LOOKED_AT or error.start < len(beginning) - 3
    return False
