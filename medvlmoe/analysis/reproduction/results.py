"""``results.json``: what each cell (data set x model x seed) of a reproduction came to; tables and figures read it."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlmoe.errors import CheckpointError
from medvlmoe.files import read_json, write_json
from medvlmoe.training.evaluation import Evaluation
from medvlmoe.training.predictions import Predictions, load_predictions

RESULTS = "results.json"
JOINT, JOINT_NEUTRAL = "joint", "joint_neutral"
"""Data sets of the cells that train one model on all sites, with their own prompts and with one neutral prompt."""

FINISHED, FAILED = "finished", "failed"


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One cell of the grid.

    Attributes:
        dataset: name of the site in ``data.sites``; ``joint`` and ``joint_neutral`` are all sites pooled.
        kind: layout of its files (``chestxray14``, …, ``manifest``); empty for the joint cells.
        model: name of the model in the grid, such as ``medvlmoe``, ``convirt``, ``no_fusion``.
        seed: the run's seed.
        status: ``finished`` or ``failed``.
        reason: one line on why it failed.
        folder: its run folder, relative to the folder of ``results.json``.
        identity: hash of the resolved configuration, the data and the code.
        sites: test metrics by site, as in ``summary.json``; a single site except for the joint cells.
        policies: how labels and text were read: ``split``, ``uncertain``, ``blank``, ``text``, ``views``, …
        cost: parameters, active parameters and FLOPs of one sample.
        stamps: LEAKY, SUBSET, PHANTOM.
        seconds: computing time of the cell.
    """

    dataset: str
    kind: str
    model: str
    seed: int
    status: str
    reason: str = ""
    folder: str = ""
    identity: str = ""
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    stamps: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def evaluation(self) -> Evaluation | None:
        """Test metrics of a cell of one site; ``None`` if it failed or has several."""
        entry = self.sites.get(self.dataset)
        return None if entry is None else Evaluation.from_dict(entry)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A paired test between two models of one table on one data set.

    Attributes:
        table: ``table1`` or ``table2``.
        dataset: the data set.
        first: the whole model.
        second: the other.
        test: fields of :class:`medvlmoe.analysis.reproduction.paired.PairedTest`.
        p_adjusted: Holm's p-value among all comparisons of the table.
        family: how many these are.
    """

    table: str
    dataset: str
    first: str
    second: str
    test: dict[str, float]
    p_adjusted: float
    family: int


@dataclass(frozen=True, kw_only=True)
class Results:
    """All cells of a reproduction.

    Attributes:
        command: the command line that made them.
        preset: ``tiny``, ``small`` or ``paper``.
        protocol: the training choices of the preset, for the table's caption.
        cells: in the order of the grid.
        comparisons: paired tests between models.
        intervals: data set -> model -> 95 % bootstrap interval over patients of the AUC averaged over the seeds.
        root: folder of ``results.json``; the cells' folders are relative to it. Not part of the file.
    """

    command: str
    preset: str
    protocol: dict[str, Any]
    cells: list[CellResult]
    comparisons: list[Comparison] = field(default_factory=list)
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    root: Path = Path()

    def finished(self, dataset: str, model: str) -> list[CellResult]:
        """The finished cells of a data set and model, by seed."""
        found = [c for c in self.cells if c.dataset == dataset and c.model == model and c.status == FINISHED]
        return sorted(found, key=lambda cell: cell.seed)

    def datasets(self) -> list[str]:
        """Data sets of a site each, in the order of the grid."""
        return list(dict.fromkeys(cell.dataset for cell in self.cells if cell.kind))

    def models(self, dataset: str | None = None) -> list[str]:
        """Models in the order of the grid, of one data set if it is given."""
        return list(dict.fromkeys(c.model for c in self.cells if dataset in (None, c.dataset)))

    def folder(self, cell: CellResult) -> Path:
        """The cell's run folder."""
        return Path(os.path.normpath(self.root / cell.folder))  # also where ``root`` itself is not there yet

    def predictions(self, cell: CellResult, site: str | None = None) -> Predictions:
        """The cell's scores on a test split, by default of its own site.

        Raises:
            CheckpointError: they are not there.
        """
        return load_predictions(self.folder(cell) / "predictions" / f"{site or cell.dataset}.safetensors")

    def checkpoint(self, cell: CellResult) -> Path:
        """The trained model; only cells of the full model and those of the joint runs keep theirs."""
        checkpoints = self.folder(cell) / "checkpoints"
        return checkpoints / ("" if not cell.kind else cell.dataset) / "final.safetensors"


def write_results(results: Results) -> Path:
    """Write ``results.json`` into ``results.root``, atomically."""
    values = dataclasses.asdict(results)
    del values["root"]
    path = results.root / RESULTS
    write_json(path, values)
    return path


def read_results(folder: Path) -> Results:
    """Read ``results.json`` of a folder.

    Raises:
        CheckpointError: it is missing or is not a file of results.
    """
    path = folder / RESULTS
    values = read_json(path)
    try:
        cells = [CellResult(**cell) for cell in values["cells"]]
        comparisons = [Comparison(**comparison) for comparison in values["comparisons"]]
        return Results(**{**values, "cells": cells, "comparisons": comparisons, "root": folder})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a file of results: {error}; run the reproduction again") from error


def seeds_of(cells: Sequence[CellResult]) -> list[int]:
    """Seeds of some cells, each once, in order."""
    return sorted({cell.seed for cell in cells})
