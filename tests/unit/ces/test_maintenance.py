"""Maintenance mode in a file registry and a real etcd, and cleanup after crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cesbrfs.ces.maintenance import KEY, STATE_FILE, is_left_on, maintenance_mode, turn_off_leftover
from cesbrfs.ces.registry import FileRegistry, Registry
from tests.support.etcd import Etcd, serving
from tests.support.project import PROJECT


async def test_it_is_on_inside_the_block(registry: Registry, tmp_path: Path) -> None:
    """The key exists only inside the block; the state file is cleared afterwards."""
    messages: list[str] = []
    async with maintenance_mode(tmp_path, registry, title="T", text="Ü", notify=messages.append):
        assert json.loads(await registry.get(KEY) or "") == {"title": "T", "text": "Ü"}
        assert is_left_on(tmp_path)
    assert await registry.get(KEY) is None
    assert not is_left_on(tmp_path)
    assert messages == []
    assert (tmp_path / STATE_FILE).stat().st_mode & 0o777 == 0o600


async def test_it_goes_off_with_an_error_and_with_a_cancellation(
    registry: Registry, tmp_path: Path
) -> None:
    """It is turned off after an exception and after a cancellation."""
    with pytest.raises(RuntimeError):
        async with maintenance_mode(tmp_path, registry, title="T", text="t", notify=print):
            raise RuntimeError
    assert await registry.get(KEY) is None
    with trio.CancelScope() as scope:
        async with maintenance_mode(tmp_path, registry, title="T", text="t", notify=print):
            scope.cancel()
            await trio.sleep_forever()
    assert await registry.get(KEY) is None


async def test_a_foreign_maintenance_mode_is_not_changed(
    registry: Registry, tmp_path: Path
) -> None:
    """It stays on if it was on before, or is changed while we have it on."""
    messages: list[str] = []
    await registry.set(KEY, "somebody's")
    async with maintenance_mode(tmp_path, registry, title="T", text="t", notify=messages.append):
        assert await registry.get(KEY) == "somebody's"
    assert await registry.get(KEY) == "somebody's"
    assert messages == ["Maintenance mode is already on and stays on."]
    await registry.delete(KEY)
    async with maintenance_mode(tmp_path, registry, title="T", text="t", notify=messages.append):
        await registry.set(KEY, "somebody's")
    assert await registry.get(KEY) == "somebody's"
    assert "changed by someone else" in messages[1]
    assert not is_left_on(tmp_path)


_KILLED = """
import sys, trio
from pathlib import Path
from cesbrfs.ces.maintenance import maintenance_mode
from cesbrfs.config.settings import Flags, load
async def main(root, registry):
    registry = load(Flags(registry=registry), {}).open_registry()
    async with maintenance_mode(Path(root), registry, title="T", text="t", notify=print):
        print("on", flush=True)
        await trio.sleep_forever()
trio.run(main, *sys.argv[1:])
"""


def killed_while_on(root: Path, registry: Registry) -> subprocess.Popen[bytes]:
    """Start a process that turns it on and keeps running."""
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, root, registry.address],
        stdout=subprocess.PIPE,
        cwd=PROJECT,
    )
    assert process.stdout
    assert process.stdout.readline() == b"on\n"
    return process


async def test_it_is_turned_off_after_a_crash(registry: Registry, tmp_path: Path) -> None:
    """It stays on while the process runs; once killed, the next start turns it off."""
    messages: list[str] = []
    with killed_while_on(tmp_path, registry) as process:
        await turn_off_leftover(tmp_path, registry, messages.append)
        assert await registry.get(KEY) is not None
        async with maintenance_mode(
            tmp_path, registry, title="T", text="t", notify=messages.append
        ):
            pass
        assert await registry.get(KEY) is not None
        process.kill()
    assert messages == ["Maintenance mode is already on: another cesbr process has turned it on."]
    assert is_left_on(tmp_path)
    await turn_off_leftover(tmp_path, registry, messages.append)
    assert await registry.get(KEY) is None
    assert "has been turned off" in messages[1]
    assert not is_left_on(tmp_path)
    await turn_off_leftover(tmp_path, registry, messages.append)
    assert len(messages) == 2


async def test_a_foreign_value_after_a_crash_stays(registry: Registry, tmp_path: Path) -> None:
    """A value set after the crash is not removed."""
    messages: list[str] = []
    with killed_while_on(tmp_path, registry) as process:
        process.kill()
    await registry.set(KEY, "somebody's")
    await turn_off_leftover(tmp_path, registry, messages.append)
    assert await registry.get(KEY) == "somebody's"
    assert len(messages) == 1
    assert not is_left_on(tmp_path)


async def test_a_crash_before_it_was_on(tmp_path: Path) -> None:
    """A truncated state file is cleared; one of another registry is reported and kept."""
    registry = FileRegistry(tmp_path / "registry")
    file = tmp_path / STATE_FILE
    file.parent.mkdir(parents=True)
    messages: list[str] = []
    for content in ('{"registry": "', "[]", "7"):
        file.write_text(content)
        await turn_off_leftover(tmp_path, registry, messages.append)
        assert (messages, is_left_on(tmp_path)) == ([], False)
    file.write_text(json.dumps({"registry": "http://other:4001", "value": "x"}))
    await turn_off_leftover(tmp_path, registry, messages.append)
    assert "http://other:4001" in messages[0]
    assert is_left_on(tmp_path)


async def test_an_unreachable_etcd_is_reported(etcd_program: Path, tmp_path: Path) -> None:
    """It cannot be turned off without etcd; the next start with etcd turns it off."""
    from cesbrfs.ces.etcd import EtcdRegistry

    server: Etcd
    messages: list[str] = []
    with serving(etcd_program, tmp_path / "etcd") as server:
        registry = EtcdRegistry(server.url)
        async with maintenance_mode(
            tmp_path, registry, title="T", text="t", notify=messages.append
        ):
            server.kill()
        assert "is still on" in messages[0]
        assert is_left_on(tmp_path)
        await turn_off_leftover(tmp_path, registry, messages.append)
        assert is_left_on(tmp_path)
        server.start()
        await turn_off_leftover(tmp_path, registry, messages.append)
        assert await registry.get(KEY) is None
        assert "has been turned off" in messages[2]
