"""``cesbr`` on an instance whose registry is an etcd, available or not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shell.conftest import KEY, Cesbr, Site
from tests.support.etcd import Etcd, serving
from tests.support.mounting import fuse_missing


@pytest.fixture
def on_etcd(cesbr: Cesbr, site: Site, etcd: Etcd) -> Cesbr:
    """``cesbr`` on its own backups; the registry is stored in etcd only."""
    etcd.pour(site.root / "var/lib/cesbr/registry")
    shutil.rmtree(site.root / "var/lib/cesbr/registry")
    return cesbr.having(CESBR_ROOT=str(site.root), CESBR_REGISTRY=etcd.url)


@pytest.fixture
def gone(cesbr: Cesbr, site: Site, etcd_program: Path, tmp_path: Path) -> Iterator[Cesbr]:
    """``cesbr`` on an instance whose etcd is killed after it has answered."""
    with serving(etcd_program, tmp_path / "etcd") as server:
        server.pour(site.root / "var/lib/cesbr/registry")
        shutil.rmtree(site.root / "var/lib/cesbr/registry")
        found = cesbr.having(CESBR_ROOT=str(site.root), CESBR_REGISTRY=server.url)
        assert found("backups").code == 0
        server.kill()
        yield found


def test_everything_comes_from_etcd(on_etcd: Cesbr, etcd: Etcd, site: Site) -> None:
    """Address, key and registry data are read from etcd; status shows the source, no secrets."""
    etcd.fill({"/config/_global/fqdn": "ces.example.org", "/config/redmine/x": "in etcd"})
    said = on_etcd("--json", "backup")
    assert said.code == 0, said.err
    instance = on_etcd("cat", "--backup", "latest", "_instance/registry.json").out
    assert '"/config/_global/fqdn": "ces.example.org"' in instance
    redmine = on_etcd("cat", "--backup", "latest", "redmine/registry.json").out
    assert '"/config/redmine/x": "in etcd"' in redmine
    etcd.fill({"/config/backup/time": "noon", "/config/backup/active": "false"})
    said = on_etcd("status", "--json")
    status = said.json
    assert isinstance(status, dict)
    assert status["repository"]["state"] == "ready"
    assert status["registry"] == {"address": etcd.url, "message": None}
    assert status["settings"]["registry"]["source"] == "environment CESBR_REGISTRY"
    assert status["settings"]["repository"] == {
        "value": str(site.repository),
        "source": "registry /config/backup/local_config/path",
    }
    assert status["backup"]["active"] == {
        "value": False,
        "source": "registry /config/backup/active",
    }
    assert "Set it to a time" in status["backup"]["time"]["problem"]
    text = on_etcd("status").out
    assert "noon" in text
    assert KEY.strip() not in text + said.out
    assert "suspended" in on_etcd("backup").err


def test_the_node_masters_etcd(cesbr: Cesbr, site: Site) -> None:
    """By default the address of etcd is read from the instance's node_master file."""
    shutil.rmtree(site.root / "var/lib/cesbr/registry")
    (site.root / "etc/ces/node_master").write_text("127.0.0.77\n")
    said = cesbr.having(CESBR_ROOT=str(site.root), CESBR_REPOSITORY="/none")("--json", "status")
    status = said.json
    assert isinstance(status, dict)
    assert status["settings"]["registry"] == {
        "value": "http://127.0.0.77:4001",
        "source": f"file {site.root}/etc/ces/node_master",
    }


def timed(cesbr: Cesbr, *command: str) -> tuple[int, str]:
    start = time.monotonic()
    said = cesbr(*command)
    assert time.monotonic() - start < 10
    return said.code, said.err


@pytest.mark.parametrize("command", [("backups",), ("backup", "--force"), ("check",)])
def test_what_needs_a_lost_registry_says_so(gone: Cesbr, command: tuple[str, ...]) -> None:
    """Commands that need the registry fail within seconds and suggest what to do."""
    code, err = timed(gone, *command)
    assert code == 1
    assert "Cannot connect to the registry" in err
    assert "Check that etcd is running" in err


def test_disaster_recovery(gone: Cesbr, site: Site, tmp_path: Path) -> None:
    """With address and key given explicitly, read commands work without etcd, as in the guide."""
    config = tmp_path / "config.toml"
    config.write_text(f'repository = "{site.repository}"\n')
    saved = gone.having(CESBR_CONFIG=str(config), RESTIC_PASSWORD=KEY)
    for command in (
        ("backups",),
        ("ls", "--backup", "latest", "redmine/volumes/files"),
        ("cat", "--backup", "latest", "redmine/volumes/files/hello.txt"),
        ("check",),
    ):
        assert timed(saved, *command) == (0, "")
    target = tmp_path / "back"
    restore = ("restore", "--backup", "latest", "--yes", "--target", str(target))
    code, err = timed(saved, *restore)
    assert code == 0
    assert "Whether restores are suspended is not known: Cannot connect" in err
    assert (target / "redmine/volumes/files/hello.txt").read_text() == "hello again\n"
    assert timed(saved, *restore, "--force", "--overwrite", "always") == (0, "")
    status = saved("status", "--json").json
    assert isinstance(status, dict)
    assert status["repository"]["state"] == "ready"
    assert "Cannot connect" in status["registry"]["message"]
    assert status["settings"]["repository"]["source"] == f"file {config}"
    assert status["settings"]["password"]["source"] == "environment RESTIC_PASSWORD"
    assert saved("status").code == 0
    code, err = timed(saved, "backup")
    assert code == 1
    assert "Cannot connect to the registry" in err
    listed = saved("--json", "backups").json
    assert isinstance(listed, list)
    assert len(listed) == 2


@pytest.mark.skipif(fuse_missing() is not None, reason="nothing can be mounted here")
def test_a_mount_without_the_registry(gone: Cesbr, site: Site, tmp_path: Path) -> None:
    """The mount program does not need the registry either."""
    place = tmp_path / "mount"
    place.mkdir()
    program = [sys.executable, "-m", "cesbrfs", str(site.repository), str(place)]
    environ = gone.having(RESTIC_PASSWORD=KEY).environ
    subprocess.run(program, env=environ, check=True, timeout=30)
    try:
        file = place / "latest/redmine/volumes/files/hello.txt"
        assert file.read_text() == "hello again\n"
    finally:
        subprocess.run(["fusermount3", "-u", str(place)], check=True)
