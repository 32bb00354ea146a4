"""All errors, unknown names and overridden values of the settings at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cesbrfs.config import layers
from cesbrfs.config.layers import TOML_KEYS
from cesbrfs.config.settings import Flags, load
from cesbrfs.config.validation import Override, Validation, validate


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the only settings file, in a directory that exists."""
    monkeypatch.setattr(layers, "SYSTEM_CONFIG", tmp_path / "config.toml")
    return tmp_path / "config.toml"


def keys(found: Validation) -> list[str | None]:
    return [problem.key for problem in found.problems]


def test_all_errors_of_a_file(file: Path) -> None:
    """Each unknown key and each invalid value is reported, with the file and without values."""
    file.write_text(
        'cache_dri = "/c"\npatience = "soon"\nworkers = 2.5\nroot = 3\nregistry = "/r"\n'
        'password_file = ["hidden"]\n[[rules]]\nmatch = "("\nkind = "volumes"\n'
    )
    found = validate(Flags(), {})
    assert sorted(map(str, keys(found))) == [
        "cache_dri", "password_file", "patience", "root", "rules", "workers",
    ]  # fmt: skip
    assert found.problems[0].message.endswith("; did you mean 'cache_dir'?")
    assert all(str(file) in problem.message for problem in found.problems)
    assert not any("hidden" in problem.message for problem in found.problems)


@pytest.mark.parametrize("key", sorted(TOML_KEYS))
def test_every_key_is_validated(file: Path, key: str) -> None:
    """A value of a type that no setting has is an error of this key."""
    file.write_text(f"{key} = 1979-05-27T07:32:00Z\n")
    assert keys(validate(Flags(), {})) == [key]


def test_what_is_overridden(file: Path) -> None:
    """A flag wins over the environment, which wins over the file; `load` decides the same."""
    file.write_text('repository = "/file"\npassword_file = "/file.key"\ncache_size = "1M"\n')
    environ = {"RESTIC_REPOSITORY": "/env", "RESTIC_PASSWORD": "secret", "CESBR_CACHE_SIZE": "2M"}
    flags = Flags(repository="/flag")
    found = validate(flags, environ)
    assert found.problems == ()
    assert set(found.overridden) == {
        Override("RESTIC_REPOSITORY", "environment RESTIC_REPOSITORY", "flag"),
        Override("repository", f"file {file}", "flag"),
        Override("password_file", f"file {file}", "environment RESTIC_PASSWORD"),
        Override("cache_size", f"file {file}", "environment CESBR_CACHE_SIZE"),
    }
    sources = load(flags, environ).sources
    assert [sources[name] for name in ("repository", "password", "cache_size")] == [
        "flag", "environment RESTIC_PASSWORD", "environment CESBR_CACHE_SIZE",
    ]  # fmt: skip


def test_errors_of_the_environment_and_of_combinations(file: Path) -> None:
    """Invalid and unknown variables, two sources of the key at once, and files."""
    found = validate(Flags(patience="x"), {"CESBR_WORKERS": "-", "CESBR_CACHEDIR": "/c"})
    assert keys(found) == ["patience", "CESBR_WORKERS"]
    assert "did you mean 'CESBR_CACHE_DIR'?" in found.unknown[0].message
    both = {"RESTIC_PASSWORD_FILE": "/k", "RESTIC_PASSWORD_COMMAND": "pass"}
    assert "are both set" in validate(Flags(), both).problems[0].message
    file.write_text("patience = \n")
    assert "not TOML" in validate(Flags(), {}).problems[0].message
    named = validate(Flags(config=str(file.parent / "missing")), {})
    assert "Cannot read" in named.problems[0].message


def test_the_file_that_is_ignored(file: Path, tmp_path: Path) -> None:
    """If the user has a settings file, the system's is not read."""
    file.write_text("nonsense = 1\n")
    own = tmp_path / "cesbr/config.toml"
    own.parent.mkdir()
    own.write_text("")
    found = validate(Flags(), {"XDG_CONFIG_HOME": str(tmp_path)})
    assert (found.file, found.ignored, found.problems) == (own, (file,), ())
