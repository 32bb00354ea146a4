"""What was measured: as JSON, and made of that a table, a page and a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.data import MIB
from tests.bench.mounts import OURS


class Outcome(msgspec.Struct):
    """The values of one measure in one mount, one a round; or why there are none."""

    values: list[float]
    median: float | None = None
    failed: str | None = None


class Row(msgspec.Struct):
    """One measure; `outcomes` by mount, `ratio` is our median by that of the restic compared."""

    name: str
    what: str
    unit: str
    bytes: int
    outcomes: dict[str, Outcome]
    ratio: float | None = None


class Report(msgspec.Struct):
    """All of it; `mounts` are the columns, the first one ours, the second the one compared with."""

    measured: str
    mode: str
    rounds: int
    machine: dict[str, str]
    notes: list[str]
    mounts: list[str]
    rows: list[Row]
    name: str = "benchmark"
    """What its files are called."""


def settle(row: Row, mounts: list[str]) -> None:
    """Work out the medians and the ratio of a row whose values are all there."""
    for outcome in row.outcomes.values():
        if outcome.failed is None and outcome.values:
            outcome.median = statistics.median(outcome.values)
    ours, theirs = (row.outcomes[name].median for name in mounts[:2])
    row.ratio = ours / theirs if ours is not None and theirs else None


def load(path: Path) -> Report:
    """Read what `save` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def save(report: Report, folder: Path) -> list[Path]:
    """Write the data, the page and the plot into `folder`; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(report), indent=1)
    made = {"json": data + b"\n", "md": page(report).encode(), "svg": plot(report).encode()}
    paths = []
    for suffix, content in made.items():
        paths.append(folder / f"{report.name}.{suffix}")
        paths[-1].write_bytes(content)
    return paths


def head(report: Report) -> Iterator[str]:
    """Yield lines that say where, when and how it was measured."""
    yield f"measured: {report.measured}, {report.mode} mode, medians of {report.rounds} rounds"
    for name, value in report.machine.items():
        yield f"{name}: {value}"
    yield from report.notes


# Values for people


def shown(row: Row, mount: str) -> str:
    """Write a median with its unit: ``1.52 s (674 MiB/s)``, ``412 MiB``, or that it failed."""
    outcome = row.outcomes.get(mount)
    if outcome is None or outcome.median is None:
        return "failed" if outcome and outcome.failed else "-"
    if row.unit != "s":
        return f"{outcome.median:.0f} {row.unit}"
    digits = 2 if outcome.median >= 1 else 3
    text = f"{outcome.median:.{digits}f} s"
    if row.bytes and outcome.median:
        text += f" ({row.bytes / MIB / outcome.median:.0f} MiB/s)"
    return text


def _ratio(row: Row) -> str:
    return "-" if row.ratio is None else f"{row.ratio:.2f}"


def table(report: Report) -> str:
    """Return the table for a terminal."""
    lines = [["measure", *report.mounts, "ratio"]]
    lines += [
        [row.name, *(shown(row, mount) for mount in report.mounts), _ratio(row)]
        for row in report.rows
    ]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    text = [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:], *_failures(report)])


def _failures(report: Report) -> Iterator[str]:
    for row in report.rows:
        for mount, outcome in row.outcomes.items():
            if outcome.failed:
                yield f"{row.name}, {mount}: {outcome.failed}"


# The page

_INTRODUCTION: Final = (
    "Our mount and restic's, side by side. A ratio is our time, or memory, divided by restic's:"
    " below 1 ours takes less. This page is written by `make bench`."
)
_REPEAT: Final = """\
## How to repeat it
`make bench` measures everything and writes this page, its data and its plot into
`build/bench-results`; it tells how long each repository took to make, some minutes in all. Have the
machine do nothing else, and be root: only root can drop the page caches.

```
make bench ARGS=--quick                      # less of everything, in a few minutes
make bench ARGS="--only ready,find,cat-text" # some measures
make bench ARGS="--keep"                     # use the repositories in build/bench again
make bench ARGS="--out docs"                 # write this page anew
make bench ARGS="--old"                      # compare with the older restic, too
```

