"""Run one cell, or find that it is finished."""

import contextlib
import dataclasses
import fcntl
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvlmoe.analysis.card.write import say_that_weights_go
from medvlmoe.baselines.pretraining import CHECKPOINT as PRETRAINING_CHECKPOINT
from medvlmoe.errors import CheckpointError
from medvlmoe.files import TensorFile
from medvlmoe.model.costs import ModelCost, measure_cost
from medvlmoe.run_folder import RunFolder
from medvlmoe.training.fit import BEST_CHECKPOINT, LAST_CHECKPOINT
from simulation.alone import new_model, run_alone, run_centralized
from simulation.reproduction.cell import Cell
from simulation.reproduction.code_version import code_version
from simulation.sites import SimulatedSites, open_sites

logger = logging.getLogger(__name__)

_SAMPLES = 8  # that costs are averaged over


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and test as the cell says; if part of it is done, go on there, and if all of it, only read.

    ``summary.json`` is the last thing written. With the cell's identity in it, the cell is finished, and its results
    are never touched again.

    Returns:
        The summary.

    Raises:
        ConfigError, DataError, CheckpointError: as the run does.
    """
    with _alone(cell.folder):
        summary = cell.summary()
        if summary is None:
            summary = _run(cell)
        remove_leftovers(cell)
        _remove_weights(cell)
    return summary


def remove_leftovers(cell: Cell) -> None:
    """Of a finished cell: the state to go on training, which a kill in its last moment has left there."""
    for name in (LAST_CHECKPOINT, PRETRAINING_CHECKPOINT, BEST_CHECKPOINT):
        with contextlib.suppress(OSError):
            (cell.weights.parent / name).unlink()


def _run(cell: Cell) -> dict[str, Any]:
    if cell.folder.exists() and not (cell.folder / "run.json").exists():
        shutil.rmtree(cell.folder)  # killed while it was made: nothing is in it
    sites = open_sites(cell.config)
    epochs = cell.config.training.epochs
    if cell.is_joint:
        summary = run_centralized(cell.config, sites, epochs)
    else:
        summary = run_alone(cell.config.mode, cell.config, sites, epochs)
    summary = {
        **summary,
        "left_out": sites.left_out(),
        "cost": dataclasses.asdict(_cost(cell, sites)),
        "cell": {
            "dataset": cell.dataset,
            "model": cell.model,
            "seed": cell.seed,
            "identity": cell.identity,
            "code": code_version(),
        },
    }
    RunFolder(cell.folder, "").write_summary(summary)
    return summary


def _cost(cell: Cell, sites: SimulatedSites) -> ModelCost:
    """Parameters and operations of the trained model on the first test samples."""
    model = new_model(cell.config.mode, cell.config, sites)
    if cell.weights.exists():
        model.load_state_dict(dict(TensorFile(cell.weights)))
    test = next(iter(sites.split("test").values()))
    return measure_cost(model, [test[row] for row in range(min(_SAMPLES, len(test)))])


def _remove_weights(cell: Cell) -> None:
    """Weights that nobody asked for."""
    if not cell.keeps_weights and cell.weights.exists():
        say_that_weights_go(cell.weights.parent)
        with contextlib.suppress(OSError):
            cell.weights.unlink()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else works on this folder; waits for whoever does. The system frees the lock when its owner dies."""
    path = folder.with_name(f"{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}; choose another output.root") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: another process works on it; waiting", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
