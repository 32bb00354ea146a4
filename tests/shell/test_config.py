"""``cesbr config``: check the settings, write a settings file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.shell.conftest import Cesbr, Site
from tests.support.project import PROJECT


@pytest.fixture
def alone(cesbr: Cesbr) -> Cesbr:
    """``cesbr`` with an empty home directory."""
    return cesbr.having(HOME=str(cesbr.here), XDG_CONFIG_HOME="")


def test_check(alone: Cesbr) -> None:
    """Errors, with exit code 2; then overridden values, with 0."""
    file = alone.here / ".config/cesbr/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('patience = "soon"\nrepo = "/x"\n')
    said = alone("config", "check")
    assert said.code == 2
    assert f"'patience' (file {file}) is not a valid time" in said.out
    assert "Unknown key 'repo'" in said.out
    assert said.out.endswith("2 errors.\n")

    file.write_text('repository = "rest:http://me:hidden@host/"\n')
    file.chmod(0o600)
    said = alone("config", "check", "--repo", "/elsewhere", "--json")
    assert said.code == 0
    assert said.json == {
        "file": str(file),
        "ignored": [],
        "errors": [],
        "warnings": [],
        "overridden": [{"key": "repository", "source": f"file {file}", "by": "flag"}],
    }


def test_init_writes_the_example_of_the_package(alone: Cesbr) -> None:
    """Without settings it is byte for byte the file that the Debian package installs."""
    said = alone("config", "init", "--output", "new.toml")
    assert said.code == 0, said.err
    written = alone.here / "new.toml"
    assert written.stat().st_mode & 0o777 == 0o600
    packaged = "shell/cesbr/config.toml"
    assert f"install -m 600 {packaged} " in (PROJECT / "packaging/deb/build").read_text()
    assert written.read_bytes() == (PROJECT / packaged).read_bytes()


def test_init_fills_in_the_settings(alone: Cesbr, kept_site: Site, tmp_path: Path) -> None:
    """The written file replaces the options, and is never overwritten."""
    odd = tmp_path / 'k"\\ey\x7f'
    options = ("--repo", str(kept_site.repository), "--password-file", str(odd), "--root", "r",
               "--patience", "7", "--no-init")  # fmt: skip
    config = str(tmp_path / "own/config.toml")
    said = alone("--config", config, *options, "config", "init")
    assert said.code == 0, said.err
    assert tomllib.loads(Path(config).read_text()) == {
        "repository": str(kept_site.repository),
        "password_file": str(odd),
        "root": str(alone.here / "r"),
        "patience": 7,
        "auto_init": False,
    }
    assert alone("--config", config, "config", "check").code == 0
    before = Path(config).read_bytes()
    again = alone("config", "init", "--output", config)
    assert again.code == 1
    assert "exists and was not changed" in again.err
    assert Path(config).read_bytes() == before
