"""Owners by name: the user and group IDs that the recorded names have on this machine."""

from __future__ import annotations

import grp
import pwd
from functools import cache
from typing import Final

import msgspec

from cesbrfs.repo.format.model import Node


class OwnerNames:
    """Replaces recorded IDs by those of the recorded names; unknown names keep their IDs."""

    def __init__(self) -> None:
        self._user: Final = cache(_user)
        self._group: Final = cache(_group)

    def apply(self, node: Node) -> Node:
        """Return the node with the IDs of its owner and group here."""
        uid, gid = self._user(node.user, node.uid), self._group(node.group, node.gid)
        if (uid, gid) == (node.uid, node.gid):
            return node
        return msgspec.structs.replace(node, uid=uid, gid=gid)


def _user(name: str, number: int) -> int:
    try:
        return pwd.getpwnam(name).pw_uid if name else number
    except (KeyError, ValueError):
        return number


def _group(name: str, number: int) -> int:
    try:
        return grp.getgrnam(name).gr_gid if name else number
    except (KeyError, ValueError):
        return number
