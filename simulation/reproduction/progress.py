"""What a grid that runs tells its user: a line for each cell, with the time left."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from simulation.reproduction.cell import Cell
from simulation.reproduction.grid import Event


@contextmanager
def told(cells: Sequence[Cell]) -> Iterator["Teller"]:
    """Lines on standard error; on a terminal a bar below them."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not sys.stderr.isatty():
        yield Teller(console, None)
        return
    columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        teller = Teller(console, progress)
        teller.task = progress.add_task("", total=len(cells))
        yield teller


class Teller:
    """Tells of each :class:`~simulation.reproduction.grid.Event`."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self._console, self._progress = console, progress
        self.task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        """One line: what is done, what it came to, how long the rest will take."""
        if not event.found:
            self._console.print(line_of(event), markup=False)
        if self._progress is not None and self.task is not None:
            self._progress.update(self.task, completed=event.done, description=left_words(event.left))


def line_of(event: Event) -> str:
    """``[3/90] pathmnist convirt seed 0: AUC 0.931, 41 s; 58 min left``."""
    if event.reason:
        came_to = f"FAILED: {event.reason}"
    else:
        summary = event.cell.summary() or {}
        mean = summary.get("mean_auc")
        came_to = f"AUC {'undefined' if mean is None else f'{mean:.3f}'}, {event.seconds:.0f} s"
    left = "" if event.done == event.total or event.left is None else f"; {left_words(event.left)}"
    return f"[{event.done}/{event.total}] {event.cell.name}: {came_to}{left}"


def left_words(seconds: float | None) -> str:
    """The time left, for people."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min left"
    return f"{seconds / 3600:.1f} h left"
