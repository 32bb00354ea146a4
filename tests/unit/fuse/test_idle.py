"""When a mount counts as idle."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from cesbrfs.errors import MountError
from cesbrfs.fuse.idle import unmount_when_idle


@dataclass
class _Activity:
    """The use of a mount."""

    last_request: float = 0.0
    opened: bool = False
    unmounted: list[float] = field(default_factory=list)

    def is_in_use(self) -> bool:
        """Return whether a file is open."""
        return self.opened

    async def unmount(self) -> None:
        """Record the time; the first attempt fails as busy."""
        self.unmounted.append(trio.current_time())
        if len(self.unmounted) == 1:
            raise MountError("It is busy.")


async def test_idle_since_the_last_request(
    autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    """Requests and open files postpone the unmount; a busy mount is tried again later."""
    activity = _Activity()
    nursery.start_soon(unmount_when_idle, activity.unmount, 60.0, activity, trio.current_time)
    await trio.sleep(50)
    activity.last_request = trio.current_time()
    activity.opened = True
    await trio.sleep(150)
    activity.opened = False
    activity.last_request = trio.current_time()
    await trio.sleep(125)
    assert activity.unmounted == [260, 320]
