"""The arguments of `plan` and `restore`, and the request that they make."""

from __future__ import annotations

import argparse

from cesbr.commands.navigate import add_backup_flag
from cesbr.ui.restore_origin import add_other_host_flag
from cesbrfs.restore import BY_BACKUP, Overwrite
from cesbrfs.restore.request import RestoreRequest


def _what_and_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="paths to restore, with wildcards (default: the selection, or with --backup the whole"
        " backup)",
    )
    add_backup_flag(parser)
    place = parser.add_argument_group("target")
    place.add_argument(
        "-t",
        "--target",
        metavar="DIR",
        help="restore below this directory (default ./restored-<Backup ID>)",
    )
    place.add_argument(
        "--in-place",
        action="store_true",
        help="restore volumes and configuration to their original places, replacing what differs",
    )
    place.add_argument(
        "--suffix",
        metavar="SUFFIX",
        nargs="?",
        const=BY_BACKUP,
        help="restore next to existing files: append this suffix (default: .<Backup ID>)",
    )
    place.add_argument(
        "--stop-dogu",
        action="store_true",
        help="with --in-place: stop each running dogu whose volumes are written, and start it again"
        " afterwards",
    )
    add_other_host_flag(parser)
    place.add_argument(
        "--backup-dir",
        metavar="DIR",
        help="keep replaced files below this directory for 'cesbr undo' (default with --in-place:"
        " on their own file system)",
    )
    place.add_argument(
        "--no-backup-dir",
        action="store_true",
        help="with --in-place: do not keep replaced files; the restore cannot be undone",
    )
    parser.add_argument(
        "--delete",
        action="store_true",
        help="delete what the backup does not have in the named directories; implies --overwrite"
        " if-changed",
    )
    for name, what in (("include", "restore only"), ("exclude", "do not restore or delete")):
        parser.add_argument(
            f"--{name}",
            metavar="PATTERN",
            action="append",
            default=[],
            help=f"{what} what has this name, or ends with this path (repeatable)",
        )
    parser.add_argument(
        "--owner-by-name",
        "--ownership-by-name",
        action="store_true",
        help="restore owners and groups by name instead of number, if the name exists here",
    )
    parser.add_argument(
        "--overwrite",
        metavar="WHEN",
        choices=[str(value) for value in Overwrite],
        help="replace existing files: never (default), always, if-newer (the backup's is newer),"
        " if-changed (size, time, type, mode, owner or attributes differ; default in place)",
    )


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `plan`."""
    _what_and_where(parser)


def restore_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `restore`."""
    _what_and_where(parser)
    parser.add_argument(
        "--maintenance",
        action="store_true",
        help="with --in-place: turn the maintenance mode on during the restore",
    )
    parser.add_argument(
        "--safety-backup",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="with --in-place: back up the current data first (default: ask; with --yes: no)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the last interrupted restore, or the one into --target",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare each file with the backup as the disk holds it, not only as it was written;"
        " takes longer",
    )
    parser.add_argument(
        "--salvage",
        action="store_true",
        help="write the intact parts of a damaged file to NAME.damaged, with holes for lost ranges",
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only show what would be restored"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--force", action="store_true", help="restore even if the instance suspends its restores"
    )


def parse_request(arguments: argparse.Namespace) -> RestoreRequest:
    """Return the request of a command line; raises UsageError for options that conflict."""
    names = RestoreRequest.__dataclass_fields__.keys() & vars(arguments).keys()
    given = {name: getattr(arguments, name) for name in names}
    for name in ("paths", "include", "exclude"):
        given[name] = tuple(given[name])
    given["overwrite"] = Overwrite(given["overwrite"]) if given["overwrite"] else None
    request = RestoreRequest(**given)
    request.check()
    return request
