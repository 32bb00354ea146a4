"""Plan a backup: find the points of data of an instance, and what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final

from cesbrfs.backup.dumps import DumpRunner, plan_dumps
from cesbrfs.backup.plan import BackupPlan, Failure, Kind, LeftOut, PointStep
from cesbrfs.ces.instance import InstalledDogu, InstalledVolume, Instance, RegistryData
from cesbrfs.errors import RegistryError, RegistryUnreachableError, UsageError
from cesbrfs.util.escape import show
from cesbrfs.util.suggest import did_you_mean

DOGU_JSON: Final = "dogu.json"
REGISTRY_JSON: Final = "registry.json"


async def plan_backup(
    instance: Instance, dogus: Sequence[str] | None = None, runner: DumpRunner | None = None
) -> BackupPlan:
    """Plan a backup of everything, or of the named dogus.

    With a `runner`, data in the databases of other dogus is dumped, too. Raises UsageError if
    one of the dogus is not installed or there is nothing to back up, and RegistryError if the
    registry cannot be listed or does not respond.
    """
    installed = await instance.dogus()
    if dogus is not None:
        chosen = choose(installed, dogus)
        steps = await _all_dogus(instance, chosen)
        steps += await plan_dumps(instance, chosen, installed, runner)
        return BackupPlan(tuple(steps))
    steps = [*await _instance_itself(instance), *await _all_dogus(instance, installed)]
    steps += await plan_dumps(instance, installed, installed, runner)
    strays = await instance.orphaned_volumes(dogu.name for dogu in installed)
    if not any(step.paths or step.document for step in steps):
        raise UsageError(
            f"There is nothing to back up: {instance.root} has no configuration, and the registry "
            f"{instance.registry.address} names no installed dogu. Pass --root and --registry."
        )
    if installed:
        reason = "no dogu of this name is installed"
        left_out = tuple(LeftOut(os.fsencode(path), reason) for path in strays)
        return BackupPlan(tuple(steps), left_out)
    # Volumes without a single dogu: probably the wrong registry.
    error = f"the registry {instance.registry.address} names no installed dogu"
    for path in strays:
        failed = (Failure(os.fsencode(path), error),)
        steps.append(PointStep("volumes", show(os.fsencode(path.parent.name)), failed=failed))
    return BackupPlan(tuple(steps))


def choose(installed: Sequence[InstalledDogu], names: Iterable[str]) -> list[InstalledDogu]:
    """Return the dogus of these `names`; raises UsageError for one that is not installed."""
    by_name = {dogu.name: dogu for dogu in installed}
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name not in by_name:
            there = ", ".join(by_name) or "none"
            hint = did_you_mean(name, by_name, f"; the installed ones are: {there}.")
            raise UsageError(f"No dogu {name!r} is installed{hint}")
    return [by_name[name] for name in chosen]


async def _instance_itself(instance: Instance) -> list[PointStep]:
    configuration = _directories("configuration", None, await instance.configuration())
    registry = await _registry(instance, None)
    return [
        step
        for step in (configuration, registry)
        if step.paths or step.document or step.failed or step.left_out
    ]


async def _all_dogus(instance: Instance, dogus: Iterable[InstalledDogu]) -> list[PointStep]:
    steps: list[PointStep] = []
    for dogu in dogus:
        steps.extend(await _dogu(instance, dogu))
    return steps


async def _dogu(instance: Instance, dogu: InstalledDogu) -> list[PointStep]:
    if "," in dogu.name or dogu.name.strip() != dogu.name:
        error = "restic cannot tag a snapshot with this dogu's name; rename it in the registry"
        failed = (Failure(f"/dogu/{dogu.name}".encode(), error),)
        return [PointStep("metadata", dogu.name, failed=failed)]
    steps = [_metadata(dogu), await _registry(instance, dogu.name)]
    volumes = _directories("volumes", dogu.name, dogu.volumes)
    if volumes.paths or volumes.failed or volumes.left_out:
        steps.append(volumes)
    return steps


def _metadata(dogu: InstalledDogu) -> PointStep:
    failed = (Failure(DOGU_JSON.encode(), dogu.problem),) if dogu.problem else ()
    if dogu.text is None:
        return PointStep("metadata", dogu.name, failed=failed)
    content = dogu.text.encode()
    return PointStep("metadata", dogu.name, document=DOGU_JSON, content=content, failed=failed)


async def _registry(instance: Instance, dogu: str | None) -> PointStep:
    data = await registry_data(instance, dogu)
    document = REGISTRY_JSON if data.values else None
    failed = tuple(Failure(key.encode(), error) for key, error in data.failed)
    return PointStep("registry", dogu, document=document, failed=failed)


async def registry_data(instance: Instance, dogu: str | None) -> RegistryData:
    """Return the registry data of a dogu (None: of the instance), with its failures.

    Raises RegistryUnreachableError if the registry does not respond.
    """
    try:
        if dogu is None:
            return await instance.instance_registry()
        return await instance.dogu_registry(dogu)
    except RegistryUnreachableError:
        raise
    except RegistryError as error:
        return RegistryData({}, (("/config", error.message),))


def _directories(kind: Kind, dogu: str | None, directories: Iterable[InstalledVolume]) -> PointStep:
    directories = list(directories)
    return PointStep(
        kind,
        dogu,
        paths=tuple(f.path for f in directories if f.needs_backup and not f.reason),
        failed=tuple(
            Failure(os.fsencode(f.path), f.reason)
            for f in directories
            if f.needs_backup and f.reason
        ),
        left_out=tuple(
            LeftOut(os.fsencode(f.path), f.reason) for f in directories if not f.needs_backup
        ),
    )
