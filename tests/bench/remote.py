"""Benchmarks over a network: real servers on loopback, behind proxies with latency."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.bench.data import MIB, Repo, Store
from tests.bench.measures import Bench, Group, Measure, Sample, shell
from tests.bench.mounts import Contender, drop_caches
from tests.support import rest, seaweed, sshd
from tests.support.certificates import make as make_certificates
from tests.support.proxy import proxying

_ROUND_TRIP: Final = 0.02
_HOST: Final = "127.0.0.1"

_Serve = Callable[[Store, Path], contextlib.AbstractContextManager[Repo]]


def groups(store: Store) -> list[Group]:
    """Return the measures for each kind of server."""
    servers: dict[str, _Serve] = {"s3": _s3, "sftp": _sftp, "rest": _rest}
    return [group for name, serve in servers.items() for group in _over(name, serve, store)]


def _over(server: str, serve: _Serve, store: Store) -> list[Group]:
    sizes = store.sizes

    def served(
        take: Callable[[Repo, Bench, Contender], Iterable[Sample]],
        bench: Bench,
        contender: Contender,
    ) -> Iterator[Sample]:
        with serve(store, bench.work / "servers" / server) as repo:
            yield from take(repo, bench, contender)

    files = f"{sizes.far_files:,} files"
    return [
        Group(
            [
                Measure(f"{server}-ready", "mount, until the first listing; nothing kept on disk"),
                Measure(f"{server}-find-cold", f"`find` over {files} in that mount"),
                Measure(f"{server}-ready-second", "the next mount"),
                Measure(f"{server}-find-second", "`find` in the next mount"),
            ],
            partial(served, partial(_find, server)),
        ),
        Group(
            [
                Measure(
                    f"{server}-cat",
                    f"`cat` of {sizes.far_mib} MiB of random bytes",
                    amount=sizes.far_mib * MIB,
                )
            ],
            partial(served, partial(_cat, server)),
        ),
        Group(
            [Measure(f"{server}-cp", f"`cp -r` of {sizes.far_few:,} small files")],
            partial(served, partial(_copy, server)),
        ),
    ]


def _find(server: str, repo: Repo, bench: Bench, contender: Contender) -> Iterator[Sample]:
    cache = f"{server}-find"
    bench.empty_cache(contender, cache)
    for ready, found in (("ready", "find-cold"), ("ready-second", "find-second")):
        with bench.mount(contender, repo, cache=cache) as mount:
            yield Sample(f"{server}-{ready}", mount.ready_seconds)
            drop_caches()
            # Not started in the directory: its lookup is part of the measure.
            directory = contender.volume(mount.path, repo)
            yield Sample(f"{server}-{found}", *shell(f"find '{directory}' | wc -l", Path("/")))


def _cat(server: str, repo: Repo, bench: Bench, contender: Contender) -> Iterator[Sample]:
    yield bench.cold(contender, f"{server}-cat", Path(), "cat random >/dev/null", repo=repo)


def _copy(server: str, repo: Repo, bench: Bench, contender: Contender) -> Iterator[Sample]:
    target = bench.work / "copy"
    shutil.rmtree(target, ignore_errors=True)
    try:
        command = f"cp -r . '{target}'"
        sample = bench.cold(contender, f"{server}-cp", Path("few"), command, repo=repo)
        yield Sample(sample.name, sample.value, shell("find . | wc -l", target)[1])
    finally:
        shutil.rmtree(target, ignore_errors=True)


# Servers


@contextlib.contextmanager
def _rest(store: Store, directory: Path) -> Iterator[Repo]:
    repo = store.far()
    program = Path(_program("rclone"))
    with rest.serving(program, directory) as server:
        _link(Path(repo.directory), server.root / "far")
        with proxying((_HOST, server.port), round_trip=_ROUND_TRIP) as proxy:
            url = (
                f"rest:http://{rest.USER}:{quote(rest.PASSWORD, safe='')}@{_HOST}:{proxy.port}/far/"
            )
            yield replace(repo, name="rest", url=url)


@contextlib.contextmanager
def _sftp(store: Store, directory: Path) -> Iterator[Repo]:
    repo = store.far()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    server = sshd.prepare(directory)
    with (
        sshd.running(server),
        proxying((_HOST, server.port), round_trip=_ROUND_TRIP) as proxy,
    ):
        options = {"sftp.command": server.command(port=proxy.port)}
        yield replace(repo, name="sftp", url=server.url(repo.directory), options=options)


@contextlib.contextmanager
def _s3(store: Store, directory: Path) -> Iterator[Repo]:
    repo = store.far()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with seaweed.serving(
        Path(_program("weed")), directory / "weed", make_certificates(directory)
    ) as server:
        server.upload(Path(repo.directory), seaweed.BUCKET, "far")
        with proxying((_HOST, server.port), round_trip=_ROUND_TRIP) as proxy:
            url = f"s3:http://{_HOST}:{proxy.port}/{seaweed.BUCKET}/far"
            yield replace(repo, name="s3", url=url, environment=server.environment)


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise FileNotFoundError(f"There is no {name} here; 'make servers' brings it.")
    return found


def _link(repository: Path, place: Path) -> None:
    """Make the repository available in the directory of a server."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(repository, place, copy_function=os.link)
