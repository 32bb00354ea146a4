"""What the prompt says when it is started: what is configured, and what to do next."""

from __future__ import annotations

import shutil
from typing import Final

from cesbr.portal import Portal, TooSlowError
from cesbr.session import Session
from cesbr.ui.table import pairs
from cesbrfs.errors import CesbrError
from cesbrfs.util.escape import printable

_SECONDS: Final = 1.0
"""How long the prompt waits for the configuration in the registry."""
_NEXT: Final = (
    ("  backups", "list the backups"),
    ("  use latest", "open the newest backup; then ls, cd, cat and Tab work as in any shell"),
    ("  restore PATH", "restore a path; shows a plan and asks first"),
    ("  backup", "create a backup"),
)
_NOT_CONFIGURED: Final = (
    ("  status", "show every setting and its source"),
    ("  cesbr --repo ADDRESS --password-file FILE", "use another repository"),
)


def greeting(session: Session, portal: Portal, *, first: bool) -> str:
    """Return what is configured; the `first` time, and where nothing is, also what to do next.

    Touches no repository, and asks for no key.
    """
    columns = shutil.get_terminal_size().columns
    try:
        settings = portal.run(session.settings, patience=_SECONDS)
        if settings.repository is None or settings.password is None:
            portal.run(session.access)  # raises the error for what is missing
    except TooSlowError:
        return "The settings are still being read."
    except CesbrError as error:
        return f"{printable(error.message)}\n{pairs(_NOT_CONFIGURED, columns)}".rstrip()
    line = printable(f"The repository is {settings.describe()['repository']['value']}.")
    return f"{line}\n{pairs(_NEXT, columns)}".rstrip() if first else line
