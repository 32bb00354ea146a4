"""How much a chosen path holds."""

from __future__ import annotations

import stat
from functools import partial
from typing import NamedTuple

from cesbrfs.entries import Entry, Stored
from cesbrfs.repo.model import hard_link_id
from cesbrfs.tasks import gather
from cesbrfs.view import View


class Amount(NamedTuple):
    """Everything but folders, and its content in bytes; what has several names counts once."""

    files: int
    bytes: int


async def measure(view: View, entry: Entry) -> Amount:
    """Return what lies at and below `entry`; raises what reading its folders raises."""
    files = size = 0
    linked: set[tuple[str, int]] = set()
    level: list[Entry] = [entry]
    while level:
        folders: list[Entry] = []
        for one in level:
            node = one.node
            if stat.S_ISDIR(node.mode):
                folders.append(one)
                continue
            files += 1
            link = hard_link_id(node) if isinstance(one, Stored) else 0
            if isinstance(one, Stored) and link:
                key = (one.snapshot.id, link)
                if key in linked:
                    continue
                linked.add(key)
            size += node.size if node.type == "file" else 0
        listed = await gather([partial(view.children, folder) for folder in folders])
        level = [child for children in listed for child in children.values()]
    return Amount(files, size)
