"""Dump the databases that dogus keep in other dogus, with a command that those provide.

A dogu such as postgresql provides ``backup-consumer``: it reads the service account of a consumer
from stdin, as lines ``username: …``, and writes a dump of its database to stdout. The setting
`command_runner` defines how a command is run in a dogu's container.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from cesbrfs.backup.plan import DumpCommand, Failure, PointStep
from cesbrfs.ces.dogu import PRIVATE_VOLUME
from cesbrfs.ces.dogu_control import words_of
from cesbrfs.ces.instance import InstalledDogu, Instance
from cesbrfs.ces.private_keys import PrivateKeys, read_secret
from cesbrfs.errors import CesbrError, RegistryError, ScriptError
from cesbrfs.util.environment import public_environment
from cesbrfs.util.process import run_program

_T = TypeVar("_T")

_EXPOSED: Final = "backup-consumer"
DIRECTORY: Final = "dumps"
"""Where dumps are shown below their dogu."""


@dataclass(frozen=True, slots=True)
class DumpRunner:
    """The configured command line that runs a command in a dogu's container.

    In `words`, ``{dogu}`` is the dogu whose command it is, ``{command}`` the command, and
    ``{consumer}`` the dogu whose data is dumped. It may take `seconds`.
    """

    words: tuple[str, ...]
    seconds: float

    def command(self, dogu: str, command: str, consumer: str) -> DumpCommand:
        """Return the command line for one dump."""
        values = {"dogu": dogu, "command": command, "consumer": consumer}
        return DumpCommand(dogu, words_of(self.words, values), self.seconds)


async def plan_dumps(
    instance: Instance,
    chosen: Sequence[InstalledDogu],
    installed: Sequence[InstalledDogu],
    runner: DumpRunner | None,
) -> list[PointStep]:
    """Return a step for each of the `chosen` dogus and each dogu with a database of it.

    A dogu has one if the consumer depends on it, or has a service account there. If it has an
    account of a dogu whose dogu.json cannot be read, the dump is a failure of the step.
    """
    exposed = {
        found.name: found.dogu.commands[_EXPOSED]
        for found in installed
        if found.dogu and _EXPOSED in found.dogu.commands
    }
    if runner is None:
        return []
    steps: list[PointStep] = []
    for consumer in chosen:
        needs = consumer.dogu.needs if consumer.dogu else ()
        for provider, command in exposed.items():
            if provider == consumer.name:
                continue
            if provider in needs or await _has_account(instance, consumer.name, provider):
                dump = runner.command(provider, command, consumer.name)
                steps.append(
                    PointStep("dump", consumer.name, document=f"{provider}.dump", dump=dump)
                )
        steps += [
            PointStep("dump", consumer.name, failed=(_unknown_dump(provider),))
            for provider in installed
            if provider.dogu is None
            and provider.name != consumer.name
            and await _has_account(instance, consumer.name, provider.name)
        ]
    return steps


def _unknown_dump(provider: InstalledDogu) -> Failure:
    """Return the failure for a dump that `provider` may provide."""
    path = f"{DIRECTORY}/{provider.name}.dump"
    return Failure(path.encode(), f"no dump by {provider.name}: {provider.problem}")


async def _has_account(instance: Instance, consumer: str, provider: str) -> bool:
    try:
        return bool(await instance.registry.children(f"/config/{consumer}/sa-{provider}"))
    except RegistryError:
        return True  # the dump reports what is wrong


async def save_dump(
    instance: Instance,
    consumer: str,
    dump: DumpCommand,
    save: Callable[[int, Callable[[], None]], Awaitable[_T]],
) -> _T:
    """Run `dump` and `save` concurrently and return the result of `save`.

    `save` gets the descriptor to read the dump from, and a function that ends it early. The
    descriptor reaches its end only after the command has succeeded, so that a truncated dump is
    never taken for a complete one. A command that fails cancels `save` and raises ScriptError.
    """
    account = await _account(instance, consumer, dump.provider)
    reader, writer = os.pipe()
    writers = [writer]
    saved: list[_T] = []
    failed: list[CesbrError] = []

    def end() -> None:
        if writers:
            os.close(writers.pop())

    async def produce(scope: trio.CancelScope) -> None:
        try:
            await _run(dump, account, writer)
        except CesbrError as error:
            failed.append(error)
            scope.cancel()
        else:
            end()

    async def consume(scope: trio.CancelScope) -> None:
        try:
            saved.append(await save(reader, end))
        except CesbrError as error:
            failed.append(error)
        scope.cancel()  # nobody reads any more

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, nursery.cancel_scope)
            nursery.start_soon(consume, nursery.cancel_scope)
    finally:
        end()
        os.close(reader)
    if failed:
        raise failed[0]
    return saved[0]


async def _run(dump: DumpCommand, account: bytes, writer: int) -> None:
    last_line: list[str] = []

    def keep_last(line: str) -> None:
        if line.strip():
            last_line[:] = [line.strip()]

    environment = public_environment(os.environ)
    code = await run_program(
        dump.words,
        on_line=keep_last,
        seconds=dump.seconds,
        env=environment,
        stdin=account,
        stdout=writer,
    )
    if code:
        last = f": {last_line[0]}" if last_line else ""
        raise ScriptError(f"the dump by {dump.provider} ended with exit code {code}{last}")


async def _account(instance: Instance, consumer: str, provider: str) -> bytes:
    """Return the service account of the consumer, one line per key.

    CES encrypts these values for the consumer; plain ones are used as they are.
    """
    directory = f"/config/{consumer}/sa-{provider}"
    private = PrivateKeys(
        instance.root, instance.volumes_directory(consumer) / PRIVATE_VOLUME / "private.pem"
    )
    lines = b""
    for name in await instance.registry.children(directory):
        value = await read_secret(instance.registry, f"{directory}/{name}", private)
        lines += f"{name}: ".encode() + (value or b"") + b"\n"
    return lines
