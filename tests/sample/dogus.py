"""The dogus of the sample instance, and their dogu.json files.

Names, versions, volumes and owners are those of real dogus. Some keys are in mixed case, as in real
files. Older files have a single `HealthCheck` and dependencies as plain names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def _as_written(key: str) -> str:
    return key


def _camel(key: str) -> str:
    return key[:1].lower() + key[1:]


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume; `needs_backup` None omits `NeedsBackup`, which means true."""

    name: str
    path: str
    needs_backup: bool | None = True

    @property
    def saved(self) -> bool:
        """Whether it is backed up."""
        return self.needs_backup is not False


@dataclass(frozen=True, slots=True)
class Dogu:
    """An installed dogu; `uid` and `gid` own its volumes."""

    name: str
    version: str
    title: str
    volumes: tuple[Volume, ...] = ()
    ports: tuple[int, ...] = ()
    uid: int = 1000
    gid: int = 1000
    needs: tuple[str, ...] = ()
    has_state: bool = True
    only_v1: bool = False
    case: Callable[[str], str] = field(default=_as_written, repr=False)

    def volume(self, name: str) -> Volume:
        """Return the volume `name`."""
        return next(volume for volume in self.volumes if volume.name == name)

    def document(self, *, v1: bool = False, version: str | None = None) -> str:
        """Return the dogu.json in v2 form, or in v1 form as in `/dogu/<name>/<version>`."""
        checks: list[Mapping[str, object]] = [{"Type": "tcp", "Port": port} for port in self.ports]
        needs: list[object] = list(self.needs)
        if not v1:
            needs = [{"type": "dogu", "name": name, "version": ""} for name in self.needs]
            needs.append({"type": "package", "name": "cesappd", "version": ">=3.2.0"})
        content: dict[str, object] = {
            "Name": f"official/{self.name}",
            "Version": version or self.version,
            "DisplayName": self.title,
            "Description": f"{self.title}, as a dogu",
            "Category": "Base" if self.uid == 0 else "Development Apps",
            "Image": f"registry.example.org/official/{self.name}",
            "Dependencies": needs,
            "Volumes": [self._volume(volume) for volume in self.volumes],
            "Privileged": False,
        }
        if v1 or self.only_v1:
            content["HealthCheck"] = checks[0]
        else:
            state: list[Mapping[str, object]] = [{"Type": "state"}] if self.has_state else []
            content["HealthChecks"] = [*checks, *state]
        if self.name in {"postgresql", "mariadb"}:
            content["ExposedCommands"] = [
                {"Name": "service-account-create", "Command": "/create-sa.sh"},
                {"Name": "service-account-remove", "Command": "/remove-sa.sh"},
                {"Name": "backup-consumer", "Command": "/backup-consumer.sh"},
            ]
        return json.dumps(self._recased(content), indent=2, ensure_ascii=False)

    def _volume(self, volume: Volume) -> dict[str, object]:
        found: dict[str, object] = {
            "Name": volume.name,
            "Path": volume.path,
            "Owner": str(self.uid),
            "Group": str(self.gid),
        }
        if volume.needs_backup is not None:
            found["NeedsBackup"] = volume.needs_backup
        return found

    def _recased(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.case(key): self._recased(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._recased(inner) for inner in value]
        return value


def _local_config(dogu: str) -> Volume:
    return Volume("localConfig", f"/var/ces/config/{dogu}")


DOGUS: tuple[Dogu, ...] = (
    Dogu(
        "redmine",
        "6.1.3-2",
        "Redmine",
        (
            Volume("files", "/usr/share/webapps/redmine/files"),
            Volume("plugins", "/var/tmp/redmine/plugins"),
            Volume("logs", "/usr/share/webapps/redmine/log", needs_backup=False),
            Volume("tmp", "/usr/share/webapps/redmine/tmp", needs_backup=False),
            _local_config("redmine"),
        ),
        ports=(3000,),
        needs=("postgresql", "cas", "postfix", "nginx"),
    ),
    Dogu(
        "jenkins",
        "2.555.1-3",
        "Jenkins CI",
        (
            Volume("data", "/var/lib/jenkins"),
            Volume("custom.init.groovy.d", "/var/lib/custom.init.groovy.d"),
            Volume("tmp", "/tmp", needs_backup=False),
            _local_config("jenkins"),
        ),
        ports=(8080,),
        needs=("cas", "nginx", "postfix"),
        case=str.lower,
    ),
    Dogu(
        "scm",
        "3.11.9-1",
        "SCM-Manager",
        (
            Volume("data", "/var/lib/scm"),
            Volume("custom.init.script.d", "/var/lib/custom.init.script.d"),
            Volume("cache", "/var/cache/scm/work", needs_backup=False),
            Volume("temp", "/var/tmp/scm", needs_backup=False),
            _local_config("scm"),
        ),
        ports=(8080,),
        needs=("cas", "nginx", "postfix"),
    ),
    Dogu(
        "postgresql",
        "14.17-5",
        "PostgreSQL",
        (Volume("data", "/var/lib/postgresql"), _local_config("postgresql")),
        ports=(5432,),
    ),
    Dogu(
        "nexus",
        "3.86.2-6",
        "Sonatype Nexus",
        (
            Volume("data", "/var/lib/nexus"),
            Volume("migration", "/opt/sonatype/nexus/migration"),
            Volume(
                "repository_component_uploads",
                "/var/lib/nexus/repository_component_uploads",
                needs_backup=False,
            ),
            _local_config("nexus"),
        ),
        ports=(8082,),
        needs=("cas", "nginx"),
        case=_camel,
    ),
    Dogu(
        "ldap",
        "2.6.8-4",
        "OpenLDAP",
        (
            Volume("db", "/var/lib/openldap"),
            Volume("config", "/etc/openldap/slapd.d"),
            Volume("crontab-logs", "/var/log/crontab", needs_backup=False),
            _local_config("ldap"),
        ),
        ports=(389,),
        uid=100,
        gid=101,
    ),
    Dogu(
        "usermgt",
        "1.22.0-1",
        "User Management",
        (
            Volume("data", "/var/lib/usermgt/conf", needs_backup=False),
            Volume("importHistory", "/var/lib/usermgt/conf/importHistory"),
        ),
        ports=(8080,),
        needs=("ldap", "cas", "nginx"),
        only_v1=True,
    ),
    Dogu(
        "cas",
        "7.3.7-4",
        "Central Authentication Service",
        (
            Volume("logs", "/logs", needs_backup=False),
            Volume("localConfig", "/var/ces/config/cas", needs_backup=False),
            Volume("services", "/etc/cas/services/production"),
            Volume("gauth", "/etc/cas/gauth"),
        ),
        ports=(8080,),
        needs=("ldap", "nginx"),
    ),
    Dogu(
        "nginx",
        "1.30.3-1",
        "Nginx",
        (
            Volume("customhtml", "/var/www/customhtml"),
            Volume("app.conf.d", "/etc/nginx/app.conf.d"),
            Volume("appconf", "/etc/nginx/appconf"),
        ),
        ports=(80, 443),
        uid=0,
        gid=0,
        has_state=False,
    ),
    Dogu(
        "mariadb",
        "10.5.13-1",
        "MariaDB",
        (Volume("data", "/var/lib/mysql", needs_backup=None),),
        ports=(3306,),
        case=str.upper,
    ),
    Dogu("plantuml", "2025.4-1", "PlantUML", ports=(8080,), needs=("nginx",), has_state=False),
    Dogu("postfix", "3.9.0-3", "Postfix", ports=(25,), has_state=False),
    Dogu(
        "smeagol",
        "1.7.8-1",
        "Smeagol",
        (Volume("data", "/var/lib/smeagol", needs_backup=False),),
        ports=(8080,),
        needs=("scm", "cas", "nginx", "plantuml"),
        only_v1=True,
    ),
)

# An uninstalled dogu: its versions stay in the registry, only `current` is removed.
REMOVED = Dogu("cockpit", "2.0.4-1", "Cockpit", ports=(8080,), needs=("nginx",), only_v1=True)
