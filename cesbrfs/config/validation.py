"""Check all settings at once: every unknown key, invalid value and overridden value.

`load` stops at the first error and ignores overridden values. Here each value is read on its own,
with the code of `load`. Messages name settings and sources, and contain no values.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from cesbrfs.config.layers import (
    TOML_KEYS,
    ConfigLayers,
    Flags,
    config_file,
    parse_file,
    usual_files,
)
from cesbrfs.config.settings import from_layers, load
from cesbrfs.errors import UsageError
from cesbrfs.util.suggest import did_you_mean

_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "repository": ("CESBR_REPOSITORY", "RESTIC_REPOSITORY", "RESTIC_REPOSITORY_FILE"),
    "password": (
        "CESBR_PASSWORD_FILE", "CESBR_PASSWORD_COMMAND",
        "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND", "RESTIC_PASSWORD",
    ),
    "options": (),
    "rules": (),
}  # fmt: skip
"""Variables of settings that have others than ``CESBR_<KEY>``, in order of precedence."""
_PASSWORD: Final = ("password_file", "password_command")
"""Keys and flags that are one setting: where the encryption key is obtained."""
_OTHER_VARIABLES: Final = ("CESBR_CONFIG", "CESBR_TAB_SECONDS")


@dataclass(frozen=True, slots=True)
class Problem:
    """A value that cannot be used, or a file that cannot be read."""

    key: str | None
    source: str
    message: str


@dataclass(frozen=True, slots=True)
class Override:
    """A value of `key` from `source` that is ignored, because one from `by` takes precedence."""

    key: str
    source: str
    by: str


@dataclass(frozen=True, slots=True)
class Validation:
    """The result: the file that is read, files that are ignored, errors and overridden values.

    `unknown` are variables that begin with ``CESBR_`` and have no meaning.
    """

    file: Path | None
    ignored: tuple[Path, ...]
    problems: tuple[Problem, ...]
    overridden: tuple[Override, ...]
    unknown: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Given:
    """A value where it was written; `layers` contain nothing else."""

    setting: str
    key: str
    source: str
    layers: ConfigLayers


def validate(flags: Flags, environ: Mapping[str, str]) -> Validation:
    """Check the settings file, the environment and `flags`; never raises for what they contain."""
    problems: list[Problem] = []
    file, content = None, {}
    try:
        file = config_file(flags, environ)
        content = parse_file(file) if file else {}
    except UsageError as error:
        source = f"file {file}" if file else "flag" if flags.config else "environment CESBR_CONFIG"
        problems.append(Problem(None, source, error.message))
    given = list(_given(flags, environ, file, content))
    problems += _unknown_keys(file, content)
    for each in given:
        try:
            from_layers(each.layers)
        except UsageError as error:
            problems.append(Problem(each.key, each.source, error.message))
    if not problems:
        try:
            load(flags, environ)
        except UsageError as error:  # of values that contradict each other
            problems.append(Problem(None, "combination", error.message))
    ignored = (each for each in usual_files(environ) if each != file and os.path.lexists(each))
    return Validation(
        file,
        tuple(ignored) if file else (),
        tuple(problems),
        tuple(_overridden(given)),
        tuple(_unknown_variables(environ)),
    )


def _given(
    flags: Flags, environ: Mapping[str, str], file: Path | None, content: Mapping[str, object]
) -> Iterator[_Given]:
    """Yield each value that is set, those of one setting in order of precedence."""
    home = {"HOME": environ["HOME"]} if "HOME" in environ else {}
    for field in fields(Flags):
        value = getattr(flags, field.name)
        if value in (None, ()) or field.name == "config":
            continue
        setting = "password" if field.name in _PASSWORD else field.name
        alone = Flags(**{field.name: value})
        yield _Given(setting, field.name, "flag", ConfigLayers(alone, home, (Path("/"), {})))
    for setting, variables in _known_variables().items():
        for name in variables:
            if value := environ.get(name):
                layers = ConfigLayers(Flags(), {**home, name: value}, (Path("/"), {}))
                yield _Given(setting, name, f"environment {name}", layers)
    for key, value in content.items():
        if key in TOML_KEYS and file is not None:
            setting = "password" if key in _PASSWORD else key
            layers = ConfigLayers(Flags(), home, (file, {key: value}))
            yield _Given(setting, key, f"file {file}", layers)


def _known_variables() -> dict[str, tuple[str, ...]]:
    plain = sorted(TOML_KEYS - _VARIABLES.keys() - set(_PASSWORD))
    return {**_VARIABLES, **{key: (f"CESBR_{key.upper()}",) for key in plain}}


def _overridden(given: list[_Given]) -> Iterator[Override]:
    first: dict[str, str] = {}
    for each in given:
        by = first.setdefault(each.setting, each.source)
        if by != each.source and each.setting != "options":  # options of several sources are merged
            yield Override(each.key, each.source, by)


def _unknown_keys(file: Path | None, content: Mapping[str, object]) -> Iterator[Problem]:
    for key in content:
        if key not in TOML_KEYS:
            hint = did_you_mean(key, sorted(TOML_KEYS), ". Remove it, or correct its name.")
            message = f"Unknown key {key!r} in the settings file {file}{hint}"
            yield Problem(key, f"file {file}", message)


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[Problem]:
    known = [name for names in _known_variables().values() for name in names]
    for name in sorted(environ):
        if name.startswith("CESBR_") and name not in (*known, *_OTHER_VARIABLES):
            hint = did_you_mean(name, known, ". Unset it, or correct its name.")
            message = f"Unknown variable {name}, which is ignored{hint}"
            yield Problem(name, f"environment {name}", message)
