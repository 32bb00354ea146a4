"""Find the mounts of this machine, and read the state that those of one repository report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cesbrfs.util.mountinfo import Mounted, our_mounts, source_name
from cesbrfs.util.tasks import gather

_STATUS: Final = ".cesbrfs/status.json"
_SECONDS: Final = 3.0
_MAX_BYTES: Final = 16 << 20


async def mount_states(repository: Mapping[str, object]) -> list[dict[str, object]]:
    """Return all mounts of cesbrfs; `status` is the status.json of mounts of `repository`.

    `repository` has the ID of the repository if it could be opened, else its URL is compared. If
    a mount of it does not report, `message` contains the reason.
    """
    return await gather([partial(_state, mounted, repository) for mounted in our_mounts()])


async def _state(mounted: Mounted, repository: Mapping[str, object]) -> dict[str, object]:
    state: dict[str, object] = {"mountpoint": mounted.mountpoint, "source": mounted.source}
    same_url = mounted.source == source_name(str(repository["url"]))
    try:
        with trio.fail_after(_SECONDS):
            status = await trio.to_thread.run_sync(
                _read, mounted.mountpoint, abandon_on_cancel=True
            )
    except trio.TooSlowError:
        problem = f"does not answer within {_SECONDS:.0f} s"
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "reports no valid state"
    else:
        known = repository.get("id")
        ours = status["repository"]["id"] == known if known else same_url
        return state | {"status": status if ours else None, "message": None}
    return state | {"status": None, "message": problem if same_url else None}


def _read(mountpoint: str) -> dict[str, dict[str, object]]:
    with Path(mountpoint, _STATUS).open("rb") as file:
        status = json.loads(file.read(_MAX_BYTES))
    if not isinstance(status, dict) or "id" not in status.get("repository", ()):
        raise ValueError(_STATUS)
    return status
