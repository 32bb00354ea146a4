"""Where settings are written: flags, environment, a TOML file; and how each value is read.

Knows the names of settings, not their meaning.  Every error names the value and its source.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import KINDS
from cesbrfs.util.secret import redact

SYSTEM_CONFIG: Final = Path("/etc/cesbr/config.toml")
_REPOSITORY_VARIABLES: Final = (
    "CESBR_REPOSITORY", "RESTIC_REPOSITORY", "RESTIC_REPOSITORY_FILE",
)  # fmt: skip

_SIZE: Final = re.compile(r"(\d+)\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
_WORDS: Final[Mapping[str, bool]] = {
    "1": True, "true": True, "yes": True, "on": True,
    "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip
_ADDRESSES: Final = ("repository", "registry")
TOML_KEYS: Final = frozenset({
    "auto_init", "backup_tag", "cache_dir", "cache_size", "command_runner", "data_cache_size",
    "dogu_control", "health_host", "options", "password_command", "password_file", "patience",
    "private_key", "registry", "repository", "restic", "root", "rules", "script_timeout", "workers",
})  # fmt: skip


def absolute_path(text: str, *, home: str | None = None, base: str | None = None) -> str:
    """Return a path of this machine that a user wrote, made absolute; links in it stay.

    ``~`` is `home`, $HOME by default; a relative path starts at `base`, the working directory
    by default. Raises FileNotFoundError if that does not exist.
    """
    home = home or os.environ.get("HOME")
    if home and (text == "~" or text.startswith("~/")):
        text = home + text[1:]
    return os.path.abspath(os.path.join(base or "", text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line says; None (or nothing) is what it does not."""

    repository: str | None = field(default=None, repr=False)
    password_file: str | None = None
    registry: str | None = None
    root: str | None = None
    config: str | None = None
    auto_init: bool | None = None
    restic: str | None = None
    cache_dir: str | None = None
    cache_size: str | None = None
    patience: str | None = None
    data_cache_size: str | None = None
    options: tuple[str, ...] = field(default=(), repr=False)
    """restic's extended options, ``key=value`` each."""


