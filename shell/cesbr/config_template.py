"""The commented settings file, filled in with settings of the command line. Pure but for reading.

``config.toml`` in this package is also the settings file of the Debian package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

from cesbrfs.config.layers import Flags, RawSetting
from cesbrfs.errors import UsageError

_FLAGS: Final = ("repository", "password_file", "registry", "root", "patience")


def template() -> str:
    """Return the settings file in which everything is commented out."""
    return (resources.files("cesbr") / "config.toml").read_text(encoding="utf-8")


def values_of(flags: Flags) -> dict[str, object]:
    """Return the settings in `flags` by key, paths made absolute; UsageError for invalid ones."""
    values: dict[str, object] = {}
    for name in _FLAGS:
        given = getattr(flags, name)
        if given is None:
            continue
        setting = RawSetting(given, "flag", name)
        if name == "repository":
            values[name] = setting.repository()
        elif name == "patience":
            seconds = setting.seconds()
            values[name] = int(seconds) if seconds.is_integer() else seconds
        elif name == "registry" and "://" in setting.text():
            values[name] = setting.text()
        else:
            values[name] = str(setting.path())
    if flags.auto_init is not None:
        values["auto_init"] = flags.auto_init
    return values


def filled_in(values: Mapping[str, object]) -> str:
    """Return the settings file with `values` by key in place of their commented examples."""
    text = template()
    for key, value in values.items():
        line = f"{key} = {_toml(key, value)}"
        commented = re.search(rf"^#{key} = .*$", text, re.MULTILINE)
        assert commented, f"{key} has a line in config.toml"
        text = text[: commented.start()] + line + text[commented.end() :]
    return text


def _toml(key: str, value: object) -> str:
    """Return `value` in TOML; UsageError for a text that is not UTF-8."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"'{key}' (flag) is not UTF-8, so it cannot be written to a settings file. Pass it as"
            " an option or in the environment instead."
        ) from None
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