The repositories are made by restic on the spot, from files of the machine (`/usr/share`,
`/usr/include` and Python's own), random bytes and text. Those of `flat-`, `tree-`, `tab-`,
`backups-` and `blobs-` begin as a small one of restic's, to which trees, snapshots or an index in
its form are added. `version`, `backups`, `find-all-` and `versions` are whole commands of the shell
and of restic, `tab-` is what Tab takes at the prompt once it is about something that was read
before; restic has nothing like it. Every other value is that of a mount of its own. Both programs
are started in the foreground in turn, ours, restic's, ours, restic's, and count as ready when their
mountpoint was listed. Page caches are dropped after the start, before the command, in all but the
measures called `ready`, `find-warm`, `version`, `backups`, `tab-`, `blobs-`, `backups-`, `flat-`
and `tree-`. Each program uses its own cache of metadata, filled by a mount before; where a measure
says so, it is empty. What the commands saw is compared between both mounts: a difference is a
failure.
"""


_REPEAT_FAR: Final = """\
## How to repeat it
`make bench-remote` starts SeaweedFS (S3), OpenSSH's server (SFTP) and rclone (REST) on this
machine's loopback, puts a proxy before each that makes a round trip take 20 ms, and measures both
programs through it. `make bench-remote ARGS=--quick` takes a few minutes, `ARGS="--only sftp"` one
server. Everything else is as in the [benchmark without a network](benchmark.md).
"""


def page(report: Report) -> str:
    """Return the page: the table, where it was measured, and how to repeat it."""
    lines = [
        "# Benchmark" if report.name == "benchmark" else "# Benchmark over a network",
        "",
        _INTRODUCTION,
        "",
        f"![The ratios as bars]({report.name}.svg)",
        "",
        f"| measure | what | {' | '.join(report.mounts)} | ratio |",
        f"|---|---|{'---:|' * len(report.mounts)}---:|",
    ]
    for row in report.rows:
        cells = (shown(row, mount) for mount in report.mounts)
        lines.append(f"| {row.name} | {row.what} | {' | '.join(cells)} | {_ratio(row)} |")
    failures = [f"- {line}" for line in _failures(report)]
    if failures:
        lines += ["", "Failed:", *failures]
    lines += ["", "## Where it was measured", *(f"- {line}" for line in head(report)), ""]
    return "\n".join(lines) + "\n" + (_REPEAT if report.name == "benchmark" else _REPEAT_FAR)


# The plot

_ROW: Final = 22
_LEFT: Final = 190
_WIDTH: Final = 720
_LABEL: Final = 42
_TOP: Final = 46
_OCTAVES: Final = 4
"""The axis goes from 1/16 to 16; longer bars are cut there."""
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#333}.t{font-weight:bold}.n{text-anchor:end}"
    ".m{text-anchor:middle}.better{fill:#3a923a}.worse{fill:#c44e52}.tick{stroke:#ccc}.one{stroke:#333}"
)


def plot(report: Report) -> str:
    """Return an SVG with a bar for each ratio, on a logarithmic axis around 1."""
    rows = [row for row in report.rows if row.ratio]
    height = _TOP + _ROW * len(rows) + 12
    unit = (_WIDTH - _LEFT - 2 * _LABEL) / (2 * _OCTAVES)
    middle = _LEFT + _LABEL + unit * _OCTAVES
    title = f"{OURS} / {report.mounts[1]}: to the left of 1 ours takes less"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="t" x="8" y="18">{escape(title)}</text>',
    ]
    for power in range(-_OCTAVES, _OCTAVES + 1):
        x = middle + power * unit
        label = f"{2**power}" if power >= 0 else f"1/{2**-power}"
        parts.append(f'<text class="m" x="{x:.1f}" y="{_TOP - 8}">{label}</text>')
        kind = "tick" if power else "one"
        parts.append(
            f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{height - 8}"/>'
        )
    parts += [_bar(row, number, middle, unit) for number, row in enumerate(rows)]
    return "\n".join([*parts, "</svg>", ""])


def _bar(row: Row, number: int, middle: float, unit: float) -> str:
    ratio = row.ratio or 1.0
    reach = max(-_OCTAVES, min(_OCTAVES, math.log2(ratio))) * unit
    y = _TOP + _ROW * number
    left, side = (middle + reach, "n") if reach < 0 else (middle, "")
    edge = middle + reach + (-4 if reach < 0 else 4)
    return (
        f'<text class="n" x="{_LEFT}" y="{y + 14}">{escape(row.name)}</text>'
        f'<rect class="{"better" if ratio <= 1 else "worse"}" x="{left:.1f}" y="{y + 3}"'
        f' width="{abs(reach):.1f}" height="{_ROW - 8}"/>'
        f'<text class="{side}" x="{edge:.1f}" y="{y + 14}">{ratio:.2f}</text>'
    )
