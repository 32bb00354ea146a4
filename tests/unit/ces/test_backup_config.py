"""The keys in /config/backup: their forms, defaults and invalid values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.ces.backup_config import BackupConfig, backup_config
from cesbrfs.ces.registry import FileRegistry
from cesbrfs.ces.retention import POLICIES
from cesbrfs.errors import SuspendedError, UsageError
from tests.sample.instance import Instance


def config(**values: str) -> BackupConfig:
    return BackupConfig("the registry", values)


def test_defaults() -> None:
    """With missing and with empty keys, backups are active and everything else is off."""
    for found in (config(), config(**dict.fromkeys(config().describe(), " "))):
        found.require_active()
        assert found.active
        assert found.times == ()
        assert not found.ignore_dogu_health
        assert not found.retention_enabled
        assert found.retention_strategy is None
        assert found.pre_backup_script is None
        assert not found.deny_cross_blueprint_restores
        assert {about["source"] for about in found.describe().values()} == {"default"}


@pytest.mark.parametrize(
    "name", ["active", "ignore_dogu_health", "retention_enabled", "deny_cross_blueprint_restores"]
)
def test_booleans(name: str) -> None:
    """True and false are case-insensitive; the error for other text names the key."""
    assert getattr(config(**{name: " TRUE\n"}), name) is True
    assert getattr(config(**{name: "False"}), name) is False
    with pytest.raises(
        UsageError, match=f"'maybe' of /config/backup/{name} .*\\. Set it to true or"
    ):
        getattr(config(**{name: "maybe"}), name)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{"Times":["12:30:00"]}', [time(12, 30)]),
        ('{"times": ["23:59:58", "2:05", "02:05:00"]}', [time(2, 5), time(23, 59, 58)]),
        ("12:30", [time(12, 30)]),
        (" 12:30:15 \n", [time(12, 30, 15)]),
        ('["00:00"]', [time()]),
        ('"00:00"', [time()]),
        ('{"Times":[]}', []),
    ],
)
def test_times(written: str, expected: list[time]) -> None:
    """HH:MM and HH:MM:SS are parsed, as plain text and in the JSON of CES."""
    assert config(time=written).times == tuple(expected)


@pytest.mark.parametrize(
    "written",
    ["noon", "24:00", "12:60", "12:30:60", "12", "12:30:00:00", '{"Times":[12]}', '{"Times":"x"}',
     "{", "[" * 100_000, '{"Hours":["12:30"]}', '{"Times":null}', "\u0661\u0662:30"],
)  # fmt: skip
def test_invalid_times(written: str) -> None:
    """An invalid time of day is an error, it is not skipped."""
    with pytest.raises(UsageError, match=r"/config/backup/time .* Set it to a time such as 12:30"):
        _ = config(time=written).times


@given(st.lists(st.times().map(lambda at: at.replace(microsecond=0)), max_size=5))
def test_every_second_of_a_day(times: list[time]) -> None:
    """Any times of day are returned sorted and without duplicates."""
    written = ", ".join(f'"{at:%H:%M:%S}"' for at in times)
    assert config(time=f'{{"Times": [{written}]}}').times == tuple(sorted(set(times)))


def test_scripts() -> None:
    """Scripts are absolute paths."""
    found = config(post_restore_script="/opt/after restore.sh", pre_backup_script="before.sh")
    assert found.post_restore_script == Path("/opt/after restore.sh")
    assert (found.post_backup_script, found.pre_restore_script) == (None, None)
    with pytest.raises(UsageError, match=r"'before\.sh' of .*pre_backup_script .* absolute path"):
        _ = found.pre_backup_script


def test_suspended() -> None:
    """The error for suspended backups names the key and the option to override it."""
    with pytest.raises(SuspendedError, match=r"/config/backup/active in .* is false\. .* --force"):
        config(active="false").require_active()


def test_description() -> None:
    """Each key has value and source; an invalid value does not affect the others."""
    described = config(time="2:30", active="perhaps", pre_backup_script="/x").describe()
    assert described["time"] == {"value": ["02:30:00"], "source": "registry /config/backup/time"}
    assert described["pre_backup_script"]["value"] == "/x"
    assert described["active"]["value"] == "perhaps"
    assert "Set it to true or false" in str(described["active"]["problem"])


def test_invalid_values_are_masked_and_shortened() -> None:
    """Both value and problem are shortened, and masked if they may be secret."""
    pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----"
    described = config(active=pem, time="never\x1b[2J" + 200 * "x").describe()
    assert described["active"]["value"] == "***"
    assert "MIIEvQ" not in str(described)
    value = str(described["time"]["value"])
    assert value.startswith(r"never\x1b[2Jxx")
    assert len(value) <= 60


def test_retention() -> None:
    """Policy names are case-insensitive; unknown names are reported with valid ones."""
    found = config(retention_enabled="true", retention_strategy=" keeplastsevendays ")
    assert found.retention_policy == POLICIES["keepLastSevenDays"]
    assert found.describe()["retention_strategy"]["value"] == "keepLastSevenDays"
    assert config(retention_strategy="keepAll").retention_policy is None
    wrong = config(retention_enabled="true", retention_strategy="keepSome")
    assert "removeAllButKeepLatest" in str(wrong.describe()["retention_strategy"]["problem"])
    with pytest.raises(UsageError, match="'keepSome'"):
        _ = wrong.retention_policy
    with pytest.raises(UsageError, match="retention_strategy is not set"):
        _ = config(retention_enabled="true").retention_policy


async def test_read_from_a_registry(
    tmp_path: Path, make_instance: Callable[[Path], Instance]
) -> None:
    """The keys of CES are read, but no secrets."""
    sample = make_instance(tmp_path / "instance")
    found = await backup_config(FileRegistry(sample.registry))
    assert found.address == str(sample.registry)
    assert found.times == (time(2, 30),)
    assert found.ignore_dogu_health
    assert (found.retention_enabled, found.retention_strategy) == (True, "keepLastSevenDays")
    assert sample.key not in repr(found)


@pytest.mark.parametrize("value", ["x" * 100_000, "-----BEGIN RSA PRIVATE KEY-----\nMIIE"])
def test_error_messages_are_short_and_without_secrets(value: str) -> None:
    """An invalid value is shortened, and masked if it may be secret."""
    config = BackupConfig("/registry", {"active": value})
    with pytest.raises(UsageError, match="/config/backup/active in the registry") as described:
        _ = config.active
    assert len(described.value.message) < 500
    assert "MIIE" not in described.value.message
