"""Whether a backup is of the instance's own blueprint, where nothing else may be restored.

What the keys at and below ``/blueprint`` look like is Cloudogu's own affair: where they tell an id
that counts, else they must be alike as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from cesbrfs.catalog.backups import Backup
from cesbrfs.ces.backup_config import PREFIX, BackupConfig
from cesbrfs.ces.instance import Instance
from cesbrfs.errors import BlueprintError, NotFoundError
from cesbrfs.restore.registry import read_document, values_below
from cesbrfs.vfs.tree import BackupTree

_KEYS: Final = "/blueprint"
_ID: Final = "blueprintid"
_DENIED: Final = (
    f"; {PREFIX}/deny_cross_blueprint_restores is true. Set it to false to allow this restore"
)


async def require_same_blueprint(
    view: BackupTree, backup: Backup, instance: Instance, config: BackupConfig
) -> None:
    """Raise BlueprintError when `config` denies restoring `backup`, of another blueprint."""
    denied = await denial(view, backup, instance, config)
    if denied is not None:
        raise BlueprintError(denied)


async def denial(
    view: BackupTree, backup: Backup, instance: Instance, config: BackupConfig
) -> str | None:
    """Return why `config` denies restoring `backup` as a sentence, None if it does not.

    One that does not tell its blueprint, such as a backup of a single dogu, is denied, too.
    """
    if not config.deny_cross_blueprint_restores:
        return None
    try:
        document = await read_document(view, backup, None)
    except NotFoundError:
        return (
            f"The blueprint of backup {backup.id} is not known, because it contains no registry"
            f" data of the instance{_DENIED}."
        )
    theirs = values_below(document, _KEYS)
    ours = await instance.registry.read(_KEYS)
    their_id, our_id = blueprint_id(theirs), blueprint_id(ours)
    if theirs == ours if None in (their_id, our_id) else their_id == our_id:
        return None
    return (
        f"Backup {backup.id} has the blueprint {their_id or '(no ID)'}, this instance has"
        f" {our_id or '(no ID)'}{_DENIED}."
    )


def blueprint_id(values: Mapping[str, str]) -> str | None:
    """Return the id in the values of the blueprint's keys; None if there is none, or several."""
    found = set()
    for value in values.values():
        try:
            blueprint = json.loads(value)
        except (ValueError, RecursionError):
            continue
        for name, given in blueprint.items() if isinstance(blueprint, dict) else ():
            if name.lower() == _ID and isinstance(given, str) and given:
                found.add(given)
    return found.pop() if len(found) == 1 else None
