"""What ``cesbr doctor`` finds in settings, and about files that contain secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cesbr.doctor.finding import State
from cesbr.doctor.settings import check_secrets, check_settings

from cesbrfs.config.settings import Flags, load
from tests.support.rights import open_directory, without_rights


@pytest.mark.parametrize(
    ("text", "environ", "state", "found"),
    [
        ('cache_size = "1G"', {}, State.OK, "config.toml is valid"),
        ('cache_size = "1G"', {"CESBR_CACHE_SIZE": "2G"}, State.OK, "; 1 value overridden"),
        ("", {"CESBR_CACHE_SISE": "1"}, State.WARNING, "CESBR_CACHE_SISE"),
        ('cache_size = "big"', {"CESBR_PATIENCE": "x"}, State.ERROR, "(1 more error)"),
        ('root = "/missing"', {}, State.ERROR, "/missing"),
    ],
)
def test_settings(
    tmp_path: Path, text: str, environ: dict[str, str], state: State, found: str
) -> None:
    """Valid, overridden, unknown, invalid, and a root that does not exist."""
    file = tmp_path / "config.toml"
    file.write_text(text + "\n")
    finding, settings = check_settings(Flags(config=str(file)), environ)
    assert finding.state is state
    assert found in finding.found
    assert (settings is None) == (state is State.ERROR)


def test_files_with_secrets(tmp_path: Path) -> None:
    """Others must not read the key, credentials, and a settings file with a password command."""
    config, credentials = tmp_path / "config.toml", tmp_path / "credentials"
    config.write_text('password_command = "pass show key"\n')
    credentials.touch(0o600)
    environ = {"AWS_SHARED_CREDENTIALS_FILE": str(credentials), "HOME": str(tmp_path)}
    settings = load(Flags(config=str(config)), environ)
    for file in (config, credentials):
        config.chmod(0o600)
        file.chmod(0o604)
        finding = check_secrets(settings, environ)
        assert finding.state is State.WARNING
        assert f"{file} has mode 0604" in finding.found
        file.chmod(0o600)
    safe = check_secrets(settings, environ)
    assert safe.found == f"only their owner can read {config}, {credentials}"
    assert check_secrets(load(Flags(), {}), {}).found == "no file with secrets is configured"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can create a key of another user")
def test_a_key_that_this_user_cannot_read() -> None:
    """It is an error, unlike a file that others can read."""
    with open_directory() as directory:
        key = directory / "key"
        key.touch(0o600)
        settings = load(Flags(password_file=str(key)), {})
        with without_rights():
            finding = check_secrets(settings, {})
        assert (finding.state, finding.action) == (State.ERROR, "Run this command as its owner")
