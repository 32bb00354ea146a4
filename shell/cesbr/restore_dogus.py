"""The dogus whose volumes a restore or an undo writes to: which run, and which are stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cesbr.safeguards import dogu_control, running_dogus
from cesbr.ui import humanize
from cesbrfs.ces.dogu_control import dogus_of
from cesbrfs.restore.plan import PlannedDirectory
from cesbrfs.util.escape import printable

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.restore import RestorePlan
    from cesbrfs.restore.undo_report import UndoPlan


@dataclass(frozen=True, slots=True)
class AffectedDogus:
    """The dogus whose volumes are written: all, those that run, and whether they are stopped."""

    names: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    stop: bool = False

    @property
    def to_stop(self) -> Sequence[str]:
        """The dogus to stop if they are running."""
        return self.names if self.stop else ()

    @property
    def warnings(self) -> list[str]:
        """A warning for each running dogu that is not stopped, one or two sentences each."""
        return [
            f"The dogu {printable(name)} is running while its files are replaced. Stop it first, or"
            " pass --stop-dogu."
            for name in ([] if self.stop else self.running)
        ]

    def as_json(self) -> dict[str, object]:
        """Return the fields for the plan of a restore or an undo."""
        return {"running": list(self.running), "stops": list(self.running if self.stop else ())}

    def text(self) -> str:
        """Return lines for the plan."""
        lines = [f"Warning: {warning}" for warning in self.warnings]
        if self.stop and self.running:
            names = printable(", ".join(self.running))
            lines.append(f"Stops, and starts again: {names}")
        return humanize.lines(lines)


async def affected(
    context: Context, plan: RestorePlan | UndoPlan, *, in_place: bool, stop: bool
) -> AffectedDogus:
    """Return the dogus to whose volumes `plan` writes; none if it is not in place.

    With `stop`, raises UsageError if the command lines are not configured.
    """
    from cesbrfs.restore.undo_report import UndoPlan

    if not in_place:
        return AffectedDogus()
    if stop:
        dogu_control(await context.session.settings()).require()
    paths = _undone(plan) if isinstance(plan, UndoPlan) else _written(plan)
    names = dogus_of(paths)
    return AffectedDogus(tuple(names), tuple(await running_dogus(context, names)), stop)


def _written(plan: RestorePlan) -> Iterator[bytes]:
    for item in plan.items():
        if isinstance(item, PlannedDirectory):
            if not item.exists:
                yield item.path
        elif item.writes:
            yield item.path
    for closed in plan.closed:
        yield closed.path
    for extra in plan.extras:
        yield extra.path


def _undone(plan: UndoPlan) -> Iterator[bytes]:
    files = [one.parts for one in plan.put_back] + [one.parts for one in plan.remove]
    for parts in (*files, *plan.recreate, *plan.directories):
        yield b"/".join(parts)
