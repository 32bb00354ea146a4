"""A change of the key that is killed at any step locks nobody out, and can be completed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from cesbr.state.key_change import KeyChangeRecord

from cesbrfs.change_key import KeyChange, change_key
from cesbrfs.config.key_store import FileKeyStore
from cesbrfs.errors import CesbrError
from cesbrfs.repo.keys import list_keys, name_of_key
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.restic import Restic
from cesbrfs.util.secret import Secret
from tests.support.restic_repo import create

OLD, NEW = Secret(b"the old password"), Secret(b"the new password")


class Site:
    """A repository, and a file with its password."""

    def __init__(self, binary: Path, top: Path) -> None:
        self.repo = create(binary, top / "repo", password=OLD.value.decode())
        self.storage = LocalStorage(str(top / "repo"))
        self.store = FileKeyStore(top / "password")
        self.store.file.write_bytes(OLD.value + b"\n")
        self.record = KeyChangeRecord(top / "state", "id")
        (top / "state").mkdir(exist_ok=True)

    async def change(self, on_step: Callable[[str], object] = lambda _: None) -> str:
        """Change the key as the command does, beginning with the record if there is one."""
        current = await self.store.read()
        name = await name_of_key(self.storage, current)
        restic = await Restic.open(
            Access(str(self.repo.directory), current), binary=str(self.repo.binary)
        )
        return await change_key(
            self.record.read() or KeyChange(name, NEW),
            storage=self.storage,
            store=self.store,
            record=self.record,
            open_restic=lambda key: Restic(
                restic.binary, restic.version, replace(restic.access, key=key)
            ),
            on_step=on_step,
        )


def test_killed_at_each_step(restic_new: Path, tmp_path: Path) -> None:
    """The stored password opens the repository after each kill, and the next run completes it."""
    (tmp_path / "whole").mkdir()
    steps: list[str] = []
    trio.run(Site(restic_new, tmp_path / "whole").change, steps.append)
    # Before each of these, something else was changed on disk.
    changes = ("add the new key", "store the new key", "remove the old key", "forget the change")
    assert set(changes) < set(steps)
    for step in changes:
        top = tmp_path / step.replace(" ", "-")
        top.mkdir()
        site = Site(restic_new, top)
        _killed(site, step)
        trio.run(_completed, site)


async def _completed(site: Site) -> None:
    """The stored password opens the repository, and the same command completes the change."""
    await name_of_key(site.storage, await site.store.read())
    name = await site.change()
    assert await site.store.read() == NEW
    assert [key.name for key in await list_keys(site.storage)] == [name]
    assert name == await name_of_key(site.storage, NEW)
    assert site.record.read() is None


def _killed(site: Site, step: str) -> None:
    """Change the key in a process that is killed before `step`."""

    def kill(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            trio.run(site.change, kill)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


async def test_the_old_key_stays_if_the_new_one_cannot_be_stored(
    restic_new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that keeps the old password is an error, and both passwords open the repository."""
    site = Site(restic_new, tmp_path)

    async def ignore(_self: FileKeyStore, _key: Secret) -> None:
        """Write nothing."""

    monkeypatch.setattr(FileKeyStore, "write", ignore)
    with pytest.raises(CesbrError, match="does not contain the new key"):
        await site.change()
    await name_of_key(site.storage, OLD)
    await name_of_key(site.storage, NEW)
