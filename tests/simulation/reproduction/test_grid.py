"""The grid with real processes; the cells in it are not there to be trained."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from medvlmoe.configuration import compose
from simulation.reproduction.cell import Cell
from simulation.reproduction.grid import Event, _Grid, run_grid
from simulation.reproduction.worker import Worker
from strategies.run_config import RunConfig


def cells(root: Path, count: int, *arguments: str) -> list[Cell]:
    """Cells whose data are not there, so that each fails in a moment."""
    config = compose(RunConfig, ["model=tiny", "data=phantom", f"data.root={root}/nowhere", *arguments])
    return [
        Cell(
            dataset=f"site{number}", model="medvlmoe", seed=0, identity=str(number),
            config=replace(config, output=replace(config.output, root=str(root), name=f"cells/{number}")),
        )
        for number in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_time_left_is_shared_among_the_jobs(jobs: int, tmp_path: Path) -> None:
    told: list[Event] = []
    grid = _Grid([replace(cell, dataset="site") for cell in cells(tmp_path, 10)], jobs, told.append)
    begun = list(grid.waiting.values())[:jobs]
    for cell in begun:
        grid.begin(cell)
    grid._began |= {cell.identity: grid._began[cell.identity] - 10 for cell in begun}  # 10 seconds ago
    grid.end(begun[0], "")
    # The others that run are about to end too; each of those that wait takes another 10 seconds.
    assert told[-1].left == pytest.approx(10 * (10 - jobs) / jobs, abs=0.2)


def test_what_needs_a_cell_that_failed_fails_with_it(tmp_path: Path) -> None:
    first, second = cells(tmp_path, 2)
    told: list[Event] = []
    reasons = run_grid([first, replace(second, needs=first.identity)], 2, told.append)
    assert "no such folder" in reasons["0"] and reasons["1"] == "the model that it starts from failed"
    assert [(event.done, event.failed, event.total) for event in told] == [(1, 1, 2), (2, 2, 2)]


def test_a_process_that_dies_while_it_waits_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's out-of-memory killer may choose one that has nothing to do."""
    outcome, killed = Worker.outcome, []

    def outcome_and_death(worker: Worker):
        found = outcome(worker)
        if not killed:
            killed.append(worker._process.pid)
            os.kill(worker._process.pid, signal.SIGKILL)
            worker._process.join()
        return found

    monkeypatch.setattr(Worker, "outcome", outcome_and_death)
    reasons = run_grid(cells(tmp_path, 2), 1, lambda event: None)
    assert killed and all("no such folder" in reason for reason in reasons.values())


def test_a_cell_may_start_processes_of_its_own(tmp_path: Path, phantom_root: Path) -> None:
    (cell,) = cells(tmp_path, 1, "training.workers=1", "training.epochs=1", "training.bootstrap_resamples=0",
                    "data.leak_audit.action=skip")  # fmt: skip
    data = replace(cell.config.data, root=str(phantom_root), cache=str(tmp_path / "cache"))
    data = replace(data, sites={"retinamnist": data.sites["retinamnist"]})
    cell = replace(cell, dataset="retinamnist", config=replace(cell.config, mode="local", data=data))
    assert run_grid([cell], 1, lambda event: None) == {}
    assert cell.summary() is not None


def test_what_a_kill_in_the_last_moment_left_is_removed(tmp_path: Path) -> None:
    """A checkpoint is three times the model; a finished cell would keep it for ever."""
    (cell,) = cells(tmp_path, 1)
    checkpoints = cell.weights.parent
    checkpoints.mkdir(parents=True)
    for name in ("last", "best", "pretraining", "final"):
        (checkpoints / f"{name}.safetensors").write_bytes(b"weights")
    (cell.folder / "summary.json").write_text('{"cell": {"identity": "0"}}')
    assert run_grid([cell], 1, lambda event: None) == {}
    assert [path.name for path in checkpoints.iterdir()] == ["final.safetensors"], "a model that was kept stays"
