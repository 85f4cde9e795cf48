"""The grid: cells in processes of their own, what is finished found again, failures reported and the rest finished."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait

from simulation.reproduction.cell import Cell
from simulation.reproduction.run_cell import remove_leftovers
from simulation.reproduction.worker import Outcome, Worker


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to tell about a grid that runs.

    Attributes:
        cell: the cell that is done.
        reason: one line on why it failed; empty if it is finished.
        found: whether it was finished before.
        done: cells done so far, of which ``failed`` failed.
        failed: see ``done``.
        total: all cells.
        seconds: time of the cell.
        left: seconds until the end, estimated; ``None`` as long as nothing has been computed.
    """

    cell: Cell
    reason: str
    found: bool
    done: int
    failed: int
    total: int
    seconds: float
    left: float | None


def run_grid(cells: Sequence[Cell], jobs: int, tell: Callable[[Event], None]) -> dict[str, str]:
    """Run what is not finished.

    Args:
        cells: in the order to run them; one that needs another comes after it.
        jobs: cells at once.
        tell: called once for each cell, when it is done.

    Returns:
        Reason by identity, for the cells that failed.
    """
    grid = _Grid(cells, jobs, tell)
    for cell in cells:
        summary = cell.summary()
        if summary is not None:
            remove_leftovers(cell)
            grid.done(cell, "", found=True, seconds=float(summary.get("seconds", 0.0)))
    workers: list[Worker] = []
    try:
        while grid.waiting or any(worker.cell for worker in workers):
            grid.fail_the_dependent()
            workers = [worker for worker in workers if worker.cell is not None or worker.is_alive()]
            idle = [worker for worker in workers if worker.cell is None]
            while (ready_cell := grid.next_ready()) is not None and (idle or len(workers) < jobs):
                if not idle:
                    workers.append(Worker(_threads(jobs)))
                    idle = [workers[-1]]
                idle.pop().start(ready_cell)
                grid.begin(ready_cell)
            busy = [worker for worker in workers if worker.cell is not None]
            if not busy:
                continue
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                ended, outcome = worker.cell, worker.outcome()
                assert ended is not None
                if outcome is None:
                    workers.remove(worker)
                    outcome = Outcome(worker.exit_words())
                grid.end(ended, outcome.reason)
    finally:
        for worker in workers:
            worker.stop()
    return grid.reasons


def _threads(jobs: int) -> int | None:
    """Threads of a process: the cores shared out, since two processes of all cores each wait for each other."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // jobs if hasattr(os, "sched_getaffinity") else 1)


class _Grid:
    """What is waiting, running and done, and how long the rest will take."""

    def __init__(self, cells: Sequence[Cell], jobs: int, tell: Callable[[Event], None]) -> None:
        self.total = len(cells)
        self._jobs = jobs
        self.waiting = {cell.identity: cell for cell in cells}
        self.reasons: dict[str, str] = {}
        self._tell = tell
        self._finished: set[str] = set()
        self._began: dict[str, float] = {}
        self._seconds: dict[tuple[str, str], list[float]] = {}
        self._computed = False
        self._running: dict[str, Cell] = {}

    def next_ready(self) -> Cell | None:
        """The first waiting cell whose need is finished."""
        for cell in self.waiting.values():
            if cell.needs is None or cell.needs in self._finished:
                return cell
        return None

    def begin(self, cell: Cell) -> None:
        del self.waiting[cell.identity]
        self._running[cell.identity] = cell
        self._began[cell.identity] = time.monotonic()

    def end(self, cell: Cell, reason: str) -> None:
        del self._running[cell.identity]
        self._computed = True
        self.done(cell, reason, found=False, seconds=time.monotonic() - self._began[cell.identity])

    def done(self, cell: Cell, reason: str, *, found: bool, seconds: float) -> None:
        self.waiting.pop(cell.identity, None)
        if reason:
            self.reasons[cell.identity] = reason
        else:
            self._finished.add(cell.identity)
            self._seconds.setdefault((cell.dataset, cell.model), []).append(seconds)
        self._tell(
            Event(
                cell=cell,
                reason=reason,
                found=found,
                done=len(self._finished) + len(self.reasons),
                failed=len(self.reasons),
                total=self.total,
                seconds=seconds,
                left=self._left(),
            )
        )

    def fail_the_dependent(self) -> None:
        """A cell whose need failed, or is nowhere in the grid, cannot run."""
        for cell in list(self.waiting.values()):
            known = cell.needs is None or cell.needs in self._finished or cell.needs in self.waiting
            if not known and cell.needs not in self._running:
                reason = (
                    "the model that it starts from failed" if cell.needs in self.reasons else "its start is missing"
                )
                self.done(cell, reason, found=False, seconds=0.0)

    def _left(self) -> float | None:
        """Expected seconds of what waits and runs, by what the same data set and model took, else the same data set."""
        if not self._computed and not self._seconds:
            return None
        running, now = list(self._running.values()), time.monotonic()
        left = sum(self._expected(cell) for cell in self.waiting.values())
        left += sum(max(0.0, self._expected(cell) - (now - self._began[cell.identity])) for cell in running)
        # The cell that has just ended runs no more, but the next one will in its place.
        return left / max(1, min(self._jobs, len(self.waiting) + len(running)))

    def _expected(self, cell: Cell) -> float:
        same = self._seconds.get((cell.dataset, cell.model))
        alike = [s for (dataset, _), known in self._seconds.items() if dataset == cell.dataset for s in known]
        every = [s for known in self._seconds.values() for s in known]
        known = same or alike or every
        return sum(known) / len(known) if known else 0.0
