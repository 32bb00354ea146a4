"""Parsing of real and damaged dogu.json files."""

from __future__ import annotations

import json

import pytest

from cesbrfs.ces.dogu import HealthCheck, Volume, parse_dogu
from cesbrfs.errors import DoguError
from tests.sample.dogus import DOGUS, Dogu


@pytest.mark.parametrize("dogu", DOGUS, ids=lambda dogu: dogu.name)
@pytest.mark.parametrize("v1", [False, True], ids=["v2", "v1"])
def test_reads_real_dogus(dogu: Dogu, v1: bool) -> None:
    """Both forms, with keys in any case, give the same names, versions and volumes."""
    found = parse_dogu(dogu.document(v1=v1))
    assert found.name == f"official/{dogu.name}"
    assert found.version == dogu.version
    assert found.volumes == tuple(
        Volume(v.name, v.path, str(dogu.uid), str(dogu.gid), v.saved) for v in dogu.volumes
    )


@pytest.mark.parametrize(
    ("written", "needs_backup"),
    [
        ('{"Name": "v"}', True),
        ('{"Name": "v", "NeedsBackup": null}', True),
        ('{"Name": "v", "needsBACKUP": true}', True),
        ('{"NAME": "v", "needsbackup": false}', False),
        ('{"name": "v", "NeedsBackup": true, "needsbackup": false}', False),
        ('{"name": "v", "needsbackup": false, "NeedsBackup": null}', False),
    ],
)
def test_needs_backup_defaults_to_true(written: str, needs_backup: bool) -> None:
    """Unset and null mean true; of duplicates in different case the last wins, as in Go."""
    (volume,) = parse_dogu(f'{{"Name": "n/d", "Volumes": [{written}]}}').volumes
    assert volume == Volume("v", needs_backup=needs_backup)


@pytest.mark.parametrize("volumes", ["null", "[]"])
def test_a_dogu_may_have_no_volumes(volumes: str) -> None:
    """A nil slice of Go is written as null."""
    assert parse_dogu(f'{{"Name": "n/d", "Volumes": {volumes}}}').volumes == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"Version": "1"}',
        '{"Name": "official/"}',
        '{"Name": 7}',
        '{"Name": "n/d", "Volumes": {}}',
        '{"Name": "n/d", "Volumes": ["data"]}',
        '{"Name": "n/d", "Volumes": [{"Name": "v", "NeedsBackup": "false"}]}',
        "[" * 100_000,
    ],
)
def test_invalid_documents_are_rejected(text: str) -> None:
    """Any malformed dogu.json raises DoguError."""
    with pytest.raises(DoguError):
        parse_dogu(text)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "nul\0", "half \ud83d"])
def test_volume_names_with_path_traversal_are_rejected(name: str) -> None:
    """A volume name is a single directory name, so no path can leave the dogu."""
    with pytest.raises(DoguError):
        parse_dogu(json.dumps({"Name": "n/d", "Volumes": [{"Name": name}]}))


def test_health_checks_dependencies_and_commands() -> None:
    """They are read from v1 and v2 documents, with keys in any case."""
    new = parse_dogu(
        json.dumps(
            {
                "Name": "official/redmine",
                "HEALTHCHECKS": [
                    {"type": "TCP", "port": 3000},
                    {"Type": "http", "Port": 8080, "Path": "up"},
                    {"Type": "state", "State": "done"},
                ],
                "Dependencies": [
                    {"type": "dogu", "name": "official/postgresql"},
                    {"Type": "package", "Name": "cesappd"},
                ],
                "ExposedCommands": [{"Name": "backup-consumer", "Command": "/dump.sh"}, {}],
            }
        )
    )
    assert list(map(str, new.health_checks)) == ["tcp 3000", "http 8080/up", "state done"]
    assert new.needs == ("postgresql",)
    assert new.commands == {"backup-consumer": "/dump.sh"}
    old = {"Name": "official/smeagol", "HealthCheck": {"Type": "http", "Port": 80}}
    found = parse_dogu(json.dumps(old | {"Dependencies": ["official/scm", "cas"]}))
    assert found.health_checks == (HealthCheck("http", 80, "/health"),)
    assert found.needs == ("scm", "cas")


def test_invalid_optional_fields_are_skipped() -> None:
    """Invalid health checks, dependencies and commands do not invalidate the rest."""
    found = parse_dogu(
        json.dumps(
            {
                "Name": "official/odd",
                "Volumes": [{"Name": "data"}],
                "HealthChecks": [{"Type": "tcp", "Port": "3000"}, {"Port": True}, "tcp"],
                "Dependencies": {"name": "cas"},
                "ExposedCommands": [{"Name": 1, "Command": "x"}, {"Name": "y"}, None],
            }
        )
    )
    assert found.health_checks == (HealthCheck("tcp"), HealthCheck(""))
    assert (found.needs, found.commands) == ((), {})
    assert [volume.name for volume in found.volumes] == ["data"]
