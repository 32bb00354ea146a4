"""`python -m tests.sample ROOT`: build the sample instance, or simulate days of work."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.sample.instance import DEFAULT_KEY, build, change


def main() -> None:
    """Build or change the instance and print a summary."""
    parser = argparse.ArgumentParser(prog="python -m tests.sample", description=__doc__)
    parser.add_argument("root", type=Path, help="the directory of the instance")
    parser.add_argument("--scale", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--repository", type=Path, help="where its backups go")
    parser.add_argument("--key", default=DEFAULT_KEY, help="their encryption key")
    parser.add_argument("--change", type=int, metavar="DAY", help="change it as on that day")
    flags = parser.parse_args()
    if flags.change is not None:
        touched = change(flags.root, day=flags.change)
        print(f"changed {len(touched)} files and the version of redmine")
        return
    instance = build(flags.root, scale=flags.scale, repository=flags.repository, key=flags.key)
    count = sum(1 for _ in (instance.root / "var/lib/ces").rglob("*"))
    print(f"{len(instance.dogus)} dogus with {count} files and directories in {instance.root}")
    for note in instance.notes:
        print(f"left out, {note}")


if __name__ == "__main__":
    main()
