"""init, backup, browsing and restore with the repository on a real SFTP server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shell.conftest import KEY, Cesbr, Site
from tests.support.restic_repo import ResticRepo, cheapen
from tests.support.sshd import Sshd, free_port


@pytest.fixture
def own(cesbr: Cesbr, new_site: Site, sshd: Sshd, restic_binary: Path) -> Cesbr:
    """``cesbr`` on an instance whose registry names an SFTP server; ssh has a config file."""
    new_site.set("/config/backup/backup_type", "SFTP")
    new_site.set("/config/backup/sftp_config/address", sshd.url(new_site.repository))
    config = cesbr.here / "config.toml"
    config.write_text(f"[options]\n'sftp.command' = '{sshd.command()}'\n")
    return cesbr.having(
        CESBR_ROOT=str(new_site.root), CESBR_RESTIC=str(restic_binary), CESBR_CONFIG=str(config)
    )


def test_from_nothing_to_a_restored_file(
    own: Cesbr, new_site: Site, sshd: Sshd, restic_binary: Path, tmp_path: Path
) -> None:
    """A missing repository is created, backed up to, browsed, checked and restored from."""
    said = own("init")
    assert said.code == 0, said.err
    assert "Initialised the repository" in said.out + said.err
    cheapen(ResticRepo(restic_binary, new_site.repository, KEY))
    assert own("init").code == 0

    said = own("backup", "--json")
    assert said.code == 0, said.err
    said = own("ls", "/latest/redmine/volumes/files", "--json")
    assert said.code == 0, said.err
    assert b"hello.txt" in said.stdout
    said = own("restore", "/latest/redmine", "--target", str(tmp_path / "back"), "--yes")
    assert said.code == 0, said.err
    (restored,) = (tmp_path / "back").rglob("sub/binary")
    assert restored.read_bytes() == (new_site.files / "sub/binary").read_bytes()
    said = own("check")
    assert said.code == 0, said.err


def test_a_server_that_is_not_there_or_not_trusted(own: Cesbr, new_site: Site, sshd: Sshd) -> None:
    """Neither counts as a missing repository: nothing is created, and the reason is reported."""
    config = Path(own.environ["CESBR_CONFIG"])
    for command, reason in (
        (sshd.command(port=free_port()), "refused"),
        (sshd.command("-o UserKnownHostsFile=/dev/null"), "host key"),
    ):
        config.write_text(f"[options]\n'sftp.command' = '{command}'\n")
        for words in (["backups"], ["backup"]):
            said = own(*words)
            assert said.code == 1, said.err
            assert reason in said.err
            assert len(said.err.splitlines()) == 1
    assert not new_site.repository.exists()
