"""The result of a check, as text and as JSON.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from cesbr.ui import humanize
from cesbr.ui.table import fitted
from cesbrfs.catalog import directory_names
from cesbrfs.damage.findings import Finding, numbers
from cesbrfs.util.escape import for_json, printable, show

if TYPE_CHECKING:
    from cesbr.damage_check import CheckResult
    from cesbrfs.damage.examine import DamageReport, Slot

_SHOWN: Final = 20
"""Paths and backups that are shown; --json lists up to 10,000 paths."""
_NEAR: Final = 3
"""Other backups that are named per path."""
_NO_DOGUS: Final = (
    directory_names.INSTANCE,
    directory_names.SNAPSHOTS,
    directory_names.BACKUP_JSON,
)


def check_json(errors: Sequence[str], damage: DamageReport | None) -> dict[str, object]:
    """Return the result for programs."""
    found: dict[str, object] = {
        "ok": not errors and (damage is None or not damage.total),
        "errors": list(errors),
        "damaged": [],
        "damaged_total": 0,
        "backups": [],
    }
    if damage is None:
        return found
    lost = [entry for finding in damage.findings for entry in _finding_json(damage, finding)]
    unknown = [_unknown_json(name) for name in damage.unknown]
    found["damaged"] = unknown + lost
    found["damaged_total"] = damage.total + len(unknown)
    found["backups"] = [
        {
            "id": slot.id,
            "damaged": [show(owner) for owner in sorted(slot.damaged)],
            "whole": [show(owner) for owner in slot.whole],
        }
        for slot in damage.slots
        if slot.id is not None
    ]
    return found


def _finding_json(damage: DamageReport, finding: Finding) -> Iterator[dict[str, object]]:
    owner = finding.parts[0]
    for number in numbers(finding.backups):
        near = [{"backup": damage.slots[at].id} for at in finding.whole_near(number)]
        copies = [{"pack": pack.hex()} for pack in finding.fault.copies]
        yield {
            "backup": damage.slots[number].id,
            "dogu": None if owner in _NO_DOGUS else show(owner),
            **for_json(b"/".join(finding.parts), "path"),
            "reason": finding.fault.reason,
            "lost": finding.fault.is_loss,
            "intact_in": near or copies,
        }


def _unknown_json(snapshot: str) -> dict[str, object]:
    return {
        "backup": None,
        "dogu": None,
        "path": None,
        "reason": _unknown_reason(snapshot),
        "lost": True,
        "intact_in": [],
    }


def _unknown_reason(snapshot: str) -> str:
    return f"snapshot {snapshot[:8]} cannot be read, and no manifest names it"


def check_text(result: CheckResult, *, read_data: bool, available: int | None) -> str:
    """Return restic's messages, the damaged paths, and what is whole."""
    if result.is_ok:
        return "No errors were found" + (
            ".\n" if read_data else "; --read-data reads the data itself, too.\n"
        )
    parts = [humanize.lines(result.errors)]
    damage = result.damage
    if damage is not None:
        lost = [finding for finding in damage.findings if finding.fault.is_loss]
        copied = [finding for finding in damage.findings if not finding.fault.is_loss]
        unlisted = damage.total - damage.listed
        parts += [
            _section("Damaged:", damage, lost, unlisted),
            _section("Damaged, but readable from a copy in another pack:", damage, copied, 0),
            humanize.lines(f"{_unknown_reason(name)}." for name in damage.unknown),
            _backups_text(damage, available),
        ]
    return "\n".join(filter(None, parts))


def _section(heading: str, damage: DamageReport, findings: Sequence[Finding], unlisted: int) -> str:
    if not findings:
        return ""
    lines = [heading]
    for finding in findings[:_SHOWN]:
        lines += [
            "/".join(map(show, finding.parts)),
            f"  in {_backups(damage, finding.backups)}: {finding.fault.reason}",
        ]
        if finding.fault.is_loss:
            lines.append(f"  whole in {_near(damage, finding)}")
    more = sum(finding.backups.bit_count() for finding in findings[_SHOWN:]) + unlisted
    if more:
        lines.append(f"and {humanize.count(more, 'path')} more (--json lists up to 10,000)")
    return humanize.lines(lines)


def _backups(damage: DamageReport, mask: int) -> str:
    """Return one backup, or the number of backups and the first and last of them."""
    found = list(numbers(mask))
    first, last = (_name(damage.slots[at]) for at in (found[0], found[-1]))
    return first if len(found) == 1 else f"{len(found):,} backups, {first} to {last}"


def _name(slot: Slot) -> str:
    return "no backup" if slot.id is None else slot.id


def _near(damage: DamageReport, finding: Finding) -> str:
    near = sorted({at for number in numbers(finding.backups) for at in finding.whole_near(number)})
    if not near:
        return "no other backup"
    more = ", …" if len(near) > _NEAR else ""
    return ", ".join(_name(damage.slots[at]) for at in near[-_NEAR:]) + more


def _backups_text(damage: DamageReport, available: int | None) -> str:
    """Return a line for each damaged backup, and how many are whole."""
    backups = [slot for slot in damage.slots if slot.id is not None]
    damaged = [slot for slot in backups if slot.is_damaged]
    if not damaged:
        return "No backup has lost anything.\n" if backups and not damage.unknown else ""
    rows = [
        (printable(_name(slot)), _names(slot.damaged), _names(slot.whole))
        for slot in damaged[-_SHOWN:]
    ]
    text = fitted(rows, ("Backup", "Damaged", "Whole"), available)
    if len(damaged) > _SHOWN:
        text += f"and {humanize.count(len(damaged) - _SHOWN, 'older backup')} with damage\n"
    whole = len(backups) - len(damaged)
    return f"{text}Whole: {humanize.count(whole, 'other backup')}.\n"


def _names(owners: Iterable[bytes]) -> str:
    return ", ".join(map(show, sorted(owners))) or "-"
