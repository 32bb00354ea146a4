"""Read the backups of a Cloudogu EcoSystem from Python.

`open_backups` opens a repository. The tree that it returns has the paths that the mount shows::

    import trio
    import cesbrfs

    async def main():
        async with cesbrfs.open_backups("/mnt/backup/ces", "the password") as tree:
            for backup in (await tree.backups()).by_name.values():
                print(backup.id, backup.time_ns)
            async for path, entry in tree.walk("/latest/redmine"):
                print(path, entry.node.size)
            print(await tree.read("/latest/redmine/dogu.json"))

    trio.run(main)

Everything that reads is a coroutine and runs under trio. Nothing is written to the repository, and
no lock is taken.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cesbrfs.catalog.backups import Backup as Backup
    from cesbrfs.errors import CesbrError as CesbrError
    from cesbrfs.repo.format.model import Node as Node
    from cesbrfs.repo.repository import Repository as Repository
    from cesbrfs.vfs.entries import Entry as Entry
    from cesbrfs.vfs.open import open_backups as open_backups
    from cesbrfs.vfs.tree import BackupTree as BackupTree

__version__ = "0.1.0"

__all__ = [
    "Backup",
    "BackupTree",
    "CesbrError",
    "Entry",
    "Node",
    "Repository",
    "__version__",
    "open_backups",
]

_MODULES = {
    "Backup": "cesbrfs.catalog.backups",
    "BackupTree": "cesbrfs.vfs.tree",
    "CesbrError": "cesbrfs.errors",
    "Entry": "cesbrfs.vfs.entries",
    "Node": "cesbrfs.repo.format.model",
    "Repository": "cesbrfs.repo.repository",
    "open_backups": "cesbrfs.vfs.open",
}
"""Where each public name is defined. Imported on first use: trio alone takes 100 ms."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as the names' own types
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module 'cesbrfs' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