@dataclass(frozen=True, slots=True)
class RawSetting:
    """A value as it was written somewhere.

    Relative paths in it start at `base` (None: the working directory), ``~`` in them means `home`.
    """

    value: object = field(repr=False)
    source: str
    name: str
    base: Path | None = None
    home: str | None = None

    @property
    def where(self) -> str:
        """Name the value for an error message."""
        return f"'{self.name}' ({self.source})"

    def text(self) -> str:
        """Return a text that is not empty."""
        if not isinstance(self.value, str) or not self.value or "\0" in self.value:
            raise UsageError(f"{self.where} must be text that is not empty.")
        return self.value

    def path(self) -> Path:
        """Return an absolute path; links in it stay as they are."""
        base = str(self.base) if self.base else None
        try:
            return Path(absolute_path(self.text(), home=self.home, base=base))
        except FileNotFoundError:
            raise UsageError(
                f"{self.where} is a relative path, but the working directory does not exist. Pass"
                " an absolute path."
            ) from None

    def flag(self) -> bool:
        """Return a boolean, from TOML's own or from a word."""
        found = self.value
        if isinstance(found, str):
            found = _WORDS.get(found.lower())
        if not isinstance(found, bool):
            raise UsageError(f"{self.where} must be true or false.")
        return found

    def size(self) -> int:
        """Return a number of bytes; units are powers of 1024, as restic's are."""
        found = self.value
        if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
            return found
        match = _SIZE.fullmatch(found.strip()) if isinstance(found, str) else None
        if match is None:
            raise UsageError(f"{self.where} is not a valid size. Write for example 64M or 1GiB.")
        return int(match[1]) << (10 * (1 + "kmgt".index(match[2].lower())) if match[2] else 0)

    def seconds(self) -> float:
        """Return a time in seconds, 0 or more."""
        found = self.value
        if isinstance(found, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", found):
            found = float(found)
        if isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < math.inf:
            return float(found)
        raise UsageError(
            f"{self.where} is not a valid time. Write a number of seconds, for example 60."
        )

    def count(self) -> int:
        """Return a whole number, 0 or more."""
        found = self.value
        if isinstance(found, str) and re.fullmatch(r"[0-9]{1,6}", found):
            found = int(found)
        if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
            return found
        raise UsageError(f"{self.where} must be a whole number, for example 4.")

    def pattern(self) -> re.Pattern[str]:
        """Return a compiled regular expression."""
        try:
            return re.compile(self.text())
        except re.error as error:
            raise UsageError(f"{self.where} is not a valid regular expression: {error}.") from None

    def repository(self) -> str:
        """Return the address in restic's form; a local path becomes absolute."""
        text = self.text()
        scheme, colon, rest = text.partition(":")
        if colon and scheme.lower() in KINDS:
            return f"{scheme.lower()}:{rest}"
        if colon and scheme.lower() == "local":
            text = rest
        elif colon and re.fullmatch("[A-Za-z0-9]+", scheme):
            raise UsageError(
                f"Unknown scheme {scheme!r} of {self.where} in {redact(text)}. Use one of"
                f" {', '.join(KINDS)}, or ./{redact(text)} for a directory with this name."
            )
        if not text:
            raise UsageError(f"{self.where} contains no path. Write the path of a directory.")
        return str(replace(self, value=text).path())


class ConfigLayers:
    """Flags, environment and file, asked in this order."""

    def __init__(
        self,
        flags: Flags,
        environ: Mapping[str, str],
        toml: tuple[Path, Mapping[str, object]] | None = None,
    ) -> None:
        """Read the settings file, unless `toml` is the path and the content of one."""
        self.file = toml[0] if toml else config_file(flags, environ)
        """The TOML file that is read, if any."""
        self.environ: Final = environ
        self.sources: dict[str, str] = {}
        """Where the values that were taken came from, by the settings' names."""
        self.flags: Final = flags
        self._home = environ.get("HOME") or None
        self._toml = toml[1] if toml else _read_toml(self.file) if self.file else {}

    def from_flag(self, name: str) -> RawSetting | None:
        """Return the value of the flag `name`."""
        found = getattr(self.flags, name, None)
        return None if found is None else RawSetting(found, "flag", name, home=self._home)

    def from_environment(self, *variables: str) -> RawSetting | None:
        """Return the first of these variables; an empty one counts as not set, as for restic."""
        for name in variables:
            if found := self.environ.get(name):
                return RawSetting(found, f"environment {name}", name, home=self._home)
        return None

    def from_file(self, name: str) -> RawSetting | None:
        """Return the value in the TOML file; relative paths start at its directory."""
        found = self._toml.get(name)
        if found is None or self.file is None:
            return None
        return RawSetting(found, f"file {self.file}", name, self.file.parent, self._home)

    def first(self, name: str) -> RawSetting | None:
        """Return the value that counts, and note in `sources` where it came from."""
        variable = f"CESBR_{name.upper()}"
        given = self.from_flag(name) or self.from_environment(variable) or self.from_file(name)
        if given:
            self.sources[name] = given.source
        return given


def named_file(flags: Flags, environ: Mapping[str, str]) -> Path | None:
    """Return the settings file that a flag or the environment names."""
    if flags.config:
        return RawSetting(flags.config, "flag", "config", home=environ.get("HOME")).path()
    if named := environ.get("CESBR_CONFIG"):
        source = "environment CESBR_CONFIG"
        return RawSetting(named, source, "CESBR_CONFIG", home=environ.get("HOME")).path()
    return None


def usual_files(environ: Mapping[str, str]) -> list[Path]:
    """Return the paths of the user's and the system's settings file; the first one counts."""
    home, xdg = environ.get("HOME"), environ.get("XDG_CONFIG_HOME", "")
    usual = [SYSTEM_CONFIG]
    if xdg.startswith("/"):
        usual.insert(0, Path(xdg, "cesbr/config.toml"))
    elif home:
        usual.insert(0, Path(home, ".config/cesbr/config.toml"))
    return usual


def config_file(flags: Flags, environ: Mapping[str, str]) -> Path | None:
    """Return the TOML file to read: one that was named must exist, the usual ones may.

    A system-wide file that this user cannot read is ignored if the repository is given elsewhere.
    """
    if named := named_file(flags, environ):
        return named
    found = next((file for file in usual_files(environ) if os.path.lexists(file)), None)
    given = flags.repository or any(map(environ.get, _REPOSITORY_VARIABLES))
    if given and found == SYSTEM_CONFIG and not os.access(found, os.R_OK):
        return None
    return found


def parse_file(file: Path) -> dict[str, object]:
    """Return the content of a settings file.

    Raises UsageError if it cannot be read or is not TOML, and if it contains a password and all
    users can read it.
    """
    import tomllib

    try:
        with file.open(encoding="utf-8") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            found = tomllib.loads(opened.read())
    except OSError as error:
        remedy = "Run the command as root, or pass --repo URL"
        raise UsageError(
            f"Cannot read the settings file {file}: {error.strerror}."
            f" {remedy if file == SYSTEM_CONFIG else 'Check its permissions'}."
        ) from None
    except ValueError as error:  # both that of TOML and that of UTF-8
        raise UsageError(f"Invalid settings file {file}: not TOML ({error}). Correct it.") from None
    secret = next((key for key in _ADDRESSES if _has_password(found.get(key))), None)
    if secret and mode & stat.S_IROTH:
        raise UsageError(
            f"The settings file {file} contains a password ({secret!r}), and all users can read"
            f" it. Run 'chmod o-r {shlex.quote(str(file))}'."
        )
    return found


def _has_password(address: object) -> bool:
    """Return whether the value of a setting is an address with a password."""
    return isinstance(address, str) and redact(address) != address


def _read_toml(file: Path) -> dict[str, object]:
    found = parse_file(file)
    for key in found:
        if key not in TOML_KEYS:
            raise UsageError(
                f"Unknown key {key!r} in the settings file {file}. Use one of"
                f" {', '.join(sorted(TOML_KEYS))}."
            )
    return found
