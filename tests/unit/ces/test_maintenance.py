"""The maintenance mode in a file registry and a real etcd: on, off, left alone, taken back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cesbrfs.ces.maintenance import KEY, STATE_FILE, is_left_on, maintenance_mode, take_back
from cesbrfs.ces.registry import FileRegistry, Registry
from tests.support.etcd import Etcd, serving
from tests.support.project import PROJECT


async def test_it_is_on_for_as_long_as_the_block(registry: Registry, tmp_path: Path) -> None:
    """Users see the page in between, and never after, nor is anything left behind."""
    said: list[str] = []
    async with maintenance_mode(tmp_path, registry, title="T", text="Ü", say=said.append):
        assert json.loads(await registry.get(KEY) or "") == {"title": "T", "text": "Ü"}
        assert is_left_on(tmp_path)
    assert await registry.get(KEY) is None
    assert not is_left_on(tmp_path)
    assert said == []
    assert (tmp_path / STATE_FILE).stat().st_mode & 0o777 == 0o600


async def test_it_goes_off_with_an_error_and_with_a_cancellation(
    registry: Registry, tmp_path: Path
) -> None:
    """However the block ends, it is off."""
    with pytest.raises(RuntimeError):
        async with maintenance_mode(tmp_path, registry, title="T", text="t", say=print):
            raise RuntimeError
    assert await registry.get(KEY) is None
    with trio.CancelScope() as scope:
        async with maintenance_mode(tmp_path, registry, title="T", text="t", say=print):
            scope.cancel()
            await trio.sleep_forever()
    assert await registry.get(KEY) is None


async def test_somebody_elses_is_left_alone(registry: Registry, tmp_path: Path) -> None:
    """What is on before stays on, and what somebody sets meanwhile, too."""
    said: list[str] = []
    await registry.set(KEY, "somebody's")
    async with maintenance_mode(tmp_path, registry, title="T", text="t", say=said.append):
        assert await registry.get(KEY) == "somebody's"
    assert await registry.get(KEY) == "somebody's"
    assert said == ["The maintenance mode is on already; it is left on."]
    await registry.delete(KEY)
    async with maintenance_mode(tmp_path, registry, title="T", text="t", say=said.append):
        await registry.set(KEY, "somebody's")
    assert await registry.get(KEY) == "somebody's"
    assert "changed by somebody else" in said[1]
    assert not is_left_on(tmp_path)


_KILLED = """
import sys, trio
from pathlib import Path
from cesbrfs.ces.maintenance import maintenance_mode
from cesbrfs.config.settings import Flags, load
async def main(root, registry):
    registry = load(Flags(registry=registry), {}).open_registry()
    async with maintenance_mode(Path(root), registry, title="T", text="t", say=print):
        print("on", flush=True)
        await trio.sleep_forever()
trio.run(main, *sys.argv[1:])
"""


def killed_while_on(root: Path, registry: Registry) -> subprocess.Popen[bytes]:
    """Start a process that turns it on and stays."""
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, root, registry.address],
        stdout=subprocess.PIPE,
        cwd=PROJECT,
    )
    assert process.stdout
    assert process.stdout.readline() == b"on\n"
    return process


async def test_a_crash_is_made_good(registry: Registry, tmp_path: Path) -> None:
    """While the process lives nobody interferes; once killed, the next start turns it off."""
    said: list[str] = []
    with killed_while_on(tmp_path, registry) as process:
        await take_back(tmp_path, registry, said.append)
        assert await registry.get(KEY) is not None
        async with maintenance_mode(tmp_path, registry, title="T", text="t", say=said.append):
            pass
        assert await registry.get(KEY) is not None
        process.kill()
    assert said == ["Another process has turned the maintenance mode on; it is left to that."]
    assert is_left_on(tmp_path)
    await take_back(tmp_path, registry, said.append)
    assert await registry.get(KEY) is None
    assert "is off again" in said[1]
    assert not is_left_on(tmp_path)
    await take_back(tmp_path, registry, said.append)
    assert len(said) == 2


async def test_after_a_crash_somebody_elses_stays(registry: Registry, tmp_path: Path) -> None:
    """What was set since the crash is not ours to remove."""
    said: list[str] = []
    with killed_while_on(tmp_path, registry) as process:
        process.kill()
    await registry.set(KEY, "somebody's")
    await take_back(tmp_path, registry, said.append)
    assert await registry.get(KEY) == "somebody's"
    assert len(said) == 1
    assert not is_left_on(tmp_path)


async def test_a_crash_before_it_was_on(tmp_path: Path) -> None:
    """A note that was not even finished is dropped, one of another registry is told and kept."""
    registry = FileRegistry(tmp_path / "registry")
    file = tmp_path / STATE_FILE
    file.parent.mkdir(parents=True)
    said: list[str] = []
    for content in ('{"registry": "', "[]", "7"):
        file.write_text(content)
        await take_back(tmp_path, registry, said.append)
        assert (said, is_left_on(tmp_path)) == ([], False)
    file.write_text(json.dumps({"registry": "http://other:4001", "value": "x"}))
    await take_back(tmp_path, registry, said.append)
    assert "http://other:4001" in said[0]
    assert is_left_on(tmp_path)


async def test_an_etcd_that_is_gone_is_told(etcd_program: Path, tmp_path: Path) -> None:
    """It cannot be turned off then: that is said, and made good when etcd is back."""
    from cesbrfs.ces.etcd import EtcdRegistry

    server: Etcd
    said: list[str] = []
    with serving(etcd_program, tmp_path / "etcd") as server:
        registry = EtcdRegistry(server.url)
        async with maintenance_mode(tmp_path, registry, title="T", text="t", say=said.append):
            server.kill()
        assert "is still on" in said[0]
        assert is_left_on(tmp_path)
        await take_back(tmp_path, registry, said.append)
        assert is_left_on(tmp_path)
        server.start()
        await take_back(tmp_path, registry, said.append)
        assert await registry.get(KEY) is None
        assert "is off again" in said[2]
